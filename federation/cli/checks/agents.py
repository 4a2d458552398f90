"""Asks the registry and every agent that is known here what `fedctl check` wants to know, all at once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from federation import __version__
from federation.cli.checks import registry as registries
from federation.cli.checks.facts import AgentFacts, FederationFacts
from federation.cli.clients import agent
from federation.cli.home import Home
from federation.cli.replicas import ask
from federation.errors import IsthmusError, TimedOut

_BUDGET, _MARGIN = 4, 10.0
"""An agent that dials all gateways that it knows ends after so many times the seconds for each; and what that costs."""


async def look(home: Home, *, timeout: float) -> FederationFacts:
    """The facts of a federation; `timeout` (s) for each process, and for each thing that it dials."""
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(registries.by_operator(home, timeout=timeout), name="check-registry")
        agents = [
            group.create_task(_agent(home, name, timeout), name=f"check-{name}") for name in sorted(home.clusters)
        ]
    return FederationFacts(
        now_ns=time.time_ns(),
        version=__version__,
        agents=[task.result() for task in agents],
        registry=asked.result(),
    )


async def _agent(home: Home, name: str, timeout: float) -> AgentFacts:
    try:
        answers = await ask(home, name, timeout=timeout)
        async with agent(home, name, timeout=_BUDGET * timeout + _MARGIN) as client:
            async with asyncio.timeout(timeout):
                identity = await client.identity()
            facts = AgentFacts(cluster=name, status=answers[0].status, identity=identity, answers=answers)
            try:
                seen = await client.examine(timeout_ms=int(timeout * 1000))
            except IsthmusError as failure:
                return replace(facts, seen_failure=failure)
            return replace(facts, seen=seen, asked_ns=time.time_ns())  # the agent looks at its clock last
    except TimeoutError:
        return AgentFacts(cluster=name, failure=TimedOut(f"the agent of {name} did not answer within {timeout:g} s"))
    except IsthmusError as failure:
        return AgentFacts(cluster=name, failure=failure)
