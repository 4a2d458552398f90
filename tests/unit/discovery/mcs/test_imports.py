"""ClusterSetIPs and gateway ports: stable, never twice."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.mcs.imports import Allocations
from federation.errors import CorruptState
from federation.model.ids import ServiceName

SECOND = 1_000_000_000


def make(**changes: object) -> Allocations:
    options = {"v4": "241.0.0.0/16", "v6": "", "gateway_ports": (20_000, 29_999), "release_seconds": 600.0}
    return Allocations(**{**options, **changes})  # type: ignore[arg-type]


def take(
    allocations: Allocations,
    name: str,
    *,
    families: tuple[str, ...] = ("IPv4",),
    ports: tuple[int, ...] = (80,),
    headless: bool = False,
    now: int = 0,
) -> tuple[tuple[str, ...], tuple[str, ...], dict[int, int]]:
    return allocations.take(
        ServiceName("shop", name), families=families, ports=ports, headless=headless, now_ns=now * SECOND
    )


def test_the_same_import_gets_the_same_for_ever() -> None:
    allocations = make()
    first = take(allocations, "echo", ports=(80, 443))
    assert take(allocations, "echo", ports=(80, 443)) == first
    assert ipaddress.ip_address(first[0][0]) in ipaddress.ip_network("241.0.0.0/16")
    assert set(first[2]) == {80, 443}
    restored = make()
    restored.load(allocations.dump())
    assert take(restored, "echo", ports=(80, 443)) == first
    assert take(make(), "echo", ports=(80, 443)) == first  # even without its state


@pytest.mark.parametrize(
    ("v4", "v6", "families", "expected"),
    [
        ("241.0.0.0/16", "", ("IPv4",), ("IPv4",)),
        ("241.0.0.0/16", "", ("IPv6", "IPv4"), ("IPv4",)),
        ("241.0.0.0/16", "", ("IPv6",), ("IPv4",)),
        ("241.0.0.0/16", "", (), ("IPv4",)),
        ("241.0.0.0/16", "fd00:241::/112", ("IPv6", "IPv4"), ("IPv6", "IPv4")),
        ("", "fd00:241::/64", ("IPv4",), ("IPv6",)),
    ],
)
def test_families_have_their_ips_in_the_same_order(
    v4: str, v6: str, families: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    ips, given_families, _ = take(make(v4=v4, v6=v6), "echo", families=families)
    assert given_families == expected
    assert tuple(f"IPv{ipaddress.ip_address(ip).version}" for ip in ips) == expected


def test_headless_imports_have_ports_and_no_ips() -> None:
    ips, families, ports = take(make(), "db", headless=True)
    assert (ips, families, set(ports)) == ((), ("IPv4",), {80})


def test_what_was_released_is_kept_for_its_import_for_a_while() -> None:
    allocations = make()
    first = take(allocations, "echo")
    allocations.release(ServiceName("shop", "echo"), now_ns=0)
    allocations.expire(now_ns=599 * SECOND)
    assert take(allocations, "echo") == first
    allocations.release(ServiceName("shop", "echo"), now_ns=0)
    allocations.expire(now_ns=600 * SECOND)
    assert b"echo" not in allocations.dump()


def test_an_exhausted_range_takes_from_the_released_first() -> None:
    allocations = make(v4="241.0.0.0/28", gateway_ports=(20_000, 20_013))
    held = {take(allocations, f"s{n}")[0] for n in range(14)}
    assert len(held) == 14
    assert take(allocations, "more") == ((), (), {})
    assert allocations.exhausted == {"shop/more"}
    allocations.release(ServiceName("shop", "s3"), now_ns=1)
    freed = take(allocations, "more", now=2)
    assert freed[0] in held
    assert freed[2]
    assert allocations.exhausted == set()


def test_another_range_keeps_what_fits() -> None:
    allocations = make(gateway_ports=(20_000, 29_999))
    take(allocations, "echo")
    smaller = make(v4="241.0.0.0/28", gateway_ports=(30_000, 30_001))
    smaller.load(allocations.dump())
    ips, _, ports = take(smaller, "echo")
    assert ipaddress.ip_address(ips[0]) in ipaddress.ip_network("241.0.0.0/28")
    assert ports[80] in (30_000, 30_001)


def test_what_nobody_uses_after_a_start_begins_its_delay() -> None:
    allocations = make()
    for name in ("echo", "old"):
        take(allocations, name)
    restored = make()
    restored.load(allocations.dump())
    restored.end_unused([ServiceName("shop", "echo")], now_ns=0)
    restored.expire(now_ns=600 * SECOND)
    assert b"echo" in restored.dump()
    assert b"old" not in restored.dump()


def test_damaged_state_is_refused() -> None:
    with pytest.raises(CorruptState):
        make().load(b'{"v4": 3}')


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["take", "release", "expire", "restart"]),
            st.integers(0, 20),
            st.lists(st.integers(1, 5), max_size=3, unique=True),
        ),
        max_size=60,
    )
)
def test_nothing_is_given_twice(steps: list[tuple[str, int, list[int]]]) -> None:
    def fresh() -> Allocations:
        return make(v4="241.0.0.0/28", gateway_ports=(20_000, 20_009), release_seconds=3)

    allocations = fresh()
    live: dict[str, tuple[tuple[str, ...], dict[int, int]]] = {}
    for now, (what, number, ports) in enumerate(steps):
        name = f"s{number}"
        if what == "take":
            ips, _, given_ports = take(allocations, name, ports=tuple(ports), now=now)
            before = live.get(name)
            if before is not None and before[0]:
                assert ips == before[0]
                assert all(given_ports[p] == before[1][p] for p in given_ports if p in before[1])
            live[name] = (ips, given_ports)
        elif what == "release" and name in live:
            del live[name]
            allocations.release(ServiceName("shop", name), now_ns=now * SECOND)
        elif what == "expire":
            allocations.expire(now_ns=now * SECOND)
        elif what == "restart":
            data = allocations.dump()
            allocations = fresh()
            allocations.load(data)
        ips_in_use = [ip for held, _ in live.values() for ip in held]
        ports_in_use = [p for _, held in live.values() for p in held.values()]
        assert len(set(ips_in_use)) == len(ips_in_use)
        assert len(set(ports_in_use)) == len(ports_in_use)
