"""A term that ends by itself."""

from __future__ import annotations

from discovery.leading import Term
from federation.aio.clock import FakeClock


def test_a_term_ends_by_itself() -> None:
    clock = FakeClock()
    term = Term(clock)
    term.extend(7, sent=clock.monotonic(), sent_wall_ns=clock.wall_ns(), seconds=6.0)
    assert term.value == 7
    version = term.version
    clock.advance(5.9)
    assert term.value == 7
    clock.advance(0.1)
    assert (term.value, term.version) == (None, version)
    assert term.end()
    assert not term.end()
    assert term.version == version + 1


def test_a_term_ends_while_the_machine_sleeps_and_its_monotonic_clock_stands_still() -> None:
    class Suspended(FakeClock):
        ahead = 0

        def wall_ns(self) -> int:
            return super().wall_ns() + self.ahead

    clock = Suspended()
    term = Term(clock)
    term.extend(7, sent=clock.monotonic(), sent_wall_ns=clock.wall_ns(), seconds=6.0)
    clock.ahead = 3_600_000_000_000
    assert term.value is None


def test_a_renewal_of_the_same_epoch_is_no_news() -> None:
    clock = FakeClock()
    term = Term(clock)
    for _ in range(3):
        term.extend(7, sent=clock.monotonic(), sent_wall_ns=clock.wall_ns(), seconds=6.0)
        clock.advance(2.0)
    assert term.version == 1
