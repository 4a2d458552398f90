"""What vanishes, in waves and one by one: nothing is believed too soon, and nothing is held for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from discovery.sources.removals import FEW, SHARE, Removals

CONFIRM = 2.0
STEP = 0.5


@given(
    wave=st.integers(min_value=0, max_value=300),
    churn=st.lists(st.integers(min_value=0, max_value=4), min_size=20, max_size=60),
    failing=st.integers(min_value=0, max_value=5),
)
def test_under_sustained_removals_each_is_confirmed_by_its_own_age(wave: int, churn: list[int], failing: int) -> None:
    """`wave` of 400 go at once, then a few in each half second; of `failing` the second look never succeeds."""
    removals = Removals(confirm_seconds=CONFIRM)
    known = {str(n) for n in range(400)}
    unseen = {str(n) for n in range(failing)}
    since: dict[str, float] = {}
    order = sorted(known, key=int)
    now = 0.0

    def look(*, second: bool) -> set[str]:
        gone = set(since)
        seen = gone - unseen
        return removals.look(gone, present=len(known) - len(gone), now=now, whole=second, seen=seen)

    def take(believed: set[str], *, second: bool) -> None:
        at_once = {name for name in believed if since[name] == now}
        assert second or believed == at_once
        assert all(now - since[name] >= CONFIRM for name in believed - at_once)
        assert len(at_once) <= max(FEW, int(SHARE * len(known)))
        for name in believed:
            del since[name]
            known.discard(name)

    for number, few in enumerate([wave, *churn]):
        now = number * STEP
        fresh, order = order[:few], order[few:]
        since.update(dict.fromkeys(fresh, now))
        take(look(second=False), second=False)
        if (due := removals.due()) is not None and due <= now:
            take(look(second=True), second=True)
        assert all(now - since[name] < CONFIRM + STEP for name in since.keys() - unseen)


@given(
    share=st.integers(min_value=30, max_value=100),
    part=st.integers(min_value=1, max_value=40),
    total=st.integers(min_value=100, max_value=400),
)
def test_a_catalogue_that_comes_back_nearly_empty_is_held_in_whatever_parts_it_is_read(
    share: int, part: int, total: int
) -> None:
    """Within the time of a second look no more than the ordinary part of it goes."""
    removals = Removals(confirm_seconds=CONFIRM)
    missing = [str(n) for n in range(total * share // 100)]
    parts = [missing[i : i + part] for i in range(0, len(missing), part)]
    gone: set[str] = set()
    believed: set[str] = set()
    for number, names in enumerate(parts):
        gone |= set(names)
        now = number * CONFIRM / (len(parts) + 1)
        lost = removals.look(gone, present=total - len(believed) - len(gone), now=now, whole=False)
        gone -= lost
        believed |= lost
    assert len(believed) <= max(FEW, int(SHARE * total))
    assert set(removals.held) == set(missing) - believed
