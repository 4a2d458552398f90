from __future__ import annotations

import pytest

from federation.errors import InvalidInput
from federation.model.address import join_address, split_address


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
