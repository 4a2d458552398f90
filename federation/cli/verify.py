"""fedctl verify: real requests from every cluster to every exported service, both ways, as a matrix.

No pods are made: each agent asks by itself (discovery.probe). To one cluster it speaks as a gateway does, so that it is
known who answered; and it calls through its own gateways as a workload without a sidecar does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from federation.cli.clients import agent, home_of, operator
from federation.cli.completion import known_clusters
from federation.cli.home import Home
from federation.cli.output import Format, OutputOption, Printer
from federation.errors import InvalidInput, IsthmusError, NotFound, Unavailable
from federation.model import wire
from federation.model.ids import ServiceName, parse_label

if TYPE_CHECKING:
    from discovery.client import AgentClient
    from federation.cli.paths import Path, Result
    from federation.model.cluster import Link
    from federation.proto.v1 import records_pb2, registry_pb2

MOST_PATHS = 2_000
_AT_ONCE = 8
_MARGIN = 10.0
"""Seconds that an agent may take beyond those of its attempts, which wait for each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was found, and what a person should know of how."""

    results: Sequence[Result]
    targets: Sequence[str]
    notes: Sequence[str]

    @property
    def ok(self) -> bool:
        return not any(result.bad for result in self.results)


def verify(
    context: typer.Context,
    cluster: Annotated[
        list[str] | None,
        typer.Option("--cluster", help="Only calls from or to it; repeatable.", autocompletion=known_clusters),
    ] = None,
    service: Annotated[
        list[str] | None,
        typer.Option("--service", metavar="NAMESPACE/NAME", help="Only this service; repeatable."),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for each attempt.")] = 5.0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Send real requests from every cluster to every exported service. Exit status 0 if all that should be answered is.

    With --cluster and --service both, what they name has to be answered, whether links and grants allow it or not.
    """
    if not 0.1 <= timeout <= 30:
        raise InvalidInput(f"--timeout {timeout:g} is not 0.1 to 30 seconds")
    home = home_of(context)
    clusters = [parse_label(name, what="cluster") for name in cluster or ()]
    services = [str(ServiceName.parse(text)) for text in service or ()]
    found = asyncio.run(run(home, clusters=clusters, services=services, timeout=timeout))
    show(Printer(output), found)
    if not found.ok:
        failed = sum(result.bad for result in found.results)
        raise Unavailable(
            f"{failed} of {len(found.results)} calls failed",
            code="not_verified",
            hint="see the lines above, and docs/checks.md for their codes",
        )


def show(printer: Printer, found: Verified) -> None:
    """The matrix, then what failed, one line each; or all of it as data."""
    from federation.cli.paths import matrix

    if printer.format is not Format.TABLE:
        rows = [result.as_dict() for result in found.results]
        printer.item({"ok": found.ok, "calls": rows, "notes": list(found.notes)}, line="")
        return
    printer.rows(
        ("service", "from", *found.targets, "any"),
        matrix(found.results, found.targets),
        empty="nothing is exported: fedctl export NAMESPACE/NAME",
    )
    for result in found.results:
        if result.state == "failed" or result.code == "egress_unreachable":
            port = f":{result.port}" if result.port else ""
            way = f" by {result.gateway}" if result.gateway else ""
            mark = "✗" if result.bad else "-"
            what = f"{result.path.source} -> {result.path.target or 'any'} {result.path.service}{port}{way}"
            print(f"{mark} {what}: {result.detail} [{result.code}]")
    for note in found.notes:
        printer.note(note)
    if found.ok and found.results:
        print("✓ every call that should be answered is")


async def run(home: Home, *, clusters: Sequence[str], services: Sequence[str], timeout: float) -> Verified:
    """Plan the calls, have the agents make them. Raises NotFound for a service or cluster that nobody knows."""
    from federation.cli import paths

    if not home.clusters:
        raise NotFound("no agent is known here", code="unknown_cluster", hint="fedctl cluster use CLUSTER DIR")
    exports, links, notes = await _offered(home)
    known = {info.cluster for info in exports} | home.clusters.keys() | {end for x in links for end in (x.a, x.b)}
    for name in clusters:
        if name not in known:
            raise NotFound(f"there is no cluster {name}", code="unknown_cluster", hint="fedctl get clusters")
    names = {f"{info.service.namespace}/{info.service.name}" for info in exports}
    for name in services:
        if name not in names:
            raise NotFound(f"no cluster exports {name}", hint=f"fedctl export {name} in the cluster that has it")
    planned = paths.plan(exports, links, home.clusters.keys(), clusters=clusters, services=services)
    if len(planned) > MOST_PATHS:
        notes.append(f"{len(planned)} calls are too many: the first {MOST_PATHS} were made; name a --service")
        planned = planned[:MOST_PATHS]
    if away := sorted({info.cluster for info in exports} - home.clusters.keys()):
        notes.append(f"not asked, for their agents are not known here: {', '.join(away)}")
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_call(home, source, [p for p in planned if p.source == source], timeout), name="verify")
            for source in sorted(home.clusters)
        ]
    found = [result for task in tasks for results in task.result() for result in results]
    results = sorted(found, key=lambda r: (r.path.service, r.path.source, r.path.target == paths.ANY, r.path.target))
    targets = sorted({path.target for path in planned if path.target})
    return Verified(results=results, targets=targets, notes=notes)


async def _offered(home: Home) -> tuple[list[registry_pb2.ServiceInfo], list[Link], list[str]]:
    """Exports and links, by the registry; where it is away, as far as the agents see them."""
    from federation.cli import paths
    from federation.model.cluster import Link

    try:
        async with operator(home) as registry:
            services = await registry.services()
            return services, [wire.link_from_pb(info.link) for info in await registry.links()], []
    except IsthmusError as error:
        reason = f"the registry was not asked ({error.message}): what the agents import is taken for what is exported"
    seen: list[list[records_pb2.Import]] = []
    links: dict[str, Link] = {}
    for name in sorted(home.clusters):
        try:
            async with agent(home, name) as client:
                seen.append(await client.imports())
                for peer in (await client.status()).peers:
                    a, b = sorted((name, peer.cluster))
                    links[f"{a}/{b}"] = Link(a=a, b=b)
        except IsthmusError:
            continue  # it is named when it is asked to call
    return paths.as_imported(seen), list(links.values()), [reason]


async def _call(home: Home, source: str, planned: Sequence[Path], timeout: float) -> list[list[Result]]:
    """What the agent of `source` finds on each path, by one connection."""
    from federation.cli import paths

    if not planned:
        return []
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(client: AgentClient, path: Path) -> list[Result]:
        if path.hindered is not None:
            return [paths.hindered(path, *path.hindered)]
        async with turns:
            try:
                made = await client.probe(
                    path.service, cluster=path.target, timeout_ms=int(timeout * 1000), ports=path.ports
                )
            except IsthmusError as error:
                return [_away(path, error)]
        return list(paths.results(path, made))

    try:
        async with agent(home, source, timeout=4 * timeout + _MARGIN) as client:
            return list(await asyncio.gather(*(one(client, path) for path in planned)))
    except IsthmusError as error:
        return [[_away(path, error)] for path in planned]


def _away(path: Path, error: IsthmusError) -> Result:
    from federation.cli import paths

    if path.hindered is not None:
        return paths.hindered(path, *path.hindered)
    return paths.hindered(path, paths.AGENT_UNREACHABLE, f"the agent of {path.source}: {error.message}")


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "verify", epilog="Examples: fedctl verify; fedctl verify --cluster west --service shop/echo --timeout 3 -o json"
    )(verify)
