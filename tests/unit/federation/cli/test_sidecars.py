from __future__ import annotations

import pytest

from federation.cli.replicas import Answer, served
from federation.cli.sidecars import rows, skew, sync
from federation.proto.v1 import agent_pb2, records_pb2


@pytest.mark.parametrize(
    ("own", "agent", "told"),
    [
        ("0.2.0", "0.2.0", ""),
        ("0.2.1", "0.2.0", "patch newer"),
        ("0.2.0", "0.2.1", "patch older"),
        ("0.1.9", "0.2.0", "1 minor older"),
        ("0.3.0", "0.2.0", "1 minor newer"),
        ("0.1.0", "0.3.0", "2 minor older, not supported"),
        ("1.0.0", "0.9.0", "newer, not supported"),
        ("0.2.0.dev1", "0.2.0", "another build"),
        ("", "0.2.0", "unknown"),
        ("main", "0.2.0", "unknown"),
    ],
)
def test_skew(own: str, agent: str, told: str) -> None:
    assert skew(own, agent) == told


@pytest.mark.parametrize(
    ("connected", "applied", "offered", "told"),
    [(True, 7, 7, "synced"), (True, 5, 7, "behind by 2"), (True, 8, 7, "synced"), (False, 7, 7, "lost")],
)
def test_sync(connected: bool, applied: int, offered: int, told: str) -> None:
    consumer = agent_pb2.ConsumerStatus(connected=connected, applied_revision=applied, offered_revision=offered)
    assert sync(consumer) == told


def test_a_row_for_each_sidecar_and_none_for_gateways() -> None:
    problem = records_pb2.Problem(code="port_clash", subject="shop/echo", detail="why")
    sidecar = agent_pb2.ConsumerStatus(
        role="sidecar",
        name="web-1",
        version="0.1.0",
        connected=True,
        identity="spiffe://east.test/ns/shop/sa/web",
        names=3,
        problems=[problem],
    )
    gateway = agent_pb2.ConsumerStatus(role="gateway", name="gw", version="0.1.0", connected=True)
    status = agent_pb2.AgentStatus(version="0.2.0", consumers=[gateway, sidecar])
    (row,) = rows("east", served([Answer("isthmus-agent-1", status)]))
    assert row == {
        "cluster": "east",
        "sidecar": "web-1",
        "identity": "shop/web",
        "address": "",
        "version": "0.1.0",
        "skew": "1 minor older",
        "sync": "synced",
        "names": 3,
        "replica": "isthmus-agent-1",
        "problems": [{"code": "port_clash", "subject": "shop/echo", "detail": "why"}],
    }
