"""What a person wants to know of each sidecar: does it run what its agent runs, and has it what its agent has. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from federation.cli.replicas import Served
from federation.proto.v1 import agent_pb2

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(.*)", re.ASCII)
SUPPORTED = 1
"""Minor versions by which the two may differ."""


def skew(own: str, agent: str) -> str:
    """How the version `own` of a sidecar stands to its agent's; empty where they are equal."""
    if own == agent:
        return ""
    ours, theirs = _VERSION.fullmatch(own), _VERSION.fullmatch(agent)
    if ours is None or theirs is None:
        return "unknown"
    mine, other = tuple(map(int, ours.groups()[:3])), tuple(map(int, theirs.groups()[:3]))
    if mine == other:
        return "another build"
    side = "older" if mine < other else "newer"
    if mine[0] != other[0]:
        return f"{side}, not supported"
    apart = abs(mine[1] - other[1])
    if not apart:
        return f"patch {side}"
    return f"{apart} minor {side}" + ("" if apart <= SUPPORTED else ", not supported")


def sync(consumer: agent_pb2.ConsumerStatus) -> str:
    """Whether its Envoy has what the agent has sent."""
    if not consumer.connected:
        return "lost"
    behind = consumer.offered_revision - consumer.applied_revision
    return "synced" if behind <= 0 else f"behind by {behind}"


def rows(cluster: str, found: Iterable[Served]) -> list[dict[str, Any]]:
    """A row for each sidecar, in their order."""
    return [
        {
            "cluster": cluster,
            "sidecar": consumer.name,
            "identity": consumer.identity.partition("/ns/")[2].replace("/sa/", "/"),
            "address": consumer.address,
            "version": consumer.version,
            "skew": skew(consumer.version, one.agent),
            "sync": sync(consumer),
            "names": consumer.names,
            "replica": one.replica,
            "problems": [{"code": p.code, "subject": p.subject, "detail": p.detail} for p in consumer.problems],
        }
        for one in found
        if (consumer := one.consumer).role == "sidecar"
    ]
