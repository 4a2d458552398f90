"""Addresses that the API server gives: nothing before it has confirmed them, and nothing twice."""

from __future__ import annotations

import pytest

from discovery.mcs.derived import DerivedAllocations
from federation.errors import CorruptState
from federation.model.ids import ServiceName

ECHO, OTHER = ServiceName("shop", "echo"), ServiceName("shop", "other")
S = 1_000_000_000


def allocations(first: int = 10_000, last: int = 10_009) -> DerivedAllocations:
    return DerivedAllocations(gateway_ports=(first, last), release_seconds=60.0)


def take(made: DerivedAllocations, name: ServiceName = ECHO, *ports: int, headless: bool = False):
    return made.take(name, families=("IPv4",), ports=ports or (80,), headless=headless, now_ns=0)


def test_nothing_is_told_before_it_is_confirmed():
    made = allocations()
    assert take(made) == ((), ("IPv4",), {})
    ips, ports = made.proposal(ECHO, now_ns=0)
    assert (ips, list(ports)) == ((), [80])
    assert made.confirm(ECHO, ("10.96.0.7",), ports)
    assert not made.confirm(ECHO, ("10.96.0.7",), ports)
    assert take(made) == (("10.96.0.7",), ("IPv4",), ports)
    assert made.proposal(ECHO, now_ns=0) == (("10.96.0.7",), ports)


def test_families_are_those_of_the_addresses():
    made = allocations()
    take(made)
    made.confirm(ECHO, ("fd00::7", "10.96.0.7"), {})
    assert take(made)[:2] == (("fd00::7", "10.96.0.7"), ("IPv6", "IPv4"))


def test_a_port_of_another_import_is_not_believed():
    made = allocations()
    take(made)
    take(made, OTHER)
    _, ports = made.proposal(ECHO, now_ns=0)
    made.confirm(ECHO, ("10.96.0.1",), ports)
    made.confirm(OTHER, ("10.96.0.2",), ports)
    assert take(made, OTHER)[2] == {}
    _, others = made.proposal(OTHER, now_ns=0)
    assert others[80] != ports[80]
    made.confirm(OTHER, ("10.96.0.2",), {80: 99})  # out of range
    assert take(made, OTHER)[2] == {}


def test_what_the_api_server_has_counts_against_what_was_proposed():
    made = allocations()
    take(made)
    _, ports = made.proposal(ECHO, now_ns=0)
    another = 10_000 if ports[80] != 10_000 else 10_001
    made.confirm(ECHO, ("10.96.0.1",), {80: another})
    assert take(made)[2] == {80: another}
    assert made.proposal(ECHO, now_ns=0)[1] == {80: another}


def test_ports_rest_after_the_end_and_addresses_do_not():
    made = allocations(10_000, 10_000)
    take(made)
    _, ports = made.proposal(ECHO, now_ns=0)
    made.confirm(ECHO, ("10.96.0.1",), ports)
    made.release(ECHO, now_ns=0)
    assert take(made, ECHO)[0] == ()
    assert made.proposal(ECHO, now_ns=1)[1] == ports
    made.release(ECHO, now_ns=1)
    made.expire(now_ns=70 * S)
    take(made, OTHER)
    assert made.proposal(OTHER, now_ns=70 * S)[1] == ports


def test_headless_imports_have_nothing():
    made = allocations()
    take(made)
    made.confirm(ECHO, ("10.96.0.1",), {80: 10_000})
    assert take(made, headless=True) == ((), ("IPv4",), {})


def test_the_disk():
    made = allocations()
    take(made)
    _, ports = made.proposal(ECHO, now_ns=0)
    made.confirm(ECHO, ("10.96.0.1",), ports)
    assert made.changed
    data = made.dump()
    assert not made.changed
    again = allocations()
    again.load(data)
    assert take(again) == (("10.96.0.1",), ("IPv4",), ports)
    again.end_unused([], now_ns=0)
    assert take(again)[0] == ()
    with pytest.raises(CorruptState):
        allocations().load(b"[]")


def test_addresses_that_are_not_given_again():
    made = allocations()
    take(made)
    assert not made.forget_addresses(ECHO)
    made.confirm(ECHO, ("10.96.0.1",), {80: 10_000})
    assert made.forget_addresses(ECHO)
    assert take(made) == ((), ("IPv4",), {80: 10_000})
