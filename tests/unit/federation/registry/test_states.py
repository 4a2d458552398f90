"""How links fare, as one table."""

from __future__ import annotations

from typing import Any

import pytest

from federation.registry.states import End, cluster_state, link_state


@pytest.mark.parametrize(
    ("reported", "leased", "state"),
    [(False, False, "pending"), (True, True, "live"), (True, False, "stale"), (False, True, "live")],
)
def test_clusters(reported: bool, leased: bool, state: str) -> None:
    assert cluster_state(reported=reported, leased=leased) == state


def end(name: str, **changes: Any) -> End:
    values: dict[str, Any] = {
        "state": "live",
        "watching": True,
        "applied": 10,
        "gateways": 1,
        "draining": 0,
        "outbound_only": False,
        "services": 3,
        "problem": "",
    }
    return End(name=name, **{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "state", "says"),
    [
        ({}, "live", ""),
        ({"state": "pending"}, "down", "b has not reported yet"),
        ({"state": "stale"}, "down", "b has not been heard of"),
        ({"watching": False}, "degraded", "does not follow"),
        ({"applied": None}, "degraded", "has not applied the link"),
        ({"applied": 4}, "degraded", "has not applied the link"),
        ({"applied": 8}, "degraded", "behind: it has applied revision 8 of 9"),
        ({"problem": "no pin"}, "degraded", "b: no pin"),
        ({"gateways": 0}, "degraded", "no gateway"),
        ({"gateways": 0, "services": 0}, "degraded", "b has no gateway"),
        ({"gateways": 0, "outbound_only": True}, "degraded", "no gateway of b can be reached from outside"),
        ({"gateways": 0, "outbound_only": True, "services": 0}, "live", ""),
        ({"gateways": 2, "draining": 2}, "degraded", "draining"),
        ({"gateways": 2, "draining": 1}, "live", ""),
    ],
)
def test_links(changes: dict[str, Any], state: str, says: str) -> None:
    for ends in ((end("a"), end("b", **changes)), (end("b", **changes), end("a"))):
        found, detail = link_state(ends, linked_at=5, settled=9)
        assert found == state
        assert says in detail
        assert bool(detail) == (state != "live")


LAN = {"network": "lan", "pods": ("10.244.0.0/24",)}


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        (LAN, LAN, True),
        (LAN, {**LAN, "pods": ("10.200.0.0/16", "10.244.0.0/16")}, True),
        (LAN, {**LAN, "pods": ("10.245.0.0/16",)}, False),
        (LAN, {**LAN, "network": "wan"}, False),
        (LAN, {**LAN, "pods": ()}, False),
        ({**LAN, "network": ""}, {**LAN, "network": ""}, False),
    ],
)
def test_pods_of_one_network_need_addresses_of_their_own(
    one: dict[str, Any], other: dict[str, Any], clash: bool
) -> None:
    state, detail = link_state((end("a", **one), end("b", **other)), linked_at=5, settled=9)
    assert state == ("degraded" if clash else "live")
    assert detail.startswith("pods of a (10.244.0.0/24) and of b (10.") == clash
    assert detail.endswith("have the same addresses on the network lan") == clash
    away = end("b", **other, state="stale")
    assert link_state((end("a", **one), away), linked_at=5, settled=9)[0] == "down"
