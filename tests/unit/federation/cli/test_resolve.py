"""Whose share of the calls is how large, and who has what the own cluster does not see."""

from __future__ import annotations

import pytest

from federation.cli.resolve import by_origin, elsewhere, shares
from federation.errors import NotFound
from federation.proto.v1.agent_pb2 import ResolvedBackend as Backend


def local(address: str, source: str, *, ready: bool = True, priority: int = 0) -> Backend:
    return Backend(
        cluster="dc1",
        priority=priority if ready else 9,
        ready=int(ready),
        weight=int(ready),
        address=address,
        source=source,
    )


def remote(cluster: str, ready: int, weight: int, *, priority: int = 1, address: str = "g") -> Backend:
    return Backend(cluster=cluster, priority=priority, ready=ready, weight=weight, address=address)


def test_a_migration_from_vms_to_pods_is_seen_by_weights() -> None:
    vms = [local("192.0.2.1", "vm db-1"), local("192.0.2.2", "vm db-2")]
    for pods, gives in (
        ([], [("vm", 2, 100.0)]),
        ([local("10.0.0.1", "kubernetes")], [("vm", 2, 66.7), ("kubernetes", 1, 33.3)]),
        ([local(f"10.0.0.{n}", "kubernetes") for n in range(6)], [("vm", 2, 25.0), ("kubernetes", 6, 75.0)]),
    ):
        backends = [*vms, *pods, remote("west", 3, 300)]
        parts = by_origin(backends, shares(backends))
        assert [(p["source"], p["ready"], p["share"]) for p in parts if p["cluster"] == "dc1"] == gives
        assert [(p["ready"], p["share"], p["priority"]) for p in parts if p["cluster"] == "west"] == [(3, 0.0, 1)]


def test_what_is_not_ready_has_no_share_and_is_shown() -> None:
    backends = [local("192.0.2.1", "vm db-1", ready=False), local("10.0.0.1", "kubernetes")]
    assert shares(backends) == [0.0, 100.0]
    assert [(p["source"], p["ready"]) for p in by_origin(backends, [0, 100])] == [("vm", 0), ("kubernetes", 1)]


def test_clusters_of_one_priority_share_by_weight_and_each_counts_its_copies_once() -> None:
    backends = [
        remote("west", 2, 100, priority=0, address="g1"),
        remote("west", 2, 100, priority=0, address="g2"),
        remote("north", 6, 600, priority=0, address="g3"),
    ]
    assert shares(backends) == [12.5, 12.5, 75.0]
    assert [(p["cluster"], p["ready"], p["share"]) for p in by_origin(backends, shares(backends))] == [
        ("west", 2, 25.0),
        ("north", 6, 75.0),
    ]


def test_nobody_to_call() -> None:
    assert shares([]) == []
    nobody = [Backend(cluster="west", priority=0, state="no gateway", ready=2)]
    assert shares(nobody) == [0.0]
    assert by_origin(nobody, [0.0])[0]["ready"] == 2


@pytest.mark.parametrize(
    ("exporters", "said", "todo"),
    [
        ({"west": ""}, "west exports it and is not linked to east", "fedctl link east west"),
        ({"west": "", "edge": "", "north": "live"}, "edge, west export it and are not linked", "fedctl link east edge"),
        ({"west": "degraded"}, "west exports it, is linked (degraded), and does not show it to east", "--dry-run"),
        ({}, "", "fedctl export"),
    ],
)
def test_who_has_what_is_not_seen(exporters: dict[str, str], said: str, todo: str) -> None:
    error = NotFound("shop/echo is not exported", hint="fedctl export shop/echo")
    found = elsewhere(error, "east", exporters)
    assert (found.error_code, found.message.startswith("shop/echo is not exported")) == ("not_found", True)
    assert said in found.message
    assert todo in found.hint
