"""fedctl link and unlink: the agreement of two clusters to see each other's exports."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from federation.cli.clients import agent, home_of, operator
from federation.cli.home import Home
from federation.cli.output import Format, OutputOption, Printer
from federation.errors import InvalidInput, IsthmusError
from federation.model.cluster import Link, LinkGrant
from federation.model.ids import ServiceName, parse_label, parse_port


def parse_grant(text: str, clusters: tuple[str, str]) -> LinkGrant:
    """From "ORIGIN:NAMESPACE/SERVICE[:PORT,…]", where "*" matches any namespace or service; raises InvalidInput."""
    origin, _, rest = text.partition(":")
    pattern, _, ports = rest.partition(":")
    if origin not in clusters or "/" not in pattern:
        raise InvalidInput(
            f"grant {text[:80]!r} is not ORIGIN:NAMESPACE/SERVICE[:PORT,…] with ORIGIN one of {', '.join(clusters)}",
            hint=f"for example {clusters[0]}:shop/* or {clusters[0]}:shop/echo:8080",
        )
    namespace, _, service = pattern.partition("/")
    if namespace != "*" and service != "*":
        ServiceName.parse(pattern)
    elif namespace != "*":
        parse_label(namespace, what="namespace")
    elif service != "*":
        parse_label(service, what="service")
    try:
        numbers = tuple(parse_port(int(port), what="port") for port in ports.split(",") if port)
    except ValueError:
        raise InvalidInput(f"grant {text[:80]!r}: ports are numbers", hint="for example :8080,9090") from None
    consumer = clusters[1] if origin == clusters[0] else clusters[0]
    return LinkGrant(origin=origin, consumer=consumer, namespace=namespace, service=service, ports=numbers)


async def link_clusters(home: Home, a: str, b: str, grants: Sequence[LinkGrant] = ()) -> Link:
    """Link two clusters: read each one's root from its own agent, pin it at the other, then tell the registry.

    The fingerprints travel with the operator, so that the registry cannot speak for either cluster.
    """
    async with agent(home, a) as agent_a, agent(home, b) as agent_b, operator(home) as registry:
        identity_a, identity_b = await asyncio.gather(agent_a.identity(), agent_b.identity())
        await agent_a.pin(b, identity_b.trust_domain, identity_b.fingerprint)
        await agent_b.pin(a, identity_a.trust_domain, identity_a.fingerprint)
        return await registry.link(
            a, b, fingerprint_a=identity_a.fingerprint, fingerprint_b=identity_b.fingerprint, grants=grants
        )


async def unlink_clusters(home: Home, a: str, b: str) -> list[str]:
    """Cut the link; returns what could not be undone at an agent (each forgets the pin as soon as it sees the cut)."""
    async with operator(home) as registry:
        await registry.unlink(a, b)
    left: list[str] = []
    for here, there in ((a, b), (b, a)):
        try:
            async with agent(home, here) as client:
                await client.unpin(there)
        except IsthmusError as error:
            left.append(f"{here} keeps its pin of {there}: {error.message}")
    return left


def _two(a: str, b: str) -> None:
    parse_label(a, what="cluster")
    parse_label(b, what="cluster")
    if a == b:
        raise InvalidInput(
            f"{a} cannot be linked to itself", code="self_link", hint="name two clusters: fedctl link A B"
        )


def link(
    context: typer.Context,
    a: Annotated[str, typer.Argument(metavar="A", help="One cluster.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other.")],
    grant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN:NS/SVC[:PORTS]",
            help="Let the other side see only this; repeatable; default: all that each side exports.",
        ),
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Link two clusters, so that each sees what the other exports."""
    _two(a, b)
    grants = [parse_grant(text, (a, b)) for text in grant or []]
    made = asyncio.run(link_clusters(home_of(context), a, b, grants))
    printer = Printer(output)
    printer.item(
        {"a": made.a, "b": made.b, "grants": [f"{g.origin}:{g.namespace}/{g.service}" for g in made.grants]},
        line=f"{a} and {b} are linked",
    )
    printer.note("see `fedctl status --wait` for when both have taken it up")


def unlink(
    context: typer.Context,
    a: Annotated[str, typer.Argument(metavar="A", help="One cluster.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other.")],
    output: OutputOption = Format.TABLE,
) -> None:
    """Cut the link of two clusters: no visibility, no trust."""
    _two(a, b)
    left = asyncio.run(unlink_clusters(home_of(context), a, b))
    printer = Printer(output)
    printer.item({"a": a, "b": b, "left": left}, line=f"{a} and {b} are no longer linked")
    for line in left:
        printer.note(line)


def register(app: typer.Typer) -> None:
    """Add the two verbs to `app`."""
    app.command("link", epilog="Example: fedctl link east west --grant east:shop/* --grant west:shop/echo:8080")(link)
    app.command("unlink", epilog="Example: fedctl unlink east west")(unlink)
