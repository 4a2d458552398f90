"""fedctl resolve: what a global name means from one cluster, and who would answer in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from federation.cli.clients import agent, operator
from federation.cli.completion import known_clusters
from federation.cli.output import Format, OutputOption, Printer
from federation.errors import IsthmusError, NotFound
from federation.proto.v1 import agent_pb2 as pb
from federation.proto.v1 import records_pb2


def resolve(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A global name, for example echo.shop.global.")],
    seen_from: Annotated[str, typer.Option("--from", help="The cluster that asks.", autocompletion=known_clusters)],
    output: OutputOption = Format.TABLE,
) -> None:
    """Explain a global name: its address, and its copies in the order in which they are used."""

    async def ask() -> pb.ResolveReply:
        try:
            async with agent(context, seen_from) as client:
                return await client.resolve(name)
        except NotFound as error:
            if error.error_code != NotFound.code:
                raise  # it is not the service that is not found
            raise await _explained(context, error, name, seen_from) from error

    reply = asyncio.run(ask())
    service = getattr(reply, "import")
    percents = shares(reply.backends)
    backends: list[dict[str, Any]] = [
        {
            "priority": b.priority,
            "cluster": b.cluster,
            "source": b.source,
            "ready": b.ready,
            "weight": b.weight,
            "share": round(percent, 1),
            "address": b.address,
            "state": b.state,
        }
        for b, percent in zip(reply.backends, percents, strict=True)
    ]
    parts = by_origin(reply.backends, percents)
    printer = Printer(output)
    if output is not Format.TABLE:
        printer.item(
            {
                "name": name,
                "service": f"{service.namespace}/{service.name}",
                "ips": list(service.ips),
                "ports": [p.port for p in service.ports],
                "backends": backends,
                "shares": parts,
                "conflicts": [{"reason": c.field, "detail": c.detail} for c in service.conflicts],
            },
            line="",
        )
        return
    ports = ", ".join(str(p.port) for p in service.ports)
    printer.note(
        f"{name} is {service.namespace}/{service.name}, ClusterSetIP {', '.join(service.ips) or '-'}, ports {ports}"
    )
    if told := ", ".join(f"{' '.join(filter(None, (p['cluster'], p['source'])))} {p['share']:g}%" for p in parts):
        printer.note(f"calls go to: {told}")
    for conflict in service.conflicts:
        printer.note(f"{conflict.field}: {conflict.detail}")
    printer.rows(
        ("priority", "cluster", "source", "ready", "share", "address", "state"),
        [{**b, "share": f"{b['share']:g}%"} for b in backends],
        empty="no cluster offers it now",
    )


async def _explained(context: typer.Context, error: NotFound, name: str, seen_from: str) -> NotFound:
    """`error` with what only the registry knows: who exports the service all the same."""
    service = _service(name)
    try:
        async with operator(context) as registry:
            exporters = [one.cluster for one in await registry.services() if _named(one.service) == service]
            links = {frozenset((one.link.a, one.link.b)): one for one in await registry.links()}
    except IsthmusError as failure:
        told = f"whether another cluster exports it, only the registry knows: {failure.message}"
        return NotFound(error.message, hint=f"{error.hint}; {told}")
    linked = {name: links.get(frozenset((name, seen_from))) for name in exporters if name != seen_from}
    return elsewhere(error, seen_from, {name: info.state if info is not None else "" for name, info in linked.items()})


def elsewhere(error: NotFound, seen_from: str, exporters: Mapping[str, str]) -> NotFound:
    """`error` of the agent, and which others export the service: cluster → state of the link, empty without one."""
    if strangers := sorted(name for name, state in exporters.items() if not state):
        verb = "exports it and is" if len(strangers) == 1 else "export it and are"
        text = f"{', '.join(strangers)} {verb} not linked to {seen_from}"
        return NotFound(f"{error.message}; {text}", hint=f"fedctl link {seen_from} {strangers[0]}; fedctl get links")
    if exporters:
        name, state = min(exporters.items())
        text = f"{name} exports it, is linked ({state}), and does not show it to {seen_from}"
        return NotFound(
            f"{error.message}; {text}", hint=f"fedctl get links; who sees it: fedctl export --dry-run in {name}"
        )
    return error


def _service(name: str) -> tuple[str, str]:
    """(namespace, name) of a name that an agent has understood (discovery.names)."""
    namespace, slash, service = name.partition("/")
    if slash:
        return namespace, service
    labels = name.lower().split(".")
    return labels[1], labels[0]


def _named(service: records_pb2.Service) -> tuple[str, str]:
    return service.namespace, service.name


def shares(backends: Sequence[pb.ResolvedBackend]) -> list[float]:
    """The share of the calls that each gets now, in percent: all go to the first priority that has any, by weight."""
    first = min((b.priority for b in backends if b.weight), default=0)
    total = sum(b.weight for b in backends if b.priority == first)
    return [100 * b.weight / total if b.weight and b.priority == first else 0.0 for b in backends]


def by_origin(backends: Sequence[pb.ResolvedBackend], percents: Sequence[float]) -> list[dict[str, Any]]:
    """What each cluster has ready and gets, and in the own one each kind of source: what a migration looks like."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    gateways: set[str] = set()
    for backend, percent in zip(backends, percents, strict=True):
        kind = backend.source.partition(" ")[0]
        part = found.setdefault(
            (backend.cluster, kind),
            {"cluster": backend.cluster, "source": kind, "priority": backend.priority, "ready": 0, "share": 0.0},
        )
        # A cluster with several gateways has its ready copies once.
        if kind or not backend.address or backend.cluster not in gateways:
            part["ready"] += backend.ready
        if not kind:
            gateways.add(backend.cluster)
        part["priority"] = min(part["priority"], backend.priority)
        part["share"] += percent
    return [{**part, "share": round(part["share"], 1)} for part in found.values()]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("resolve", epilog="Example: fedctl resolve echo.shop.global --from east")(resolve)
