"""One service that several places know: whose word counts, and what is said where they disagree."""

from __future__ import annotations

from dataclasses import replace

import pytest

from discovery.sources.unite import Offer, unite
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Endpoint, Grant, Locality, Port, Readiness, Service

DB = ServiceName("shop", "db")
SQL = Port(name="sql", port=5432)
WEB = Port(name="web", port=80, app=AppProtocol.HTTP)


def service(
    *addresses: str, ports: tuple[Port, ...] = (SQL,), target: int = 15432, at: int = 7, **more: object
) -> Service:
    endpoints = tuple(Endpoint(address=a, ports={p.port: target for p in ports}) for a in addresses)
    found = Service(name=DB, exported_at_ns=at, ports=ports, endpoints=endpoints, ip_families=("IPv4",))
    return replace(found, **more)  # type: ignore[arg-type]


def offer(place: str, found: Service, *, exported: bool = True) -> Offer:
    return Offer(place=place, service=found, exported=exported)


def addresses(found: Service) -> list[str]:
    return [e.address for e in found.endpoints]


def test_what_one_place_knows_is_its_own_object() -> None:
    found = service("10.0.0.1")
    assert unite(DB, [offer("kubernetes", found)]) == (found, ())
    assert unite(DB, [offer("kubernetes", found)])[0] is found


def test_pods_and_vms_are_one_service() -> None:
    pods, vms = service("10.0.0.2", "10.0.0.1", labels={"tier": "gold"}), service("192.0.2.1", at=3, target=5432)
    found, problems = unite(DB, [offer("kubernetes", pods), offer("vm", vms)])
    assert addresses(found) == ["10.0.0.1", "10.0.0.2", "192.0.2.1"]
    assert found.readiness == (Readiness(Locality(), 3),)
    assert (found.exported_at_ns, found.labels, found.ports) == (3, {"tier": "gold"}, (SQL,))
    assert problems == ()
    assert found.endpoints[2] is vms.endpoints[0]


def test_who_exports_decides_and_others_join() -> None:
    pods, vms = service("10.0.0.1", grants=(Grant("west"),)), service("192.0.2.1", at=1)
    found, problems = unite(DB, [offer("kubernetes", pods), offer("vm", vms, exported=False)])
    assert (found.grants, found.exported_at_ns, problems) == ((Grant("west"),), 7, ())
    assert addresses(found) == ["10.0.0.1", "192.0.2.1"]
    found, problems = unite(DB, [offer("kubernetes", pods, exported=False), offer("vm", vms)])
    assert (found.grants, found.exported_at_ns, problems) == ((), 1, ())


@pytest.mark.parametrize(
    ("ports", "gives", "says"),
    [
        ((SQL,), {5432: 15432}, None),
        ((Port(name="other", port=5432),), {5432: 15432}, None),
        ((Port(name="sql", port=6000),), {5432: 15432}, None),
        ((Port(name="", port=5432),), {5432: 15432}, None),
        ((SQL, WEB), {5432: 15432}, "vm has port 80/TCP, which kubernetes has not: it is left out"),
        ((WEB,), None, "vm has port 80/TCP, which kubernetes has not: it is left out"),
        ((replace(SQL, app=AppProtocol.HTTP),), {5432: 15432}, "port 5432/TCP is tcp by kubernetes, which counts"),
        ((replace(WEB, port=5432, name="x"), Port(name="sql", port=9)), {5432: 15432}, "vm has port 9/TCP, which"),
    ],
)
def test_ports_fit_by_number_and_else_by_name(
    ports: tuple[Port, ...], gives: dict[int, int] | None, says: str | None
) -> None:
    found, problems = unite(
        DB, [offer("kubernetes", service("10.0.0.1")), offer("vm", service("10.0.0.9", ports=ports))]
    )
    (*_, last) = found.endpoints
    assert (last.ports if last.address == "10.0.0.9" else None) == gives
    assert found.ports == (SQL,)
    assert {p.code for p in problems} <= {"port_conflict"}
    assert all(p.subject == "shop/db" for p in problems)
    assert (says is None) == (not problems)
    assert says is None or any(p.detail.startswith(says) for p in problems)


def test_a_port_that_is_lacking_is_told() -> None:
    both = service("10.0.0.1", ports=(SQL, WEB))
    found, problems = unite(DB, [offer("kubernetes", both), offer("vm", service("10.0.0.9"))])
    assert [p.detail for p in problems] == ["vm lacks port 80/TCP of kubernetes"]
    assert found.endpoints[1].ports == {5432: 15432}


def test_an_instance_that_stands_in_two_places_counts_once() -> None:
    down = replace(service("192.0.2.1"), endpoints=(Endpoint(address="192.0.2.1", ready=False, ports={5432: 15432}),))
    found, _ = unite(DB, [offer("consul", down), offer("vm", service("192.0.2.1", "192.0.2.2"))])
    assert [(e.address, e.ready) for e in found.endpoints] == [("192.0.2.1", False), ("192.0.2.2", True)]
    other_port, _ = unite(DB, [offer("consul", down), offer("vm", service("192.0.2.1", target=15433))])
    assert len(other_port.endpoints) == 2, "two instances on one machine"


def test_other_grants_are_a_conflict_and_the_first_count() -> None:
    found, problems = unite(
        DB, [offer("kubernetes", service("10.0.0.1", grants=(Grant("west"),))), offer("vm", service("10.0.0.9"))]
    )
    assert found.grants == (Grant("west"),)
    assert [(p.code, p.detail) for p in problems] == [
        ("grants_conflict", "exported to others by vm than by kubernetes, which counts")
    ]
