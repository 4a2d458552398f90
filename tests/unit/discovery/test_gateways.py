"""Where peers reach the gateways of a cluster, as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from discovery.gateways import Reach, located, outbound_only, problems
from federation.model.cluster import VIA_SERVICE, Gateway

BEFORE = Reach(addresses=("198.51.100.7",), ports={15443: 443})
TWO = Reach(addresses=("198.51.100.7", "198.51.100.8"), ports={15443: 443})
NONE = Reach(ports={}, reason="its load balancer has no address yet")


def gateway(name: str, address: str = VIA_SERVICE, port: int = 15443) -> Gateway:
    return Gateway(name=name, address=address, port=port)


def where(reach: Reach | None, *gateways: Gateway, before: tuple[Gateway, ...] = ()) -> dict[str, tuple[str, int]]:
    found = located({g.name: g for g in gateways}, reach, {g.name: g for g in before})
    return {name: (g.address, g.port) for name, g in found.items()}


@pytest.mark.parametrize(
    ("reach", "found"),
    [
        (BEFORE, {"a": ("198.51.100.7", 443), "b": ("198.51.100.7", 443), "c": ("192.0.2.1", 15443), "d": ("", 15443)}),
        (TWO, {"a": ("198.51.100.7", 443), "b": ("198.51.100.8", 443), "c": ("192.0.2.1", 15443), "d": ("", 15443)}),
        (NONE, {"a": ("", 15443), "b": ("", 15443), "c": ("192.0.2.1", 15443), "d": ("", 15443)}),
        (None, {"a": ("", 15443), "b": ("", 15443), "c": ("192.0.2.1", 15443), "d": ("", 15443)}),
    ],
)
def test_who_is_where(reach: Reach | None, found: dict[str, tuple[str, int]]) -> None:
    gateways = (gateway("b"), gateway("a"), gateway("c", "192.0.2.1"), gateway("d", ""))
    assert where(reach, *gateways) == found


@pytest.mark.parametrize(
    ("reach", "port", "expected"),
    [
        (BEFORE, 15443, 443),
        (BEFORE, 15444, 0),
        (Reach(addresses=("198.51.100.7",), ports={443: 443}, only_port=443), 15443, 443),
    ],
)
def test_a_gateway_is_reached_by_the_port_that_leads_to_its_own(reach: Reach, port: int, expected: int) -> None:
    assert reach.port(port) == expected
    assert where(reach, gateway("a", port=port)) == {"a": ("198.51.100.7", expected) if expected else ("", port)}


def test_until_the_service_was_read_who_was_reached_still_is() -> None:
    known = gateway("a", "198.51.100.7", 443)
    assert where(None, gateway("a"), before=(known,)) == {"a": ("198.51.100.7", 443)}
    assert where(NONE, gateway("a"), before=(known,)) == {"a": ("", 15443)}


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [((), False), (("",), True), (("", ""), True), (("", "192.0.2.1"), False), (("192.0.2.1",), False)],
)
def test_a_cluster_that_calls_and_is_not_called(addresses: tuple[str, ...], expected: bool) -> None:
    assert outbound_only([gateway(str(n), address) for n, address in enumerate(addresses)]) is expected


@pytest.mark.parametrize(
    ("said", "service", "reach", "exports", "told"),
    [
        ((), "", None, True, []),
        (("192.0.2.1",), "", None, True, []),
        (("",), "", None, False, []),
        (("",), "", None, True, [("no_inbound", "gateways")]),
        ((VIA_SERVICE,), "i/gw", BEFORE, True, []),
        ((VIA_SERVICE,), "i/gw", None, False, []),
        ((VIA_SERVICE,), "i/gw", NONE, True, [("gateway_service", "i/gw"), ("no_inbound", "gateways")]),
        ((VIA_SERVICE,), "i/gw", replace(BEFORE, ports={80: 80}), False, [("gateway_service", "i/gw")]),
        ((VIA_SERVICE,), "", None, False, [("gateway_service", "kubernetes.gateway_service")]),
        (("192.0.2.1",), "i/gw", NONE, True, []),
    ],
)
def test_what_is_told(
    said: tuple[str, ...], service: str, reach: Reach | None, exports: bool, told: list[tuple[str, str]]
) -> None:
    gateways = {str(n): gateway(str(n), address) for n, address in enumerate(said)}
    found = problems(gateways, located(gateways, reach, {}), exports=exports, service=service, reach=reach)
    assert [(p.code, p.subject) for p in found] == told
    assert all(p.detail for p in found)
