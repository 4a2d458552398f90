from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from federation.aio.clock import FakeClock
from federation.aio.files import write_state
from federation.errors import CorruptState, InvalidInput, QuotaExceeded, StorageFailed
from federation.model.ids import ServiceName
from sidecar.vip import NETWORKS, REDIRECT_NETWORK, Range, VirtualAddresses

ECHO, DB = ServiceName("shop", "echo"), ServiceName("shop", "db")
TINY = {Range.LOOPBACK: "127.128.0.0/29"}  # six addresses


@pytest.mark.parametrize("kind", list(Range))
def test_addresses_are_stable_and_in_their_range(kind: Range) -> None:
    pool, other = VirtualAddresses(), VirtualAddresses()
    address = pool.allocate(ECHO, kind=kind)
    assert ipaddress.IPv4Address(address) in ipaddress.IPv4Network(NETWORKS[kind])
    assert pool.allocate(ECHO, kind=kind) == address
    other.allocate(DB, kind=kind)
    assert other.allocate(ECHO, kind=kind) == address  # whatever came before
    pinned = pool.allocate(ECHO, "east", kind=kind)
    assert pinned != address
    found = pool.find(pinned)
    assert found is not None
    assert (found.service, found.cluster) == (ECHO, "east")
    assert pool.find("127.0.0.1") is None


def test_the_ranges() -> None:
    halves = [ipaddress.IPv4Network(NETWORKS[r]) for r in (Range.REDIRECT_OPAQUE, Range.REDIRECT_HTTP)]
    assert list(ipaddress.IPv4Network(REDIRECT_NETWORK).subnets()) == halves
    assert Range.of(redirect=False, http=True) is Range.LOOPBACK
    assert Range.of(redirect=True, http=True) is Range.REDIRECT_HTTP
    assert Range.of(redirect=True, http=False) is Range.REDIRECT_OPAQUE


def test_a_restart_keeps_them(tmp_path: Path) -> None:
    path = tmp_path / "vip"
    pool = VirtualAddresses.open(path, networks=TINY)
    before = {(s, c): pool.allocate(s, c, kind=Range.LOOPBACK) for s in (ECHO, DB) for c in (None, "east")}
    assert pool.dirty
    pool.save()
    assert not pool.dirty
    again = VirtualAddresses.open(path, networks=TINY)
    assert {(x.service, x.cluster): x.address for x in again.in_use()} == before
    assert not again.dirty


def test_a_change_of_kind_gets_a_new_address_and_the_old_one_stays_its_own(tmp_path: Path) -> None:
    pool = VirtualAddresses.open(tmp_path / "vip")
    opaque = pool.allocate(ECHO, kind=Range.REDIRECT_OPAQUE)
    http = pool.allocate(ECHO, kind=Range.REDIRECT_HTTP)
    assert opaque != http
    old = pool.find(opaque)
    assert old is not None
    assert old.service == ECHO
    assert old.released_ns
    assert [x.address for x in pool.in_use()] == [http]
    pool.save()
    assert [x.address for x in VirtualAddresses.open(tmp_path / "vip").in_use()] == [http]


def test_exhaustion_and_reuse_after_a_while() -> None:
    clock = FakeClock()
    pool = VirtualAddresses(networks=TINY, fresh=60, clock=clock)
    held = {i: pool.allocate(ServiceName("shop", f"s{i}"), kind=Range.LOOPBACK) for i in range(6)}
    assert len(set(held.values())) == 6
    assert not {"127.128.0.0", "127.128.0.7"} & set(held.values())
    with pytest.raises(QuotaExceeded) as caught:
        pool.allocate(ECHO, kind=Range.LOOPBACK)
    assert caught.value.error_code == "vip_exhausted"
    pool.release(ServiceName("shop", "s3"))
    clock.advance(59)
    with pytest.raises(QuotaExceeded):  # still fresh
        pool.allocate(ECHO, kind=Range.LOOPBACK)
    clock.advance(-3600)  # a clock set back does not make it older
    with pytest.raises(QuotaExceeded):
        pool.allocate(ECHO, kind=Range.LOOPBACK)
    clock.advance(3602)
    assert pool.allocate(ECHO, kind=Range.LOOPBACK) == held[3]
    with pytest.raises(QuotaExceeded):
        pool.allocate(ServiceName("shop", "s3"), kind=Range.LOOPBACK)


def test_a_released_service_that_comes_back_has_its_address() -> None:
    clock = FakeClock()
    pool = VirtualAddresses(networks=TINY, fresh=60, clock=clock)
    address = pool.allocate(ECHO, kind=Range.LOOPBACK)
    pool.release(ECHO)
    pool.release(ECHO)
    pool.release(DB)
    assert list(pool.in_use()) == []
    clock.advance(10_000)
    assert pool.allocate(ECHO, kind=Range.LOOPBACK) == address
    assert [x.service for x in pool.in_use()] == [ECHO]


def test_old_leases_are_forgotten_when_saving(tmp_path: Path) -> None:
    clock = FakeClock()
    pool = VirtualAddresses.open(tmp_path / "vip", fresh=60, clock=clock)
    address = pool.allocate(ECHO, kind=Range.LOOPBACK)
    pool.release(ECHO)
    clock.advance(61)
    pool.allocate(DB, kind=Range.LOOPBACK)
    pool.save()
    assert pool.find(address) is None
    assert pool.allocate(ECHO, kind=Range.LOOPBACK) == address


def test_addresses_of_another_range_are_dropped(tmp_path: Path) -> None:
    pool = VirtualAddresses.open(tmp_path / "vip")
    pool.allocate(ECHO, kind=Range.LOOPBACK)
    pool.save()
    assert list(VirtualAddresses.open(tmp_path / "vip", networks={Range.LOOPBACK: "127.9.0.0/16"}).in_use()) == []
    assert list(VirtualAddresses.open(tmp_path / "vip", networks={}).in_use()) == []
    with pytest.raises(InvalidInput):
        VirtualAddresses(networks={}).allocate(ECHO, kind=Range.LOOPBACK)


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p.write_bytes(p.read_bytes()[:-1]),
        lambda p: write_state(p, b"no json"),
        lambda p: write_state(p, b'[["nonsense","a","b",null,"loopback",0]]'),
        lambda p: write_state(p, b'[["127.128.0.1","a","b",null,"elsewhere",0]]'),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    path = tmp_path / "vip"
    pool = VirtualAddresses.open(path)
    pool.allocate(ECHO, kind=Range.LOOPBACK)
    pool.save()
    damage(path)
    with pytest.raises(CorruptState):
        VirtualAddresses.open(path)


def test_a_failed_save_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    pool = VirtualAddresses.open(tmp_path / "there" / "vip")
    pool.allocate(ECHO, kind=Range.LOOPBACK)
    (tmp_path / "there").rmdir()
    with pytest.raises(StorageFailed):
        pool.save()
    assert pool.dirty
    (tmp_path / "there").mkdir()
    pool.save()
    assert not pool.dirty


class Machine(RuleBasedStateMachine):
    """No address ever stands for two services within `fresh` seconds, through restarts too."""

    FRESH = 100

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.pool = VirtualAddresses(networks=TINY, fresh=self.FRESH, clock=self.clock)
        self.last: dict[str, tuple[ServiceName, float]] = {}  # address → (who had it, until when)
        self.used: dict[ServiceName, str] = {}

    @rule(i=st.integers(0, 9))
    def allocate(self, i: int) -> None:
        service = ServiceName("n", f"s{i}")
        try:
            address = self.pool.allocate(service, kind=Range.LOOPBACK)
        except QuotaExceeded:
            assert service not in self.used
            return
        if service in self.used:
            assert self.used[service] == address
        owner, until = self.last.get(address, (service, 0.0))
        assert owner == service or self.clock.monotonic() - until >= self.FRESH
        self.used[service] = address

    @rule(i=st.integers(0, 9))
    def release(self, i: int) -> None:
        service = ServiceName("n", f"s{i}")
        self.pool.release(service)
        if service in self.used:
            self.last[self.used.pop(service)] = (service, self.clock.monotonic())

    @rule(seconds=st.integers(1, 80))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def restart(self) -> None:
        raw = self.pool.dump()
        self.pool = VirtualAddresses(networks=TINY, fresh=self.FRESH, clock=self.clock)
        self.pool._load(raw)

    @invariant()
    def what_is_used_is_known(self) -> None:
        assert {x.service: x.address for x in self.pool.in_use()} == self.used
        assert len(set(self.used.values())) == len(self.used)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=50, stateful_step_count=40)


@given(st.lists(st.tuples(st.integers(0, 400), st.none() | st.just("east")), max_size=300))
@settings(max_examples=20)
def test_no_two_share_an_address(uses: list[tuple[int, str | None]]) -> None:
    pool = VirtualAddresses(networks={Range.LOOPBACK: "127.128.0.0/22"})
    addresses = {(i, c): pool.allocate(ServiceName("n", f"s{i}"), c, kind=Range.LOOPBACK) for i, c in uses}
    assert len(set(addresses.values())) == len(addresses)
