"""YAML that we write is what we read; that helm writes the same, tests/integration/kubernetes/test_chart.py shows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from federation.cli.chart.yamltext import compare, dump, load

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufeff\ufffe\uffff"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_it_comes_back(value: dict[str, object]) -> None:
    assert load(dump(value)) == value


@given(TEXT, TEXT)
def test_of_two_keys_one_comes_first(one: str, other: str) -> None:
    assert (compare(one, other) == 0) == (one == other)
    assert (compare(one, other) < 0) == (compare(other, one) > 0)


def test_numbers_in_keys_go_by_their_value() -> None:
    assert dump({"k10": 1, "k9": 1, "1000": 1, "991": 1, "a": 1}).split() == [
        *('"991":', "1", '"1000":', "1", "a:", "1", "k9:", "1", "k10:", "1"),
    ]
