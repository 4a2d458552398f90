"""The replicas of a cluster's agent, asked at once: each knows only the gateways and sidecars that it serves itself.

In pods all that run are found by their labels. On a host the one is asked whose state folder is known here; where
another one leads, that is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from federation.cli.clients import agent, agent_in
from federation.cli.home import Home, Place
from federation.errors import IsthmusError
from federation.proto.v1 import agent_pb2

if TYPE_CHECKING:
    from discovery.kube.pods import Target


@dataclass(frozen=True, slots=True)
class Answer:
    """What one replica says of itself, or why it does not. `replica`: its pod, or what it calls itself; empty where the
    agent is alone."""

    replica: str
    status: agent_pb2.AgentStatus | None = None
    failure: IsthmusError | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway or sidecar, the replica that serves it, and that one's version."""

    consumer: agent_pb2.ConsumerStatus
    replica: str
    agent: str


async def ask(home: Home, cluster: str, *, timeout: float) -> list[Answer]:
    """What each replica of the agent of `cluster` says; first the one that a question for one alone would go to.

    Raises what `clients.agent` raises where none can be asked.
    """
    where = home.cluster(cluster)
    if isinstance(where, Path):
        async with agent(home, cluster, timeout=timeout) as client:
            status = await client.status()
        return [Answer(status.replica.identity, status)]
    from federation.cli.pods import running

    targets = await running(where, "agent")

    async def one(place: Place, target: Target) -> Answer:
        try:
            async with agent_in(place, cluster, timeout=timeout, target=target) as client:
                return Answer(target.pod, await client.status())
        except IsthmusError as error:
            return Answer(target.pod, failure=error)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(where, target), name=f"ask-{target.pod}") for target in targets]
    answers = [task.result() for task in tasks]
    answers.sort(key=lambda answer: answer.status is None)  # who answers first, otherwise in their order
    if answers[0].failure is not None:
        raise answers[0].failure
    return answers


def served(answers: Sequence[Answer]) -> list[Served]:
    """Every gateway and sidecar once: one that has found another replica is no longer lost to the former one."""
    found = [
        Served(consumer, answer.replica, answer.status.version)
        for answer in answers
        if answer.status is not None
        for consumer in answer.status.consumers
    ]
    there = {_who(one) for one in found if one.consumer.connected}
    lost: set[tuple[str, str, str]] = set()
    kept = []
    for one in found:
        if not one.consumer.connected:
            if _who(one) in there or _who(one) in lost:
                continue
            lost.add(_who(one))
        kept.append(one)
    return kept


def unheard(cluster: str, answers: Sequence[Answer]) -> list[str]:
    """A line for each replica whose gateways and sidecars are missing in `served`, and why."""
    told = [
        f"{cluster}: {answer.replica} does not answer, and whom it serves is missing here: {answer.failure}"
        for answer in answers
        if answer.failure is not None
    ]
    return told + unknown(cluster, answers)


def unknown(cluster: str, answers: Sequence[Answer]) -> list[str]:
    """A line where there is another replica, to which no way is known here; all pods that run are known."""
    if len(answers) != 1 or (status := answers[0].status) is None:
        return []
    replica = status.replica
    if answers[0].replica != replica.identity or replica.leader in ("", replica.identity):
        return []
    return [f"{cluster}: {replica.leader} is another replica, which is not known here: whom it serves is missing here"]


def _who(one: Served) -> tuple[str, str, str]:
    return one.consumer.role, one.consumer.name, one.consumer.identity
