"""fedctl token: the single-use secrets with which a cluster joins."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from federation.cli.clients import operator
from federation.cli.output import Format, OutputOption, Printer
from federation.cli.text import timestamp
from federation.errors import InvalidInput
from federation.model.ids import parse_label

if TYPE_CHECKING:
    from federation.registry.operator import IssuedToken

app = typer.Typer(no_args_is_help=True, help="Single-use join tokens.")

MAX_TTL_SECONDS = 900


@app.command("issue", epilog="Example: fedctl token issue east --ttl 300")
def issue(
    context: typer.Context,
    cluster: Annotated[str, typer.Argument(help="The cluster that may join with it.")],
    ttl: Annotated[int, typer.Option(help="Seconds until it expires, at most 900.")] = MAX_TTL_SECONDS,
    output: OutputOption = Format.TABLE,
) -> None:
    """Issue a token that lets one cluster join, once, within the next minutes."""
    parse_label(cluster, what="cluster")
    if not 1 <= ttl <= MAX_TTL_SECONDS:
        raise InvalidInput(f"--ttl {ttl} is out of range", code="invalid_ttl", hint="give 1 to 900 seconds")

    async def ask() -> IssuedToken:
        async with operator(context) as registry:
            return await registry.issue_token(cluster, ttl_seconds=ttl)

    reply = asyncio.run(ask())
    expires = timestamp(reply.expires_ns)
    printer = Printer(output)
    printer.item({"cluster": cluster, "token": reply.token, "expires": expires}, line=reply.token)
    printer.note(f"valid until {expires}, once, for cluster {cluster} only")


@app.command("revoke", epilog="Example: fedctl token revoke east")
def revoke(
    context: typer.Context,
    cluster: Annotated[str, typer.Argument(help="The cluster whose unused tokens end.")],
    output: OutputOption = Format.TABLE,
) -> None:
    """Revoke every unused token of a cluster."""
    parse_label(cluster, what="cluster")

    async def ask() -> None:
        async with operator(context) as registry:
            await registry.revoke_token(cluster)

    asyncio.run(ask())
    Printer(output).item({"cluster": cluster, "revoked": True}, line=f"unused tokens of {cluster} are revoked")
