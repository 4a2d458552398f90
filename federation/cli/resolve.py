"""fedctl resolve: what a global name means from one cluster, and who would answer in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from federation.cli.clients import agent
from federation.cli.completion import known_clusters
from federation.cli.output import Format, OutputOption, Printer
from federation.proto.v1 import agent_pb2 as pb


def resolve(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A global name, for example echo.shop.global.")],
    seen_from: Annotated[str, typer.Option("--from", help="The cluster that asks.", autocompletion=known_clusters)],
    output: OutputOption = Format.TABLE,
) -> None:
    """Explain a global name: its address, and its copies in the order in which they are used."""

    async def ask() -> pb.ResolveReply:
        async with agent(context, seen_from) as client:
            return await client.resolve(name)

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
