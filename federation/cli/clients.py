"""Connections of a command: to the registry with the operator's credential, to agents over their UNIX sockets.

The clients are imported when they are used, because gRPC costs more to import than most commands take.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import typer

from federation.cli.home import Home

if TYPE_CHECKING:
    from discovery.client import AgentClient
    from federation.registry.operator import OperatorClient


def home_of(context: typer.Context | Home) -> Home:
    """The contexts of this person; raises InvalidSettings for a damaged file."""
    return context if isinstance(context, Home) else Home.load(context.obj["home"])


@contextlib.asynccontextmanager
async def operator(context: typer.Context | Home, *, timeout: float = 10.0) -> AsyncIterator[OperatorClient]:
    """The registry; raises NotFound without a credential, Unavailable when it cannot be reached."""
    directory = home_of(context).operator_directory()
    from federation.registry.operator import OperatorClient

    async with OperatorClient.open(directory, timeout=timeout) as client:
        yield client


@contextlib.asynccontextmanager
async def agent(context: typer.Context | Home, cluster: str, *, timeout: float = 10.0) -> AsyncIterator[AgentClient]:
    """The agent of a cluster on this machine; raises NotFound or Unavailable."""
    directory = home_of(context).cluster_directory(cluster)
    from discovery.client import AgentClient

    async with AgentClient.open(directory, timeout=timeout) as client:
        yield client
