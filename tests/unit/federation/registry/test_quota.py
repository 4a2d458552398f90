"""Accounting of one origin, and the rate it may have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import QuotaExceeded
from federation.model.record import Kind
from federation.registry.quota import NOTHING, Size, TokenBucket, Usage
from federation.registry.settings import Quotas

LIMITS = Quotas(services=2, endpoints=10, bytes=100, record_bytes=60, gateways=1)


def service(endpoints: int = 1, length: int = 10) -> Size:
    return Size.of(Kind.SERVICE, length=length, endpoints=endpoints)


@pytest.mark.parametrize(
    ("held", "new", "what"),
    [
        ([service(), service()], service(), "services"),
        ([service(endpoints=6)], service(endpoints=5), "endpoints"),
        ([service(length=50)], service(length=51), "bytes"),
        ([], service(length=61), "bytes"),
        ([Size.of(Kind.GATEWAY, length=1)], Size.of(Kind.GATEWAY, length=1), "gateways"),
    ],
)
def test_excess_is_refused_and_not_counted(held: list[Size], new: Size, what: str) -> None:
    usage = Usage()
    for size in held:
        usage.replace(NOTHING, size, LIMITS)
    before = (usage.services, usage.gateways, usage.endpoints, usage.bytes)
    with pytest.raises(QuotaExceeded, match=what):
        usage.replace(NOTHING, new, LIMITS)
    assert (usage.services, usage.gateways, usage.endpoints, usage.bytes) == before


def test_a_replacement_counts_the_difference() -> None:
    usage = Usage()
    usage.replace(NOTHING, service(endpoints=8), LIMITS)
    usage.replace(service(endpoints=8), service(endpoints=10), LIMITS)
    assert (usage.services, usage.endpoints) == (1, 10)


def test_shrinking_is_accepted_above_a_lowered_limit() -> None:
    usage = Usage()
    usage.replace(NOTHING, service(endpoints=8), LIMITS)
    usage.replace(service(endpoints=8), service(endpoints=7), Quotas(endpoints=3))
    usage.replace(service(endpoints=7), NOTHING, Quotas(endpoints=3))
    assert (usage.services, usage.endpoints, usage.bytes) == (0, 0, 0)


def test_a_burst_is_free_and_then_the_rate_holds() -> None:
    bucket = TokenBucket(rate=10, burst=100, now=0)
    assert bucket.take(100, 0) == 0
    assert bucket.take(10, 0) == pytest.approx(1)
    assert bucket.take(10, 1) == pytest.approx(1)
    assert bucket.take(1, 1000) == 0


@given(steps=st.lists(st.tuples(st.integers(1, 500), st.floats(0, 3)), min_size=1, max_size=20))
def test_who_waits_as_told_keeps_to_the_rate(steps: list[tuple[int, float]]) -> None:
    bucket, now, total = TokenBucket(rate=50, burst=100, now=0), 0.0, 0
    for batch, gap in steps:
        now += gap + bucket.take(batch, now + gap)
        total += batch
        assert total <= 100 + 50 * now + 1e-6
