"""Connections of a command: to the registry with the operator's credential, to agents over their UNIX sockets, which
federation.cli.pods brings here from pods.

The clients are imported when they are used, because gRPC costs more to import than most commands take.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from federation.cli.home import Home, Place
from federation.errors import IsthmusError

if TYPE_CHECKING:
    from discovery.client import AgentClient
    from discovery.kube.pods import Target
    from federation.cli.output import Printer
    from federation.registry.operator import OperatorClient


T = TypeVar("T")

FAR_SECONDS = 5.0
"""What the way through an API server and a kubelet may take beside an answer."""


def home_of(context: typer.Context | Home) -> Home:
    """The contexts of this person; raises InvalidSettings for a damaged file."""
    return context if isinstance(context, Home) else Home.load(context.obj["home"])


@contextlib.asynccontextmanager
async def operator(context: typer.Context | Home, *, timeout: float = 10.0) -> AsyncIterator[OperatorClient]:
    """The registry; raises NotFound without a credential, Unavailable when it cannot be reached."""
    home = home_of(context)
    directory = home.operator_directory()
    from federation.registry.operator import OperatorClient

    if home.registry is None:
        async with OperatorClient.open(directory, timeout=timeout) as client:
            yield client
        return
    from federation.cli.pods import bridged, refresh

    await refresh(directory, home.registry)
    if not home.registry.bridge:
        async with OperatorClient.open(directory, timeout=timeout) as client:
            yield client
        return
    async with (
        bridged(home.registry, "registry-port") as bridge,
        OperatorClient.open(directory, timeout=timeout + FAR_SECONDS, socket=bridge.socket) as client,
    ):
        with bridge.explaining():
            yield client


@contextlib.asynccontextmanager
async def agent(context: typer.Context | Home, cluster: str, *, timeout: float = 10.0) -> AsyncIterator[AgentClient]:
    """The agent of a cluster on this machine or in a pod; raises NotFound or Unavailable, and for a pod what
    federation.cli.pods raises."""
    where = home_of(context).cluster(cluster)
    from discovery.client import AgentClient

    if isinstance(where, Path):
        async with AgentClient.open(where, timeout=timeout) as client:
            yield client
        return
    async with agent_in(where, cluster, timeout=timeout) as client:
        yield client


@contextlib.asynccontextmanager
async def agent_in(
    place: Place, cluster: str, *, timeout: float = 10.0, target: Target | None = None
) -> AsyncIterator[AgentClient]:
    """The agent of a cluster in the pod `target`, or in the one to ask. Raises what federation.cli.pods raises."""
    from discovery.client import AgentClient
    from federation.cli.pods import bridged

    async with bridged(place, "agent", target) as bridge:
        what = f"the agent of {cluster} in {bridge.pod}"
        async with AgentClient.open(bridge.socket.parent, timeout=timeout + FAR_SECONDS, what=what) as client:
            with bridge.explaining():
                yield client


def from_agents(home: Home, cluster: str, ask: Callable[[str], Awaitable[list[T]]], printer: Printer) -> list[T]:
    """What `ask` finds at the agent of `cluster`, or of every cluster known here ("").

    One of many that does not answer is a note; the only one that was wanted raises.
    """
    found: list[T] = []

    async def add(name: str) -> None:
        found.extend(await ask(name))

    for name in [cluster] if cluster else sorted(home.clusters):
        try:
            asyncio.run(add(name))
        except IsthmusError as error:
            if cluster:
                raise
            printer.note(f"{name}: {error.message}")
    return found
