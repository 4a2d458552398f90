"""What a VM may say of its services, and which errors it hears."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from discovery.vms.registration import MAX_PORTS, Registration, Site, check, parse
from federation.errors import InvalidInput, IsthmusError
from federation.model.ids import ServiceName, SpiffeId
from federation.model.service import AppProtocol, Endpoint, Grant, Locality, Port
from federation.proto.v1 import catalog_pb2 as pb
from federation.proto.v1 import records_pb2 as records

IDENTITY = SpiffeId.parse("spiffe://dc1.test/ns/shop/sa/db-1")
SITE = Site(trust_domain="dc1.test")
HOST = "192.0.2.1"


def workload(**changes: Any) -> pb.Workload:
    given: dict[str, Any] = {
        "namespace": "shop",
        "name": "db",
        "ports": [records.Port(name="sql", port=5432, protocol=records.TCP)],
        "targets": {5432: 15432},
        "address": HOST,
        "ready": True,
        "exported": True,
    }
    return pb.Workload(**{**given, **changes})


def checked(message: pb.Workload, *, host: str = HOST, site: Site = SITE) -> Registration:
    return check(message, identity=IDENTITY, host=host, site=site)


def endpoint(message: pb.Workload, **more: Any) -> Endpoint:
    return checked(message, **more).service.endpoints[0]


def test_a_whole_registration() -> None:
    message = workload(
        ports=[
            records.Port(name="web", port=80, app=records.HTTP, declared="http"),
            records.Port(name="sql", port=5432),
        ],
        targets={80: 8080, 5432: 15432},
        labels={"tier": "gold"},
        grants=[records.Grant(consumer="west", ports=[80])],
        locality=records.Locality(region="eu", zone="eu-1"),
    )
    found = checked(message)
    assert (found.name, found.exported) == (ServiceName("shop", "db"), True)
    service = found.service
    assert service.ports == (
        Port(name="web", port=80, app=AppProtocol.HTTP, declared="http"),
        Port(name="sql", port=5432),
    )
    assert (service.labels, service.grants, service.ip_families) == (
        {"tier": "gold"},
        (Grant("west", (80,)),),
        ("IPv4",),
    )
    assert service.endpoints == (
        Endpoint(address=HOST, locality=Locality("eu", "eu-1"), ports={80: 8080, 5432: 15432}),
    )
    assert parse(message.SerializeToString()) == message


@pytest.mark.parametrize(
    ("ready", "draining", "gives"),
    [
        (True, False, (True, False)),
        (True, True, (False, True)),
        (False, False, (False, False)),
        (False, True, (False, False)),
    ],
)
def test_readiness_and_draining(ready: bool, draining: bool, gives: tuple[bool, bool]) -> None:
    found = endpoint(workload(ready=ready, draining=draining))
    assert (found.ready, found.terminating) == gives


def test_who_is_reached_by_mutual_tls_is_so_as_the_identity_of_its_stream() -> None:
    assert endpoint(workload()).identity == ""
    assert endpoint(workload(secure=True)).identity == str(IDENTITY)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (workload(name="D_B"), "invalid_name"),
        (workload(namespace=""), "invalid_name"),
        (workload(name="x" * 63, namespace="y" * 63), ""),
        (workload(ports=[]), "invalid_port"),
        (workload(ports=[records.Port(port=0)], targets={0: 1}), "invalid_port"),
        (workload(ports=[records.Port(port=70000)], targets={70000: 1}), "invalid_port"),
        (workload(targets={5432: 0}), "invalid_port"),
        (workload(targets={}), "invalid_port"),
        (workload(targets={5432: 1, 80: 1}), "invalid_port"),
        (workload(ports=[records.Port(port=5432, name="A")]), "invalid_name"),
        (workload(ports=[records.Port(port=1), records.Port(port=2)], targets={1: 1, 2: 2}), "port_unnamed"),
        (
            workload(ports=[records.Port(port=1, name="a"), records.Port(port=1, name="b")], targets={1: 1}),
            "duplicate_port",
        ),
        (
            workload(ports=[records.Port(port=1, name="a"), records.Port(port=2, name="a")], targets={1: 1, 2: 2}),
            "duplicate_port",
        ),
        (
            workload(
                ports=[records.Port(port=n, name=f"p{n}") for n in range(1, MAX_PORTS + 2)],
                targets={n: n for n in range(1, MAX_PORTS + 2)},
            ),
            "too_many_ports",
        ),
        (workload(grants=[records.Grant(consumer="")]), "invalid_name"),
        (workload(grants=[records.Grant(consumer="a")] * 257), "too_many_grants"),
        (workload(labels={"a": "x" * 16384}), "metadata_too_large"),
        (workload(locality=records.Locality(zone="z" * 64)), "invalid_value"),
        (workload(address=""), "malformed_address"),
        (workload(address="db.example"), "address_is_a_name"),
        (workload(address="127.0.0.1"), "forbidden_address"),
        (workload(address="224.0.0.1"), "forbidden_address"),
        (workload(address="169.254.169.254"), "forbidden_address"),
        (workload(address="0.0.0.0"), "forbidden_address"),
        (workload(address="::ffff:127.0.0.1"), "forbidden_address"),
        (workload(address="fe80::1%eth0"), "forbidden_address"),
        (workload(address="127.0.0.1", secure=True), "forbidden_address"),
        (workload(address="192.0.2.2"), "address_not_its_own"),
        (workload(address="192.0.2.2", secure=True), ""),
    ],
)
def test_what_is_refused(message: pb.Workload, code: str) -> None:
    if not code:
        checked(message)
        return
    with pytest.raises(IsthmusError) as caught:
        checked(message)
    assert caught.value.error_code == code
    assert "gateway" not in str(caught.value)


def test_a_name_that_no_peer_could_call_is_refused() -> None:
    site = replace(SITE, trust_domain="d" * 63 + "." + "e" * 63 + ".test")
    with pytest.raises(InvalidInput) as caught:
        checked(workload(name="x" * 63, namespace="y" * 63), site=site)
    assert caught.value.error_code == "name_too_long"


@pytest.mark.parametrize(
    ("address", "host", "site", "taken"),
    [
        ("192.0.2.1", "192.0.2.1", SITE, True),
        ("192.0.2.1", "::ffff:192.0.2.1", SITE, True),
        ("2001:db8::1", "2001:db8:0::1", SITE, True),
        ("192.0.2.1", "", SITE, False),
        ("192.0.2.1", "unix", SITE, False),
        ("192.0.2.2", "192.0.2.1", replace(SITE, any_address=True), True),
        ("127.0.0.5", "127.0.0.9", replace(SITE, single_machine=True), True),
        ("192.0.2.2", "127.0.0.9", replace(SITE, single_machine=True), False),
    ],
)
def test_a_vm_speaks_for_its_own_address(address: str, host: str, site: Site, taken: bool) -> None:
    if taken:
        assert endpoint(workload(address=address), host=host, site=site).address
    else:
        with pytest.raises(IsthmusError):
            checked(workload(address=address), host=host, site=site)


def test_bytes_that_are_no_message() -> None:
    with pytest.raises(InvalidInput):
        parse(b"\xff\xff")
