from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from federation.model.shared import SharedMap

KEYS = st.integers(0, 600)
STEPS = st.lists(st.tuples(st.dictionaries(KEYS, st.integers()), st.lists(KEYS)), max_size=8)


@given(first=st.dictionaries(KEYS, st.integers()), steps=STEPS)
def test_copies_are_what_a_dict_would_be_and_the_originals_stay(
    first: dict[int, int], steps: list[tuple[dict[int, int], list[int]]]
) -> None:
    shared, plain = SharedMap(first), dict(first)
    for put, remove in steps:
        before, frozen = shared, dict(plain)
        shared = shared.with_(put, remove)
        for key in remove:
            plain.pop(key, None)
        plain.update(put)
        assert dict(shared) == plain
        assert len(shared) == len(plain)
        assert all(key in shared and shared.get(key) == value for key, value in plain.items())
        assert dict(before) == frozen
        assert len(before) == len(frozen)


def test_what_is_missing() -> None:
    shared: SharedMap[str, int] = SharedMap({"a": 1})
    assert shared.get("b") is None
    assert shared.get("b", 2) == 2
    assert "b" not in shared
    assert shared == {"a": 1}


def test_values_that_did_not_change_are_the_same_objects() -> None:
    values = {number: object() for number in range(1000)}
    shared = SharedMap(values)
    changed = shared.with_({5: object()}, [6])
    assert all(changed[number] is values[number] for number in values if number not in (5, 6))
