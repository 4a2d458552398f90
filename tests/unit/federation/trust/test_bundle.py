"""Which bundle may be believed: the first by its pin, later ones by the one before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from federation.errors import Denied, InvalidInput
from federation.model.cluster import Bundle
from federation.trust.authority import Authority
from federation.trust.bundle import MAX_ROOTS, check_bundle, check_pin, fingerprint, parse_fingerprint, sign_successor

EAST = "east.fed.test"


def bundle(sequence: int, *roots: Any, domain: str = EAST) -> Bundle:
    return Bundle(trust_domain=domain, sequence=sequence, roots=tuple(r.der for r in roots))


@pytest.fixture
def roots(forge_ca: Callable[..., Any]) -> list[Any]:
    return [forge_ca(f"root {i}", EAST).sign() for i in range(3)]


def refusal(offered: Bundle, pin: str, previous: Bundle | None) -> str:
    with pytest.raises(Denied) as caught:
        check_pin(offered, pin, previous)
    return caught.value.error_code


def test_the_first_bundle_is_the_pinned_one(roots: list[Any]) -> None:
    first = bundle(1, roots[0])
    check_pin(first, fingerprint(first), None)
    assert refusal(bundle(1, roots[1]), fingerprint(first), None) == "pin_mismatch"
    assert refusal(first, "", None) == "pin_mismatch"


def test_a_root_that_was_added_on_the_way_is_refused(roots: list[Any]) -> None:
    pin = fingerprint(bundle(1, roots[0]))
    two = bundle(2, roots[0], roots[1])
    assert refusal(two, pin, None) == "bundle_unsigned"
    assert refusal(sign_successor(two, roots[1].key), pin, None) == "bundle_unsigned"
    check_pin(sign_successor(two, roots[0].key), pin, None)


def test_a_sequence_that_was_raised_on_the_way_is_refused(roots: list[Any]) -> None:
    later = bundle(9, roots[0])
    for unsigned in (later, bundle(0, roots[0]), sign_successor(later, roots[1].key)):
        assert refusal(unsigned, fingerprint(later), None) == "bundle_unsigned"
    check_pin(sign_successor(later, roots[0].key), fingerprint(later), None)


def test_a_rotation_can_be_joined_at_any_step(roots: list[Any]) -> None:
    """Each bundle is signed by its first root, which the bundle before holds already."""
    steps = [
        bundle(1, roots[0]),
        sign_successor(bundle(2, roots[0], roots[1]), roots[0].key),
        sign_successor(bundle(3, roots[1], roots[0]), roots[1].key),
        sign_successor(bundle(4, roots[1]), roots[1].key),
    ]
    for i, step in enumerate(steps):
        check_pin(step, fingerprint(step), None)
        for later in steps[i + 1 : i + 2]:
            check_pin(later, fingerprint(step), step)
    # A peer that missed the overlap does not follow: the new root waits until every peer has acknowledged it.
    assert refusal(steps[2], fingerprint(steps[0]), steps[0]) == "bundle_unsigned"


def test_a_successor_is_signed_by_the_one_before(roots: list[Any]) -> None:
    first = bundle(1, roots[0])
    pin = fingerprint(first)
    both = sign_successor(bundle(2, roots[1], roots[0]), roots[0].key)
    check_pin(both, pin, first)
    assert refusal(bundle(2, roots[1]), pin, first) == "bundle_unsigned"
    assert refusal(sign_successor(bundle(2, roots[1]), roots[1].key), pin, first) == "bundle_unsigned"
    assert refusal(replace(both, sequence=3), pin, first) == "bundle_unsigned"  # the sequence is signed as well
    assert refusal(replace(both, roots=both.roots[:1]), pin, first) == "bundle_unsigned"
    last = sign_successor(bundle(3, roots[1]), roots[1].key)
    check_pin(last, fingerprint(both), both)
    assert refusal(both, fingerprint(last), last) == "bundle_rollback"


def test_the_sequence_only_rises(roots: list[Any]) -> None:
    second = bundle(2, roots[0])
    pin = fingerprint(second)
    check_pin(second, pin, second)
    assert refusal(bundle(1, roots[0]), pin, second) == "bundle_rollback"
    assert refusal(sign_successor(bundle(2, roots[0], roots[1]), roots[0].key), pin, second) == "bundle_rollback"


def test_a_new_pin_of_the_operator_counts_anew(roots: list[Any]) -> None:
    old, made_again = bundle(7, roots[0]), bundle(1, roots[1])
    check_pin(made_again, fingerprint(made_again), old)
    assert refusal(made_again, fingerprint(old), old) == "bundle_rollback"
    assert refusal(old, fingerprint(made_again), old) == "pin_mismatch"


def test_an_empty_bundle_is_refused(roots: list[Any]) -> None:
    first = bundle(1, roots[0])
    assert refusal(bundle(2), fingerprint(first), first) == "bundle_empty"
    assert refusal(sign_successor(bundle(2), roots[0].key), fingerprint(first), first) == "bundle_empty"
    assert refusal(bundle(1), fingerprint(first), None) == "bundle_empty"
    with pytest.raises(Denied):
        fingerprint(bundle(1))


def test_the_trust_domain_cannot_change(roots: list[Any], forge_ca: Callable[..., Any]) -> None:
    first = bundle(1, roots[0])
    west = forge_ca("west", "west.fed.test").sign()
    other = sign_successor(bundle(2, west, domain="west.fed.test"), roots[0].key)
    assert refusal(other, fingerprint(first), first) == "bundle_invalid"
    assert refusal(other, fingerprint(other), first) == "bundle_invalid"


@pytest.mark.parametrize(
    "changes",
    [
        {"ca": False},
        {"cert_sign": False},
        {"with_usage": False},
        {"uris": []},
        {"uris": ["spiffe://west.fed.test"]},
        {"uris": ["spiffe://east.fed.test", "spiffe://west.fed.test"]},
        {"uris": ["spiffe://east.fed.test/ns/a/sa/b"]},
        {"key": ec.generate_private_key(ec.SECP256K1())},
        {"key": ec.generate_private_key(ec.SECP224R1())},
    ],
)
def test_what_is_no_root(changes: dict[str, Any], forge_ca: Callable[..., Any]) -> None:
    with pytest.raises(Denied) as caught:
        check_bundle(bundle(1, forge_ca("root", EAST, **changes).sign()))
    assert caught.value.error_code == "bundle_invalid"


def test_what_is_no_bundle(roots: list[Any], forge_ca: Callable[..., Any]) -> None:
    first = bundle(1, roots[0])
    intermediate = forge_ca("middle", EAST).sign(roots[0])
    for wrong in (
        replace(first, roots=first.roots * 2),
        bundle(1, *(forge_ca(f"r{i}", EAST).sign() for i in range(MAX_ROOTS + 1))),
        replace(first, roots=(b"garbage",)),
        replace(first, roots=(b"x" * 20_000,)),
        bundle(1, intermediate),
    ):
        with pytest.raises(Denied) as caught:
            check_bundle(wrong)
        assert caught.value.error_code == "bundle_invalid"
    with pytest.raises(Denied):
        check_bundle(first, trust_domain="west.fed.test")


def test_an_authoritys_bundle_is_one(authority: Callable[[str], Authority]) -> None:
    made = authority(EAST).bundle
    check_bundle(made, trust_domain=EAST)
    check_pin(made, fingerprint(made), None)
    assert len(parse_fingerprint(fingerprint(made))) == 32


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:00", "sha1:" + "0" * 64, "sha256:" + "A" * 64, "sha256:" + "g" * 64, "0" * 64]
)
def test_what_is_no_fingerprint(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_fingerprint(text)
