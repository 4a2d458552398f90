"""fedctl resolve: what a global name means from one cluster, and who would answer in which order."""

from __future__ import annotations

import asyncio
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
    backends: list[dict[str, Any]] = [
        {"priority": b.priority, "cluster": b.cluster, "ready": b.ready, "address": b.address, "state": b.state}
        for b in reply.backends
    ]
    printer = Printer(output)
    if output is not Format.TABLE:
        printer.item(
            {
                "name": name,
                "service": f"{service.namespace}/{service.name}",
                "ips": list(service.ips),
                "ports": [p.port for p in service.ports],
                "backends": backends,
                "conflicts": [{"reason": c.field, "detail": c.detail} for c in service.conflicts],
            },
            line="",
        )
        return
    ports = ", ".join(str(p.port) for p in service.ports)
    printer.note(
        f"{name} is {service.namespace}/{service.name}, ClusterSetIP {', '.join(service.ips) or '-'}, ports {ports}"
    )
    for conflict in service.conflicts:
        printer.note(f"{conflict.field}: {conflict.detail}")
    printer.rows(
        ("priority", "cluster", "ready", "address", "state"),
        backends,
        empty="no cluster offers it now",
    )


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("resolve", epilog="Example: fedctl resolve echo.shop.global --from east")(resolve)
