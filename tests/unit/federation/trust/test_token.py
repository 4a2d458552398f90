"""Join tokens: one string, and what a typing error in it says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.errors import InvalidInput
from federation.trust.token import PREFIX, VM_PREFIX, JoinToken, VmToken

PIN = "sha256:" + "ab" * 32


def token(**changes: str) -> JoinToken:
    fields = {"registry": "registry.example.org:7443", "ca_fingerprint": PIN, "cluster": "east"} | changes
    return JoinToken.new(**fields)  # type: ignore[arg-type]


def test_there_and_back() -> None:
    made = token()
    assert JoinToken.parse(made.encode()) == made
    assert JoinToken.parse(f"  {made.encode()}\n") == made
    assert made.encode().startswith(PREFIX)
    assert len(made.secret) == 32


def test_every_token_is_another_one() -> None:
    assert len({token().hash() for _ in range(100)}) == 100


def test_the_secret_does_not_show() -> None:
    made = JoinToken.new(registry="r:1", ca_fingerprint=PIN, cluster="east", random=lambda n: b"\xaa" * n)
    assert "aaaa" not in repr(made)
    assert "\\xaa" not in repr(made)
    assert made.secret not in made.hash()


def test_the_hash_binds_name_and_registry_but_not_the_address() -> None:
    made = token()
    assert replace(made, cluster="west").hash() != made.hash()
    assert replace(made, ca_fingerprint="sha256:" + "cd" * 32).hash() != made.hash()
    assert replace(made, registry="10.0.0.1:7443").hash() == made.hash()


def test_any_single_typing_error_is_found() -> None:
    text = token().encode()
    for i in range(len(text)):
        other = "A" if text[i] != "A" else "B"
        for wrong in (text[:i] + other + text[i + 1 :], text[:i] + text[i + 1 :]):
            with pytest.raises(InvalidInput) as caught:
                JoinToken.parse(wrong)
            assert caught.value.error_code == "token_malformed"
            assert "fedctl token issue" in caught.value.hint


@pytest.mark.parametrize(
    "text", ["", "isthmus1.", "isthmus1.AAAA", "isthmus2.AAAA", "isthmus1." + "A" * 5000, "é", "isthmus1.é"]
)
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        JoinToken.parse(text)
    assert caught.value.error_code == "token_malformed"


@pytest.mark.parametrize(
    "changes",
    [
        {"registry": "no-port"},
        {"registry": "host:0"},
        {"registry": "host:65536"},
        {"registry": "host:7443x"},
        {"registry": ":7443"},
        {"registry": "ho st:1"},
        {"ca_fingerprint": "sha256:12"},
        {"cluster": "East"},
        {"cluster": "a.b"},
        {"cluster": ""},
    ],
)
def test_what_a_token_is_not_made_of(changes: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        token(**changes)


@pytest.mark.parametrize("address", ["a.b:1", "127.0.0.1:65535", "[::1]:7443"])
def test_addresses(address: str) -> None:
    assert JoinToken.parse(token(registry=address).encode()).registry == address


def test_a_machine_has_a_token_of_its_own_kind() -> None:
    made = VmToken.new(agent="10.0.0.1:7446", fingerprint=PIN, vm="web-1")
    assert VmToken.parse(f" {made.encode()}\n") == made
    assert made.encode().startswith(VM_PREFIX)
    assert "secret" not in repr(made)
    cluster = JoinToken(registry=made.agent, ca_fingerprint=PIN, cluster="web-1", secret=made.secret)
    assert cluster.hash() != made.hash(), "a secret of one kind is worth nothing as the other"
    for parse, text, hint in (
        (VmToken.parse, cluster.encode(), "fedctl vm bootstrap"),
        (JoinToken.parse, made.encode(), "fedctl token issue"),
        (VmToken.parse, made.encode()[:-3], "fedctl vm bootstrap"),
    ):
        with pytest.raises(InvalidInput) as caught:
            parse(text)
        assert caught.value.error_code == "token_malformed"
        assert hint in caught.value.hint


@pytest.mark.parametrize("changes", [{"agent": "nowhere"}, {"fingerprint": "sha256:1"}, {"vm": "Web"}])
def test_what_a_token_of_a_machine_is_not_made_of(changes: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        VmToken.new(**{"agent": "10.0.0.1:7446", "fingerprint": PIN, "vm": "web-1"} | changes)
