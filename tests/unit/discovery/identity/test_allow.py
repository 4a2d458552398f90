"""Who may be whom."""

from __future__ import annotations

import os
import pwd

import pytest

from discovery.identity.allow import AllowTable
from federation.errors import InvalidSettings


@pytest.mark.parametrize(
    ("patterns", "identity", "admitted"),
    [
        (["shop/echo"], ("shop", "echo"), True),
        (["shop/echo"], ("shop", "echo2"), False),
        (["shop/echo"], ("shop2", "echo"), False),
        (["shop/*"], ("shop", "anything"), True),
        (["shop/*"], ("other", "anything"), False),
        (["*/echo"], ("shop", "echo"), True),
        (["*/*"], ("shop", "echo"), True),
        (["*/*"], ("isthmus-system", "agent"), False),
        (["*/*"], ("isthmus-system", "gateway"), False),
        (["*/*", "isthmus-system/gateway"], ("isthmus-system", "gateway"), True),
        (["isthmus-system/gateway"], ("isthmus-system", "agent"), False),
        ([], ("shop", "echo"), False),
    ],
)
def test_patterns(patterns: list[str], identity: tuple[str, str], admitted: bool) -> None:
    assert AllowTable({1000: patterns}).admits(1000, *identity) is admitted


def test_a_user_that_is_not_listed_has_no_identity() -> None:
    assert not AllowTable({1000: ["*/*"]}).admits(0, "shop", "echo")
    assert not AllowTable({}).admits(1000, "shop", "echo")


@pytest.mark.parametrize(
    "text", ["", "shop", "/", "shop/", "/echo", "a/b/c", "Shop/echo", "sh*p/echo", "shop/é", "shop/-"]
)
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(InvalidSettings):
        AllowTable({1000: [text]})


@pytest.mark.parametrize("uid", [-1, 2**32 - 1])
def test_what_is_no_user(uid: int) -> None:
    with pytest.raises(InvalidSettings):
        AllowTable({uid: ["shop/echo"]})


def test_a_user_may_be_named() -> None:
    own, other = os.getuid(), next(p for p in pwd.getpwall() if p.pw_uid != os.getuid())
    table = AllowTable({pwd.getpwuid(own).pw_name: ["shop/echo"], "nobody-yet": ["*/*"], other.pw_uid: ["shop/web"]})
    assert table.admits(own, "shop", "echo")
    assert not table.admits(own, "shop", "web")
    assert table.admits(other.pw_uid, "shop", "web")
    assert not table.admits(other.pw_uid, "shop", "echo")
    assert not table.admits(2**32 - 2, "shop", "echo"), "a user id that nobody has"


@pytest.mark.parametrize("user", ["", "1000", "a b", "-x", "x" * 33])
def test_what_is_no_name_of_a_user(user: str) -> None:
    with pytest.raises(InvalidSettings):
        AllowTable({user: ["shop/echo"]})
