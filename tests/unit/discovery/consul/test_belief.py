"""Which answers are used at all."""

from __future__ import annotations

import pytest

from discovery.consul.belief import doubt
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
