"""fedctl export and unexport: what a cluster offers to the clusters that it is linked with.

With --dry-run nothing is written: what is known is gathered from the exporting cluster's agent, from the registry where
this person may ask it, and from the agents of consumers that run here; federation.cli.preview judges it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.cli.clients import agent, home_of, operator
from federation.cli.completion import known_clusters
from federation.cli.home import Home
from federation.cli.output import Format, OutputOption, Printer
from federation.errors import InvalidInput, IsthmusError
from federation.model.ids import ServiceName, parse_label, parse_port
from federation.model.service import Grant

if TYPE_CHECKING:
    from federation.cli.preview import Dispute, Known, PortSight, Sight

PATIENCE = 3.0
"""Seconds for the registry and for each consumer's agent: a preview is worth something without them, too."""

_RULES = {
    "link": "the link shows all",
    "export_grant": "export's grant",
    "link_grant": "link's grant",
    "export_and_link_grant": "export's and link's grant",
    "no_link": "no link",
    "protocol": "protocol not carried",
    "conflict": "port name taken",
    "withdrawn": "withdrawn",
}


def parse_consumer(text: str) -> Grant:
    """From "CLUSTER[:PORT,…]" or "*"; raises InvalidInput."""
    name, _, ports = text.partition(":")
    if name != "*":
        parse_label(name, what="cluster")
    try:
        return Grant(name, tuple(parse_port(int(port), what="port") for port in ports.split(",") if port))
    except ValueError:
        raise InvalidInput(f"--to {text[:80]!r}: ports are numbers", hint="for example --to west:8080,9090") from None


def parse_consumers(texts: Iterable[str]) -> list[Grant]:
    """As they come back from where they are kept: one grant for each consumer, sorted. Raises InvalidInput."""
    ports: dict[str, set[int] | None] = {}
    for grant in map(parse_consumer, texts):
        held = ports.setdefault(grant.consumer, set())
        ports[grant.consumer] = {*held, *grant.ports} if held is not None and grant.ports else None
    return [Grant(consumer, tuple(sorted(numbers or ()))) for consumer, numbers in sorted(ports.items())]


DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show who would see what, or lose it, and write nothing.")
]
ClusterOption = Annotated[
    str, typer.Option("--cluster", "--from", help="The cluster that has it.", autocompletion=known_clusters)
]


def export(
    context: typer.Context,
    service: Annotated[str, typer.Argument(metavar="NAMESPACE/SERVICE", help="The Service to offer.")],
    cluster: ClusterOption,
    to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLUSTER[:PORTS]",
            help="Only for this cluster, or these ports of it; repeatable; default: all linked, all ports.",
            autocompletion=known_clusters,
        ),
    ] = None,
    dry_run: DryRunOption = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Export a Service: linked clusters see it under its global name."""
    name = ServiceName.parse(service)
    grants = parse_consumers(to or [])
    if dry_run:
        show(asyncio.run(look(home_of(context), cluster, name, grants)), Printer(output))
        return

    async def ask() -> tuple[str, bool]:
        async with agent(context, cluster) as client:
            reply = await client.export(name, grants)
            return reply.path, reply.changed

    path, changed = asyncio.run(ask())
    Printer(output).item(
        {"cluster": cluster, "service": str(name), "path": path, "changed": changed},
        line=f"{name} of {cluster} is {'now' if changed else 'already'} exported ({path})",
    )


def unexport(
    context: typer.Context,
    service: Annotated[str, typer.Argument(metavar="NAMESPACE/SERVICE", help="The Service to withdraw.")],
    cluster: ClusterOption,
    dry_run: DryRunOption = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Withdraw a Service from the federation; it goes on working in its own cluster."""
    name = ServiceName.parse(service)
    if dry_run:
        show(asyncio.run(look(home_of(context), cluster, name, None)), Printer(output))
        return

    async def ask() -> tuple[str, bool]:
        async with agent(context, cluster) as client:
            reply = await client.unexport(name)
            return reply.path, reply.changed

    path, changed = asyncio.run(ask())
    Printer(output).item(
        {"cluster": cluster, "service": str(name), "path": path, "changed": changed},
        line=f"{name} of {cluster} is {'no longer' if changed else 'not'} exported",
    )


# --- what would come of it ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What was found out. `peers`: how a linked cluster is, and what to know of that; `namespaces`: cluster → "exists",
    "missing", "created" (with the import), of those that could be asked; `partly`: why something may be missing, empty
    where nothing is."""

    known: Known
    withdraw: bool
    path: str
    changed: bool
    peers: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    namespaces: Mapping[str, str] = field(default_factory=dict)
    partly: str = ""


async def look(home: Home, cluster: str, name: ServiceName, grants: Sequence[Grant] | None) -> Looked:
    """Ask everyone who knows something. Raises what the exporting cluster's agent says; the others may be silent."""
    from federation.cli.preview import Known
    from federation.model import wire

    async with agent(home, cluster) as client:
        reply = await client.preview(name, grants)
    links = {link.name: link for peer in reply.peers for link in [wire.link_from_pb(peer.link)]}
    others = {p.status.cluster: wire.service_from_pb(p.service) for p in reply.peers if p.HasField("service")}
    members: set[str] = set()
    partly = ""
    try:
        async with operator(home, timeout=PATIENCE) as registry:
            infos, linked, offered = await asyncio.gather(registry.clusters(), registry.links(), registry.services())
    except IsthmusError as error:
        partly = f"what other clusters show each other is not known: {error.message}"
    else:
        members = {info.name for info in infos}
        # Its own links the agent knows best: it is the one that acts on them.
        links |= {
            info.link.a + "/" + info.link.b: wire.link_from_pb(info.link) for info in linked if not _at(info, cluster)
        }
        others |= {
            info.cluster: wire.service_from_pb(info.service)
            for info in offered
            if (info.service.namespace, info.service.name) == (name.namespace, name.name)
            and info.cluster != cluster
            and info.cluster not in others
        }
    known = Known(
        origin=cluster,
        name=name,
        before=wire.service_from_pb(reply.before) if reply.HasField("before") else None,
        after=wire.service_from_pb(reply.after) if reply.HasField("after") else None,
        links=tuple(links.values()),
        others=others,
        members=members,
        uncarried=[(port.port, port.protocol) for port in reply.uncarried],
    )
    return Looked(
        known=known,
        withdraw=grants is None,
        path=reply.path,
        changed=reply.changed,
        peers={peer.status.cluster: (peer.status.state, peer.status.detail) for peer in reply.peers},
        namespaces=await _namespaces(home, name.namespace, [peer.status.cluster for peer in reply.peers]),
        partly=partly,
    )


def _at(info: Any, cluster: str) -> bool:
    return cluster in (info.link.a, info.link.b)


async def _namespaces(home: Home, namespace: str, clusters: Iterable[str]) -> dict[str, str]:
    """Of the agents that are known here and answer."""
    found: dict[str, str] = {}

    async def ask(cluster: str) -> None:
        try:
            async with agent(home, cluster, timeout=PATIENCE) as client:
                found[cluster] = await client.namespace(namespace)
        except IsthmusError:
            pass  # not known is an answer, too

    async with asyncio.TaskGroup() as group:
        for cluster in clusters:
            if cluster in home.clusters:
                group.create_task(ask(cluster), name=f"namespace-{cluster}")
    return {cluster: state for cluster, state in found.items() if state != "unknown"}


def show(looked: Looked, printer: Printer) -> None:
    """Print it: a row for each cluster and port, then what else there is to know."""
    from federation.cli.preview import disputes, sights, stray_ports

    known = looked.known
    seen, found = sights(known), disputes(known)
    stray = stray_ports(known.after) if known.after is not None else ()
    if printer.format is not Format.TABLE:
        printer.item(_tree(looked, seen, found, stray), line="")
        return
    does = "withdrawn" if looked.withdraw else "exported"
    if looked.changed:
        printer.note(f"{known.name} of {known.origin} would be {does} ({looked.path}); nothing is written")
    else:
        state = "not exported" if looked.withdraw else f"already exported like this ({looked.path})"
        printer.note(f"{known.name} of {known.origin} is {state}; nothing would be written")
    rows = [row for sight in seen for row in _rows(looked, sight)]
    printer.rows(
        ("cluster", "port", "sees", "rule", "change", "type", "note"),
        rows,
        empty=f"{known.origin} is linked to no cluster: nobody would see it (fedctl link {known.origin} CLUSTER)",
    )
    if seen and not any(sight.linked for sight in seen):
        printer.note(f"{known.origin} is linked to no cluster: nobody sees it (fedctl link {known.origin} CLUSTER)")
    for port, protocol in known.uncarried:
        printer.note(f"port {port}/{protocol} is not carried by gateways and sidecars: they carry TCP")
    for consumer, port in stray:
        printer.note(f"{consumer} is granted port {port}, which {known.name} does not have")
    for dispute in found:
        when = "conflict" if dispute.new else "conflict, now already"
        printer.note(f"{when}: {dispute.reason}: {dispute.detail} (as seen by {', '.join(dispute.at)})")
    if looked.partly:
        printer.note(looked.partly)


def _rows(looked: Looked, sight: Sight) -> list[dict[str, Any]]:
    """What concerns the whole service stands where it is seen, or once where it is not."""
    note = _note(looked, sight)
    if not sight.ports:
        said = {"sees": sight.sees, "rule": _RULES[sight.rule], "change": sight.change.value}
        return [{"cluster": sight.cluster, "port": "", **said, "type": sight.type if sight.sees else "", "note": note}]
    noted = [p for p in sight.ports if p.sees] or sight.ports[:1]
    return [
        {
            "cluster": sight.cluster,
            "port": _port(port),
            "sees": port.sees,
            "rule": _RULES[port.rule],
            "change": port.change.value,
            "type": sight.type if port.sees else "",
            "note": note if port in noted else "",
        }
        for port in sight.ports
    ]


def _port(port: PortSight) -> str:
    return f"{port.port}/{port.protocol}" + (f" {port.name}" if port.name else "")


def _note(looked: Looked, sight: Sight) -> str:
    """What keeps the cluster from using what it sees, and who else offers it there."""
    said = []
    if sight.sees and looked.namespaces.get(sight.cluster) == "missing":
        said.append(f"it has no namespace {looked.known.name.namespace}: no ServiceImport")
    state, detail = looked.peers.get(sight.cluster, ("", ""))
    if sight.sees and state not in ("live", "no gateway"):  # to call others it needs no gateway that is known here
        said.append(f"{state}: {detail}")
    if sight.others and sight.linked:
        said.append(f"{'still ' if looked.withdraw else 'also '}from {', '.join(sight.others)}")
    elif sight.change.value == "loses":
        said.append("its name ends there")
    return "; ".join(said)


def _tree(
    looked: Looked, seen: Sequence[Sight], found: Sequence[Dispute], stray: Sequence[tuple[str, int]]
) -> dict[str, Any]:
    known = looked.known
    return {
        "cluster": known.origin,
        "service": str(known.name),
        "action": "unexport" if looked.withdraw else "export",
        "path": looked.path,
        "would_change": looked.changed,
        "complete": not looked.partly,
        "consumers": [
            {
                "cluster": sight.cluster,
                "linked": sight.linked,
                "sees": sight.sees,
                "rule": sight.rule.value,
                "change": sight.change.value,
                "type": sight.type,
                "namespace": looked.namespaces.get(sight.cluster, "unknown"),
                "state": looked.peers.get(sight.cluster, ("", ""))[0],
                "detail": looked.peers.get(sight.cluster, ("", ""))[1],
                "others": list(sight.others),
                "ports": [
                    {**dataclasses.asdict(port), "rule": port.rule.value, "change": port.change.value}
                    for port in sight.ports
                ],
            }
            for sight in seen
        ],
        "refused_ports": [{"port": port, "protocol": protocol} for port, protocol in known.uncarried],
        "stray_ports": [{"consumer": consumer, "port": port} for consumer, port in stray],
        "conflicts": [{**dataclasses.asdict(dispute), "at": list(dispute.at)} for dispute in found],
    }


def register(app: typer.Typer) -> None:
    """Add the two verbs to `app`."""
    app.command("export", epilog="Example: fedctl export shop/echo --cluster east --to west:8080 --to north --dry-run")(
        export
    )
    app.command("unexport", epilog="Example: fedctl unexport shop/echo --cluster east --dry-run")(unexport)
