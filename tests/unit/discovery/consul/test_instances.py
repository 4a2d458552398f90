"""Entries of Consul's health API become instances, with their faults named."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from discovery.consul.instances import MAX_META_BYTES, Reading, instance
from discovery.consul.types import Entry, Instance, State, read_health


def entry(*, node: dict[str, Any] | None = None, checks: list[tuple[str, str]] | None = None, **service: Any) -> Entry:
    """As Consul answers it."""
    tree = {
        "Node": {"Node": "n1", "Address": "10.0.0.9", **(node or {})},
        "Service": {"ID": "web-1", "Service": "web", "Address": "10.0.0.1", "Port": 80, **service},
        "Checks": [{"CheckID": i, "Status": s, "Output": "noise"} for i, s in checks or []],
    }
    return msgspec.convert(tree, Entry)


def read(reading: Reading = Reading(), **given: Any) -> Instance:  # noqa: B008 - frozen
    return instance(entry(**given), reading)


@pytest.mark.parametrize(
    ("checks", "weights", "state", "weight"),
    [
        ([], None, State.PASSING, 1),
        ([("serfHealth", "passing"), ("up", "passing")], {"Passing": 10, "Warning": 2}, State.PASSING, 10),
        ([("up", "warning")], {"Passing": 10, "Warning": 2}, State.WARNING, 2),
        ([("up", "warning")], {"Passing": 10, "Warning": 0}, State.CRITICAL, 1),  # gets nothing, by Consul's word
        ([("up", "passing"), ("serfHealth", "critical")], None, State.CRITICAL, 1),
        ([("up", "of the future")], None, State.CRITICAL, 1),
        ([("_node_maintenance", "critical")], None, State.MAINTENANCE, 1),
        ([("_service_maintenance:web-1", "critical"), ("up", "passing")], None, State.MAINTENANCE, 1),
        ([("_service_maintenance:web-1", "critical"), ("up", "critical")], None, State.CRITICAL, 1),
    ],
)
def test_the_worst_check_counts(checks: Any, weights: Any, state: State, weight: int) -> None:
    found = read(checks=checks, Weights=weights)
    assert (found.state, found.weight) == (state, weight)


TAGGED = {"lan": {"Address": "10.0.0.2"}, "wan": {"Address": "192.0.2.2"}, "lan_ipv6": {"Address": "2001:db8::2"}}


@pytest.mark.parametrize(
    ("reading", "given", "addresses"),
    [
        (Reading(), {}, ("10.0.0.1",)),
        (Reading(), {"Address": ""}, ("10.0.0.9",)),
        (Reading(), {"Address": "2001:db8::1"}, ("2001:db8::1",)),
        (Reading(), {"Address": "2001:DB8:0::1"}, ("2001:db8::1",)),
        (Reading(tagged="wan"), {"TaggedAddresses": TAGGED}, ("192.0.2.2",)),
        (Reading(tagged="lan"), {"TaggedAddresses": TAGGED}, ("10.0.0.2",)),
        (Reading(tagged="wan"), {}, ("10.0.0.1",)),
        (Reading(tagged="wan"), {"Address": "", "node": {"TaggedAddresses": {"wan": "192.0.2.9"}}}, ("192.0.2.9",)),
        (Reading(ipv6=True), {"TaggedAddresses": TAGGED}, ("10.0.0.1", "2001:db8::2")),
        (Reading(loopback=True), {"Address": "127.0.0.1"}, ("127.0.0.1",)),
    ],
)
def test_addresses(reading: Reading, given: dict[str, Any], addresses: tuple[str, ...]) -> None:
    found = read(reading, **given)
    assert (found.addresses, found.fault) == (addresses, ("", ""))


MOVED = {
    "lan": {"Address": "10.0.0.2"},
    "wan": {"Address": "192.0.2.2", "Port": 30443},
    "lan_ipv6": {"Address": "2001:db8::2", "Port": 8081},
    "wan_ipv6": {"Address": "2001:db8::3", "Port": 80},
}


@pytest.mark.parametrize(
    ("reading", "given", "targets"),
    [
        (Reading(), {}, [("10.0.0.1", 80)]),
        (Reading(tagged="wan"), {}, [("192.0.2.2", 30443)]),
        (Reading(tagged="lan"), {}, [("10.0.0.2", 80)]),  # a port of 0 is the service's
        (Reading(ipv6=True), {}, [("10.0.0.1", 80), ("2001:db8::2", 8081)]),
        (Reading(tagged="lan", ipv6=True), {}, [("10.0.0.2", 80), ("2001:db8::2", 8081)]),
        (Reading(tagged="wan", ipv6=True), {}, [("192.0.2.2", 30443), ("2001:db8::3", 80)]),
        (
            Reading(tagged="wan"),
            {"TaggedAddresses": {"wan_ipv4": {"Address": "192.0.2.4", "Port": 444}}},
            [("192.0.2.4", 444)],
        ),
        (
            Reading(tagged="wan", ipv6=True),
            {
                "Address": "",
                "TaggedAddresses": {},
                "node": {"TaggedAddresses": {"wan": "192.0.2.9", "wan_ipv6": "2001:db8::9"}},
            },
            [("192.0.2.9", 80), ("2001:db8::9", 80)],
        ),
        (
            Reading(tagged="wan"),
            {"Port": 0, "Ports": [{"Name": "http", "Port": 80, "Default": True}, {"Name": "admin", "Port": 9}]},
            [("192.0.2.2", 30443)],
        ),
    ],
)
def test_a_tagged_address_has_a_port_of_its_own(reading: Reading, given: dict[str, Any], targets: Any) -> None:
    found = read(reading, **{"TaggedAddresses": MOVED, **given})
    assert found.fault == ("", "")
    assert found.ports[0][1] == 80  # what the service is called by stays
    assert found.targets() == targets


def test_without_an_address_it_has_its_port_all_the_same() -> None:
    found = read(Address="", node={"Address": ""})
    assert (found.fault[0], found.ports, found.addresses) == ("consul_address", (("", 80),), ())


@pytest.mark.parametrize("port", [-1, 70_000])
def test_a_tagged_port_that_is_none(port: int) -> None:
    found = read(Reading(tagged="wan"), TaggedAddresses={"wan": {"Address": "192.0.2.2", "Port": port}})
    assert found.fault == ("consul_port", f"its port 'of its tagged address' is {port}; a port is 1 to 65535")


def test_a_service_without_a_port_has_that_of_its_tagged_address() -> None:
    found = read(Reading(tagged="wan"), Port=0, TaggedAddresses=MOVED)
    assert (found.ports, found.targets(), found.fault) == ((("", 30443),), [("192.0.2.2", 30443)], ("", ""))


@pytest.mark.parametrize(
    ("given", "ports"),
    [
        ({}, (("", 80),)),
        ({"Meta": {"isthmus-port-admin": "9000"}}, (("", 80), ("admin", 9000))),
        (
            {"Port": 0, "Ports": [{"Name": "grpc", "Port": 9}, {"Name": "http", "Port": 80, "Default": True}]},
            (("http", 80), ("grpc", 9)),
        ),
    ],
)
def test_ports(given: dict[str, Any], ports: Any) -> None:
    assert read(**given).ports == ports


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        ({"Address": "db.example.com"}, "consul_address", "is a name, and names are not resolved"),
        ({"Address": "", "node": {"Address": ""}}, "consul_address", "has no address, and its node has none"),
        ({"Address": "127.0.0.1"}, "consul_address", "is loopback"),
        ({"Address": "169.254.169.254"}, "consul_address", "link-local"),
        ({"Address": "0.0.0.0"}, "consul_address", "unspecified"),
        ({"Address": "300.1.1.1"}, "consul_address", "is not an IP address"),
        ({"Address": "fe80::1%eth0"}, "consul_address", "bound to an interface"),
        ({"Port": 0}, "consul_port", "its port is 0"),
        ({"Port": 70000}, "consul_port", "its port is 70000"),
        ({"Port": 0, "SocketPath": "/run/x"}, "consul_socket", "UNIX socket"),
        ({"Meta": {"isthmus-port-x": "many"}}, "consul_meta", "isthmus-port-x is 'many'"),
        ({"Meta": {"x": "y" * 1_000_000}}, "consul_meta_too_large", f"at most {MAX_META_BYTES}"),
    ],
)
def test_faults(given: dict[str, Any], code: str, says: str) -> None:
    found = read(**given)
    assert found.fault[0] == code
    assert says in found.fault[1]
    assert len(found.fault[1]) < 300
    assert sum(map(len, found.meta.values())) < 10_000  # what is too much is not kept either


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({}, ("", "")),
        ({"Locality": {"Region": "eu", "Zone": "a"}, "node": {"Locality": {"Region": "us", "Zone": "b"}}}, ("eu", "a")),
        ({"node": {"Locality": {"Region": "us", "Zone": "b"}}}, ("us", "b")),
        ({"node": {"Meta": {"isthmus-region": "us", "isthmus-zone": "c"}}}, ("us", "c")),
        ({"Meta": {"isthmus-zone": "d"}, "node": {"Meta": {"isthmus-region": "us", "isthmus-zone": "c"}}}, ("us", "d")),
    ],
)
def test_where_it_stands(given: dict[str, Any], place: tuple[str, str]) -> None:
    found = read(**given)
    assert (found.region, found.zone) == place


def test_one_entry_that_cannot_be_read_does_not_spoil_the_others() -> None:
    good = msgspec.to_builtins(entry())
    bad = {"Node": {"Node": "n2"}, "Service": {"ID": "web-2", "Port": "eighty"}}
    entries, unreadable = read_health(msgspec.json.encode([good, bad]))
    assert [e.service.id for e in entries] == ["web-1"]
    assert list(unreadable) == [("n2", "web-2")]
