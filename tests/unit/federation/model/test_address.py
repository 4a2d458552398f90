from __future__ import annotations

import pytest

from federation.errors import InvalidInput
from federation.model.address import collapsed, join_address, overlaps, split_address


@pytest.mark.parametrize(
    ("text", "parts"),
    [("127.0.0.1:7400", ("127.0.0.1", 7400)), ("[::1]:1", ("::1", 1)), ("host:0", ("host", 0))],
)
def test_addresses(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text, what="listen") == parts
    assert join_address(*parts) == text


@pytest.mark.parametrize(
    "text", ["", "host", ":1", "host:", "host:x", "host:-1", "host:٣", "host:65536", "host:999999"]
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(InvalidInput, match="listen"):
        split_address(text, what="listen")


def test_port_0_is_for_those_who_may_pick_one() -> None:
    assert split_address("127.0.0.1:0", what="listen") == ("127.0.0.1", 0)
    with pytest.raises(InvalidInput, match="out of range"):
        split_address("127.0.0.1:0", what="registry", zero=False)


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ([], ()),
        (["10.244.1.0/24", "10.244.0.0/24"], ("10.244.0.0/23",)),
        (["10.244.0.0/24", "10.244.0.0/24", "10.244.2.0/24"], ("10.244.0.0/24", "10.244.2.0/24")),
        (["fd00:1::/64", "10.0.0.7/24", "what"], ("10.0.0.0/24", "fd00:1::/64")),
    ],
)
def test_ranges_of_nodes_become_those_of_a_cluster(texts: list[str], told: tuple[str, ...]) -> None:
    assert collapsed(texts) == told


@pytest.mark.parametrize(
    ("one", "other", "pairs"),
    [
        (["10.0.0.0/16"], ["10.0.7.0/24", "10.1.0.0/16"], [("10.0.0.0/16", "10.0.7.0/24")]),
        (["10.0.0.0/16"], ["10.1.0.0/16"], []),
        (["10.0.0.0/8"], ["::/0"], []),
        ([], ["10.0.0.0/8"], []),
        (["what"], ["10.0.0.0/8"], []),
    ],
)
def test_networks_that_share_addresses(one: list[str], other: list[str], pairs: list[tuple[str, str]]) -> None:
    assert [(str(x), str(y)) for x, y in overlaps(one, other)] == pairs
    assert [(str(y), str(x)) for x, y in overlaps(other, one)] == pairs
