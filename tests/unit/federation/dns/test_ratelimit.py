from __future__ import annotations

from collections.abc import Callable

import dns.flags
import dns.message
import pytest
import structlog

from federation.dns.ratelimit import Limiter, RateLimit, Verdict
from federation.dns.resolve import Resolver
from federation.dns.table import Table
from federation.dns.udp import LimitedDatagrams


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_for_each_network() -> None:
    time = Time()
    limiter = Limiter(RateLimit(per_second=10, burst=2, slip=2), time)
    assert [limiter.judge(f"10.0.0.{i}") for i in range(4)] == [
        Verdict.PASS,
        Verdict.PASS,
        Verdict.DROP,
        Verdict.SLIP,
    ]
    assert limiter.judge("10.0.1.1") is Verdict.PASS
    assert limiter.judge("fd00:0:0:1::1") is Verdict.PASS
    assert limiter.judge("fd00:0:0:2::1") is Verdict.PASS
    assert limiter.judge("fd00:0:0:3::1%eth0") is Verdict.DROP  # the same /56
    time.now += 0.125
    assert limiter.judge("10.0.0.77") is Verdict.PASS
    assert limiter.judge("10.0.0.77") is not Verdict.PASS
    time.now += 1000
    assert [limiter.judge("10.0.0.1") for _ in range(3)].count(Verdict.PASS) == 2  # no more than the burst is saved


def test_without_slip_everything_over_the_limit_is_dropped() -> None:
    limiter = Limiter(RateLimit(per_second=1, burst=1, slip=0), Time())
    assert [limiter.judge("10.0.0.1") for _ in range(4)] == [Verdict.PASS, *[Verdict.DROP] * 3]


def test_what_is_remembered_is_bounded() -> None:
    limiter = Limiter(RateLimit(per_second=1, burst=1, networks=10), Time())
    for i in range(100):
        assert limiter.judge(f"10.0.{i}.1") is Verdict.PASS
    assert limiter.judge("10.0.0.1") is Verdict.PASS  # forgotten
    assert limiter.judge("10.0.99.1") is not Verdict.PASS


class Sent:
    """A transport that counts."""

    def __init__(self) -> None:
        self.datagrams: list[bytes] = []

    def sendto(self, data: bytes, addr: object) -> None:
        self.datagrams.append(data)


@pytest.mark.parametrize(("name", "rtype"), [("many.shop.global", "A"), ("nope.shop.global", "A"), ("global", "ANY")])
def test_a_flood_is_not_amplified(table: Table, query: Callable[..., bytes], name: str, rtype: str) -> None:
    resolver = Resolver(
        table,
        upstream=None,
        miss=None,
        branch=None,
        miss_timeout=1,
        max_misses=1,
        max_waiting=1,
        log=structlog.get_logger(),
    )
    server = LimitedDatagrams(table, resolver, Limiter(RateLimit(per_second=10, burst=20), Time()))
    sent = Sent()
    server.connection_made(sent)  # type: ignore[arg-type]
    message = query(name, rtype, use_edns=0, payload=4096)
    for _ in range(2000):
        server.datagram_received(message, ("192.0.2.1", 53))
    assert sum(map(len, sent.datagrams)) < 1.5 * 2000 * len(message)
    assert server.limited == 1980
    slipped = dns.message.from_wire(sent.datagrams[-1])
    assert slipped.flags & dns.flags.TC
    assert len(sent.datagrams[-1]) <= len(message)
    server.datagram_received(b"garbage that is long enough", ("192.0.2.1", 53))
    server.datagram_received(b"garbage that is long enough", ("192.0.2.1", 53))
    assert len(sent.datagrams) == 20 + 990
