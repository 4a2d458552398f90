"""fedctl export and unexport: what a cluster offers to the clusters that it is linked with."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from federation.cli.clients import agent
from federation.cli.output import Format, OutputOption, Printer
from federation.errors import InvalidInput
from federation.model.ids import ServiceName, parse_label, parse_port
from federation.model.service import Grant


def parse_consumer(text: str) -> Grant:
    """From "CLUSTER[:PORT,…]" or "*"; raises InvalidInput."""
    name, _, ports = text.partition(":")
    if name != "*":
        parse_label(name, what="cluster")
    try:
        return Grant(name, tuple(parse_port(int(port), what="port") for port in ports.split(",") if port))
    except ValueError:
        raise InvalidInput(f"--to {text[:80]!r}: ports are numbers", hint="for example --to west:8080,9090") from None


def export(
    context: typer.Context,
    service: Annotated[str, typer.Argument(metavar="NAMESPACE/SERVICE", help="The Service to offer.")],
    cluster: Annotated[str, typer.Option(help="The cluster that has it.")],
    to: Annotated[
        list[str] | None,
        typer.Option(metavar="CLUSTER[:PORTS]", help="Only for this cluster; repeatable; default: all linked."),
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Export a Service: linked clusters see it under its global name."""
    name = ServiceName.parse(service)
    grants = [parse_consumer(text) for text in to or []]

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
    cluster: Annotated[str, typer.Option(help="The cluster that has it.")],
    output: OutputOption = Format.TABLE,
) -> None:
    """Withdraw a Service from the federation; it goes on working in its own cluster."""
    name = ServiceName.parse(service)

    async def ask() -> tuple[str, bool]:
        async with agent(context, cluster) as client:
            reply = await client.unexport(name)
            return reply.path, reply.changed

    path, changed = asyncio.run(ask())
    Printer(output).item(
        {"cluster": cluster, "service": str(name), "path": path, "changed": changed},
        line=f"{name} of {cluster} is {'no longer' if changed else 'not'} exported",
    )


def register(app: typer.Typer) -> None:
    """Add the two verbs to `app`."""
    app.command("export", epilog="Example: fedctl export shop/echo --cluster east --to west:8080")(export)
    app.command("unexport", epilog="Example: fedctl unexport shop/echo --cluster east")(unexport)
