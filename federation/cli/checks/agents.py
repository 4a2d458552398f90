"""Asks the registry and every agent that is known here what `fedctl check` wants to know, all at once."""

from __future__ import annotations

import asyncio
import time

from federation import __version__
from federation.cli.checks import registry as registries
from federation.cli.checks.facts import AgentFacts, FederationFacts, RegistryFacts
from federation.cli.clients import agent, operator
from federation.cli.home import Home
from federation.errors import IsthmusError
from federation.proto.v1 import registry_pb2

_MARGIN = 15.0
"""Seconds that an agent may take to dial all gateways that it knows, beyond those for each."""


async def look(home: Home, *, timeout: float) -> FederationFacts:
    """The facts of a federation; `timeout` (s) for each process, and for each thing that it dials."""

    async def ask_registry() -> tuple[RegistryFacts | None, list[registry_pb2.LinkInfo]]:
        if home.operator is None:
            return None, []
        found = await registries.by_operator(home.operator, timeout=timeout)
        try:
            async with operator(home, timeout=timeout) as client:
                return found, await client.links()
        except IsthmusError:
            return found, []

    async with asyncio.TaskGroup() as group:
        asked = group.create_task(ask_registry(), name="check-registry")
        agents = [
            group.create_task(_agent(home, name, timeout), name=f"check-{name}") for name in sorted(home.clusters)
        ]
    registry, links = asked.result()
    return FederationFacts(
        now_ns=time.time_ns(),
        version=__version__,
        agents=[task.result() for task in agents],
        registry=registry,
        links=links,
    )


async def _agent(home: Home, name: str, timeout: float) -> AgentFacts:
    try:
        async with agent(home, name, timeout=timeout) as client:
            status = await client.status()
            identity = await client.identity()
    except IsthmusError as failure:
        return AgentFacts(cluster=name, failure=failure)
    facts = AgentFacts(cluster=name, status=status, identity=identity)
    try:
        async with agent(home, name, timeout=timeout + _MARGIN) as client:
            seen = await client.examine(timeout_ms=int(timeout * 1000))
            ended = time.time_ns()
    except IsthmusError as failure:
        return AgentFacts(cluster=name, status=status, identity=identity, seen_failure=failure)
    # The agent looks at its clock last.
    return AgentFacts(cluster=name, status=facts.status, identity=facts.identity, seen=seen, asked_ns=ended)
