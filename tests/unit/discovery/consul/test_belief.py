"""Which answers are used at all."""

from __future__ import annotations

import pytest

from discovery.consul.belief import doubt, is_whole
from discovery.consul.client import Meta


@pytest.mark.parametrize(
    ("meta", "stale", "code"),
    [
        (Meta(index=1), False, ""),
        (Meta(index=1), True, ""),
        (Meta(index=1, known_leader=False), False, "consul_no_leader"),
        (Meta(index=1, known_leader=False), True, "consul_no_leader"),
        (Meta(index=1, last_contact=4.9), True, ""),
        (Meta(index=1, last_contact=5.1), True, "consul_stale"),
        (Meta(index=1, filtered=True), True, ""),  # true in what it says
    ],
)
def test_doubt(meta: Meta, stale: bool, code: str) -> None:
    found = doubt(meta, stale=stale, max_stale=5.0)
    assert (found.code if found else "") == code


@pytest.mark.parametrize(
    ("meta", "anonymous", "whole"),
    [
        (Meta(index=1), False, True),
        (Meta(index=1), True, True),
        (Meta(index=1, filtered=True), False, False),
        (Meta(index=1, streamed=True), False, False),
        (Meta(index=1, default_deny=True), False, True),  # a token that may not see all of it says so
        (Meta(index=1, default_deny=True), True, False),  # who has none is not told
    ],
)
def test_what_a_list_lacks_is_not_there_only_if_it_is_whole(meta: Meta, anonymous: bool, whole: bool) -> None:
    assert is_whole(meta, anonymous=anonymous) is whole
