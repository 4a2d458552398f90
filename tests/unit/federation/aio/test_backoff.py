import pytest

from federation.aio.backoff import Backoff


def test_delays_grow_to_the_cap_and_reset_begins_anew():
    backoff = Backoff(base=1.0, cap=8.0, uniform=lambda low, high: high)
    assert [backoff.next() for _ in range(6)] == [1, 2, 4, 8, 8, 8]
    backoff.reset()
    assert backoff.next() == 1


def test_delays_never_end_nor_overflow():
    backoff = Backoff(base=0.1, cap=5.0)
    for _ in range(5000):
        assert 0.05 <= backoff.next() <= 5.0


@pytest.mark.parametrize(("base", "cap"), [(0, 1), (-1, 1), (2, 1)])
def test_nonsense_is_refused(base: float, cap: float):
    with pytest.raises(ValueError, match="0 < base <= cap"):
        Backoff(base=base, cap=cap)
