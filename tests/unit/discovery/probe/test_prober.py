"""What is tried and what not, without a packet where there is nobody to send one to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from discovery.probe import attempt, dial, words
from discovery.probe.prober import Prober, apart, may_answer, unreachable
from discovery.probe.words import Outcome
from discovery.view import Neighbour
from federation.aio.clock import SystemClock
from federation.aio.latest import Latest
from federation.errors import QuotaExceeded
from federation.model.cluster import Bundle, Cluster, Gateway, Link, Problem
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Backend, Import, Locality, Port, Protocol, Readiness, Service

ECHO = ServiceName("shop", "echo")
BUNDLE = Bundle(trust_domain="west.fed.example", sequence=1, roots=(b"der",))
HTTP, TCP = Port(port=80, app=AppProtocol.HTTP), Port(port=9000)
UDP = Port(port=53, protocol=Protocol.UDP)
LINKED = Neighbour("west", link=Link(a="east", b="west"))
WEST = Cluster(name="west", trust_domain="west.fed.example", bundle=BUNDLE)


def backend(cluster: str, ready: int, *, local: bool = False) -> Backend:
    return Backend(cluster=cluster, local=local, readiness=(Readiness(Locality(), ready),))


def neighbour(**changes: Any) -> Neighbour:
    return Neighbour(**{"name": "west", "link": LINKED.link, "cluster": WEST, "bundle": BUNDLE, **changes})


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        (None, "no_link"),
        (Neighbour("west"), "no_link"),
        (LINKED, "not_heard_of"),
        (neighbour(bundle=None, problem=Problem("unpinned", "west", "west is linked and not pinned")), "not_pinned"),
        (neighbour(bundle=None), "not_pinned"),
        (neighbour(), "no_gateway"),
        (neighbour(gateways={"gw": Gateway(name="gw", address="192.0.2.1", port=1)}), None),
    ],
)
def test_what_is_known_without_a_packet(seen: Neighbour | None, code: str | None) -> None:
    found = unreachable("west", seen)
    assert (found.code if found is not None else None) == code


def test_who_may_answer_is_the_own_cluster_first() -> None:
    imported = Import(name=ECHO, backends=(backend("a", 1), backend("b", 0), backend("c", 2, local=True)))
    assert may_answer(imported) == ("c", "a")


@pytest.mark.parametrize(
    ("code", "address", "expected"),
    [
        (dial.NOBODY_LISTENS, "127.0.0.1", words.EGRESS_UNREACHABLE),
        (dial.NOBODY_LISTENS, "10.0.0.1", words.EGRESS_UNREACHABLE),
        (dial.NO_ROUTE, "10.0.0.1", words.EGRESS_UNREACHABLE),
        (words.TIMED_OUT, "10.0.0.1", words.TIMED_OUT),
        ("", "127.0.0.1", ""),
    ],
)
def test_a_gateway_that_is_not_reached_may_be_reached_by_others(code: str, address: str, expected: str) -> None:
    found = apart(Outcome(code, "why"), address)
    assert found.code == expected
    assert ("is loopback" in found.detail) == (code == dial.NOBODY_LISTENS and address == "127.0.0.1")


@pytest.mark.parametrize(
    ("port", "ready", "expected"),
    [
        (TCP, 0, words.NO_READY_COPY),
        (TCP, 2, words.COPY_UNREACHABLE),
        (TCP, None, words.CLOSED),
        (HTTP, 2, words.CLOSED),
    ],
)
def test_a_connection_that_is_closed_without_a_word(port: Port, ready: int | None, expected: str) -> None:
    assert attempt.explained(Outcome(words.CLOSED, "why"), port, ready).code == expected
    assert attempt.explained(Outcome("", "well"), port, ready).code == ""


def prober(
    *,
    imports: Mapping[ServiceName, Import] | None = None,
    peers: Mapping[str, Neighbour] | None = None,
    gateways: tuple[Gateway, ...] = (),
    led: bool = True,
) -> Prober:
    known = dict(peers or {})
    view: Any = SimpleNamespace(imports=imports or {}, neighbours=known, linked=list(known.values()))
    return Prober(
        view,
        cluster="east",
        suffix="global",
        bundle=BUNDLE,
        gateways=Latest({gateway.name: gateway for gateway in gateways}),
        led=lambda _: led,
        svid=lambda: cast(Any, None),
        clock=SystemClock(),
    )


IMPORTED = {ECHO: Import(name=ECHO, ports=(TCP,), gateway_ports={9000: 10_001}, backends=(backend("west", 1),))}
GATEWAY = Gateway(name="gw", address="127.0.0.1", port=1)


@pytest.mark.parametrize(
    ("world", "cluster", "code"),
    [
        ({}, "west", "no_link"),
        ({"peers": {"west": neighbour(gateways={"gw": GATEWAY})}}, "west", "not_exported"),
        ({}, "", "not_imported"),
        ({"imports": IMPORTED}, "", "no_egress"),
        ({"imports": IMPORTED, "gateways": (GATEWAY,), "led": False}, "", "no_egress"),
        ({"imports": {ECHO: Import(name=ECHO, ports=(UDP,))}, "gateways": (GATEWAY,)}, "", "no_egress"),
    ],
)
async def test_what_cannot_be_tried_is_said(world: dict[str, Any], cluster: str, code: str) -> None:
    (found,) = await prober(**world).probe(ECHO, cluster, seconds=5)
    assert (found.outcome.code, found.port) == (code, None)


async def test_a_gateway_behind_nat_is_not_dialled() -> None:
    (found,) = await prober(gateways=(Gateway(name="gw", address="", port=15443, egress="10.0.0.1"),)).reach(seconds=5)
    assert (found.outcome.code, found.own, found.took) == ("outbound_only", True, 0.0)


async def test_time_and_number_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes connections and never answers costs a bounded time."""
    tried: list[int] = []

    async def silent(address: str, at: int, port: Port, *, host: str, patience: float) -> Outcome:
        tried.append(port.port)
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody sets it")

    monkeypatch.setattr(attempt, "egress", silent)
    many = tuple(Port(port=n, app=AppProtocol.HTTP) for n in range(1, 40))
    imported = Import(
        name=ECHO, ports=many, gateway_ports={p.port: 10_000 for p in many}, backends=(backend("west", 1),)
    )
    gateways = tuple(Gateway(name=f"gw-{n:02}", address="127.0.0.1", port=1) for n in range(20))
    asked = prober(imports={ECHO: imported}, gateways=gateways)
    found = await asked.probe(ECHO, "", seconds=0.1)
    assert len(found) == 16 * 8
    assert {attempt.outcome.code for attempt in found} == {"timed_out"}
    assert set(tried) <= set(range(1, 17))
    assert len(tried) < len(found), "what there is no time for is not begun"
    waiting = [asyncio.create_task(asked.probe(ECHO, "", seconds=0.1), name=f"ask-{n}") for n in range(32)]
    await asyncio.sleep(0)
    with pytest.raises(QuotaExceeded, match="too many probes"):
        await asked.probe(ECHO, "", seconds=0.1)
    await asyncio.gather(*waiting)
    assert len(await asked.probe(ECHO, "", seconds=0.1)) == 16 * 8


async def test_draining_gateways_are_asked_only_where_there_are_no_others() -> None:
    service = Service(name=ECHO, exported_at_ns=1, ports=(TCP,))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    draining = Gateway(name="a", address="127.0.0.1", port=port, draining=True)
    staying = Gateway(name="b", address="127.0.0.1", port=port)

    async def asked(*gateways: Gateway) -> list[str]:
        imported = Import(name=ECHO, ports=service.ports, gateway_ports={9000: port})
        found = await prober(imports={ECHO: imported}, gateways=gateways).probe(ECHO, "", seconds=5)
        assert {attempt.outcome.code for attempt in found} == {"egress_unreachable"}
        return [attempt.gateway for attempt in found]

    assert await asked(draining, staying) == ["b"]
    assert await asked(draining) == ["a"]
