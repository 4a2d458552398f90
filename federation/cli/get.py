"""fedctl get: clusters, links, services, endpoints and gateways, as the registry and the agents know them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.cli.clients import agent, from_agents, home_of, operator
from federation.cli.completion import known_clusters
from federation.cli.output import Format, OutputOption, Printer
from federation.cli.text import age, timestamp
from federation.model import wire
from federation.model.address import join_address
from federation.model.service import Import, Port

if TYPE_CHECKING:
    from federation.proto.v1 import records_pb2

app = typer.Typer(no_args_is_help=True, help="Lists of what there is.")


@app.command("clusters", epilog="Example: fedctl get clusters -o json")
def clusters(context: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """The members of the federation."""

    async def ask() -> list[dict[str, Any]]:
        async with operator(context) as registry:
            reply = await registry.clusters()
        now = time.time_ns()
        return [
            {
                "name": c.name,
                "state": c.state,
                "region": c.locality.region,
                "zone": c.locality.zone,
                "services": c.services,
                "gateways": c.gateways,
                "seen": timestamp(c.last_seen_ns) if output is not Format.TABLE else age(c.last_seen_ns, now),
                "trust_domain": c.trust_domain,
                "fingerprint": c.bundle_fingerprint,
                "version": c.agent_version,
                "problems": _problems(c.problems, output),
            }
            for c in reply
        ]

    Printer(output).rows(
        ("name", "state", "region", "zone", "services", "gateways", "seen", "version", "problems"),
        asyncio.run(ask()),
        empty="no clusters yet: fedctl token issue CLUSTER, then fedctl cluster join CLUSTER …",
    )


@app.command("links", epilog="Example: fedctl get links")
def links(context: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """Which clusters see each other's exports."""

    async def ask() -> list[dict[str, Any]]:
        async with operator(context) as registry:
            reply = await registry.links()
        return [
            {
                "a": info.link.a,
                "b": info.link.b,
                "state": info.state,
                "detail": info.detail,
                "grants": [f"{g.origin}:{g.namespace}/{g.service}" for g in info.link.grants] or ["*/*"],
                "created": timestamp(info.link.created_ns),
            }
            for info in reply
        ]

    Printer(output).rows(
        ("a", "b", "state", "grants", "created", "detail"), asyncio.run(ask()), empty="no links yet: fedctl link A B"
    )


@app.command("services", epilog="Example: fedctl get services --cluster west")
def services(
    context: typer.Context,
    cluster: Annotated[str, typer.Option(help="Only of this cluster.", autocompletion=known_clusters)] = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """What the clusters export."""

    async def ask() -> list[dict[str, Any]]:
        async with operator(context) as registry:
            reply = await registry.services()
        rows = []
        for info in reply:
            if cluster and info.cluster != cluster:
                continue
            service = wire.service_from_pb(info.service)
            rows.append(
                {
                    "cluster": info.cluster,
                    "service": str(service.name),
                    "ports": [_port(p) for p in service.ports],
                    "ready": service.ready,
                    "headless": service.headless,
                    "to": [g.consumer for g in service.grants] or ["*"],
                }
            )
        return sorted(rows, key=lambda r: (r["service"], r["cluster"]))

    Printer(output).rows(
        ("service", "cluster", "ports", "ready", "to"),
        asyncio.run(ask()),
        empty="nothing is exported: fedctl export NAMESPACE/SERVICE --cluster CLUSTER",
    )


@app.command("gateways", epilog="Example: fedctl get gateways")
def gateways(context: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """The east-west gateways, and where peers reach them."""

    async def ask() -> list[dict[str, Any]]:
        async with operator(context) as registry:
            reply = await registry.gateways()
        return [
            {
                "cluster": info.cluster,
                "name": info.gateway.name,
                "address": join_address(info.gateway.address, info.gateway.port),
                "zone": info.gateway.locality.zone,
                "state": "draining" if info.gateway.draining else "stale" if info.stale else "live",
            }
            for info in reply
        ]

    Printer(output).rows(
        ("cluster", "name", "address", "zone", "state"),
        asyncio.run(ask()),
        empty="no gateway is known: start one with `isthmus-gateway --settings FILE`",
    )


@app.command("sidecars", epilog="Examples: fedctl get sidecars; fedctl get sidecars --cluster east -o json")
def sidecars(
    context: typer.Context,
    cluster: Annotated[str, typer.Option(help="Only of this cluster.", autocompletion=known_clusters)] = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """The sidecars that are known to the agents: version and skew against the agent's, and what they have taken up."""
    from federation.cli import replicas
    from federation.cli import sidecars as shown

    home = home_of(context)
    printer = Printer(output)

    async def ask(name: str) -> list[dict[str, Any]]:
        answers = await replicas.ask(home, name, timeout=10.0)
        for line in replicas.unheard(name, answers):
            printer.note(line)
        return shown.rows(name, replicas.served(answers))

    rows = from_agents(home, cluster, ask, printer)
    if output is Format.TABLE:
        rows = [{**row, "problems": sorted({p["code"] for p in row["problems"]})} for row in rows]
    printer.rows(
        ("cluster", "sidecar", "identity", "version", "skew", "sync", "names", "replica", "problems"),
        rows,
        empty="no sidecar is known: label a namespace isthmus.io/inject=enabled, or see fedctl inject --help",
    )


@app.command("endpoints", epilog="Example: fedctl get endpoints --from east --service shop/echo")
def endpoints(
    context: typer.Context,
    seen_from: Annotated[
        str, typer.Option("--from", help="Only as this cluster sees them.", autocompletion=known_clusters)
    ] = "",
    service: Annotated[str, typer.Option(help="Only of this NAMESPACE/SERVICE.")] = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """The copies of each imported service as a cluster sees them: local ones one by one, others by zone.

    A copy with an identity is reached by mutual TLS; others of the own cluster in plain text.
    """
    home = home_of(context)
    printer = Printer(output)

    async def ask(name: str) -> list[dict[str, Any]]:
        async with agent(home, name) as client:
            reply = await client.listed()
        sources = {
            f"{of.namespace}/{of.name}": {one.address: one.source for one in of.endpoints} for of in reply.sources
        }
        return [row for i in reply.imports for row in _endpoints(name, wire.import_from_pb(i), sources)]

    rows = from_agents(home, seen_from, ask, printer)
    printer.rows(
        ("from", "service", "cluster", "source", "zone", "address", "ready", "identity"),
        [r for r in rows if not service or r["service"] == service],
        empty="no imports: link the cluster with one that exports something",
    )


def _endpoints(seen_from: str, value: Import, sources: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """`sources`: service → address → where the own cluster's endpoint was read."""
    rows = []
    known = sources.get(str(value.name), {})
    for backend in value.backends:
        common = {"from": seen_from, "service": str(value.name), "cluster": backend.cluster, "stale": backend.stale}
        rows += [
            {
                **common,
                "source": known.get(e.address, "") if backend.local else "",
                "zone": e.locality.zone,
                "address": e.address,
                "ready": int(e.ready and not e.terminating),
                "identity": e.identity,
            }
            for e in backend.endpoints
        ]
        if not backend.endpoints:
            rows += [
                {
                    **common,
                    "source": "",
                    "zone": r.locality.zone,
                    "address": "gateway",
                    "ready": r.ready,
                    "identity": "",
                }
                for r in backend.readiness
            ]
    return rows


def _port(port: Port) -> str:
    return f"{port.port}/{port.app.value}"


def _problems(given: Iterable[records_pb2.Problem], output: Format) -> list[Any]:
    """What a cluster said last of what it cannot use: codes for people, whom `fedctl status` tells the rest."""
    if output is Format.TABLE:
        return sorted({p.code for p in given})
    return [{"code": p.code, "subject": p.subject, "detail": p.detail} for p in given]
