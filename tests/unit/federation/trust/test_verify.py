"""Every way to forge an identity that the threat table names, and some more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.aio.clock import FakeClock
from federation.errors import Denied
from federation.model.cluster import Bundle
from federation.model.ids import SpiffeId
from federation.trust.authority import Authority
from federation.trust.keys import new_key
from federation.trust.verify import verify_chain

EAST, WEST = "east.fed.test", "west.fed.test"
ECHO = f"spiffe://{EAST}/ns/shop/sa/echo"


@pytest.fixture
def east(forge_ca: Callable[..., Any]) -> Any:
    return forge_ca("east root", EAST, path_length=1).sign()


@pytest.fixture
def west(forge_ca: Callable[..., Any]) -> Any:
    return forge_ca("west root", WEST, path_length=1).sign()


@pytest.fixture
def bundles(east: Any, west: Any) -> dict[str, Bundle]:
    return {
        EAST: Bundle(trust_domain=EAST, sequence=1, roots=(east.der,)),
        WEST: Bundle(trust_domain=WEST, sequence=1, roots=(west.der,)),
    }


def refusal(chain: list[bytes], bundles: dict[str, Bundle], now: datetime) -> str:
    with pytest.raises(Denied) as caught:
        verify_chain(chain, bundles, now=now)
    return caught.value.error_code


def test_an_honest_leaf_is_believed(east: Any, forge: Any, forge_ca: Any, bundles: Any, now: datetime) -> None:
    middle = forge_ca("east middle", EAST, path_length=0).sign(east)
    leaf = forge(uris=[ECHO], dns=["agent.east.fed.test"]).sign(middle)
    assert str(verify_chain([leaf.der, middle.der], bundles, now=now)) == ECHO
    assert str(verify_chain([leaf.der, middle.der, east.der], bundles, now=now)) == ECHO  # the root may be shown too
    assert str(verify_chain([forge(uris=[ECHO]).sign(east).der], bundles, now=now)) == ECHO


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"uris": [f"spiffe://{WEST}/ns/shop/sa/echo"]}, "svid_untrusted"),
        ({"uris": ["spiffe://north.fed.test/ns/shop/sa/echo"]}, "trust_domain_unknown"),
        ({"uris": [ECHO, f"spiffe://{WEST}/ns/shop/sa/echo"]}, "svid_invalid"),
        ({"uris": [ECHO, ECHO]}, "svid_invalid"),
        ({"uris": [ECHO, "https://example.org/"]}, "svid_invalid"),
        ({"uris": []}, "svid_invalid"),
        ({"uris": [], "dns": ["echo.shop"]}, "svid_invalid"),
        ({"uris": [f"spiffe://{EAST}"]}, "svid_invalid"),
        ({"uris": [f"spiffe://{EAST}/"]}, "svid_invalid"),
        ({"uris": [f"spiffe://{EAST}/ns/shop/sa/echo/"]}, "svid_invalid"),
        ({"uris": [f"spiffe://{EAST}/ns/../sa/echo"]}, "svid_invalid"),
        ({"uris": [f"spiffe://{EAST}/ns/sh%6Fp/sa/echo"]}, "svid_invalid"),
        ({"uris": [f"spiffe://{EAST}/ns/shop/sa/echo?x=1"]}, "svid_invalid"),
        ({"uris": [f"spiffe://{EAST}/ns/shop/sa/echo#f"]}, "svid_invalid"),
        ({"uris": [f"spiffe://{EAST}:443/ns/shop/sa/echo"]}, "svid_invalid"),
        ({"uris": [f"spiffe://u@{EAST}/ns/shop/sa/echo"]}, "svid_invalid"),
        ({"uris": ["spiffe://EAST.fed.test/ns/shop/sa/echo"]}, "svid_invalid"),
        ({"uris": [f"SPIFFE://{EAST}/ns/shop/sa/echo"]}, "svid_invalid"),
        ({"uris": [f"spiffe://{EAST}\0.{WEST}/ns/shop/sa/echo"]}, "svid_invalid"),
        ({"uris": [f"{ECHO}\0"]}, "svid_invalid"),
        ({"uris": [f"{ECHO}\n"]}, "svid_invalid"),
        ({"uris": [f"spiffe://{EAST}/" + "a" * 2048]}, "svid_invalid"),
        ({"uris": [ECHO], "ca": True}, "svid_invalid"),
        ({"uris": [ECHO], "ca": True, "cert_sign": True}, "svid_invalid"),
        ({"uris": [ECHO], "cert_sign": True}, "svid_invalid"),
        ({"uris": [ECHO], "digital_signature": False}, "svid_invalid"),
        ({"uris": [ECHO], "usage_critical": False}, "svid_invalid"),
        ({"uris": [ECHO], "with_usage": False}, "svid_invalid"),
        ({"uris": [ECHO], "extended": None}, "svid_invalid"),
        ({"uris": [ECHO], "extended": [ExtendedKeyUsageOID.SERVER_AUTH]}, "svid_invalid"),
        ({"uris": [ECHO], "extended": [ExtendedKeyUsageOID.CLIENT_AUTH]}, "svid_invalid"),
        (
            {"uris": [ECHO], "extra": [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True)]},
            "svid_untrusted",
        ),
    ],
)
def test_a_forged_leaf_is_refused(
    changes: dict[str, Any], code: str, east: Any, forge: Any, bundles: Any, now: datetime
) -> None:
    assert refusal([forge(**changes).sign(east).der], bundles, now) == code


def test_a_bundle_under_a_foreign_key_is_not_used(west: Any, forge: Any, bundles: Any, now: datetime) -> None:
    # Whoever builds the mapping wrongly must not make West's root vouch for East.
    assert refusal([forge(uris=[ECHO]).sign(west).der], {EAST: bundles[WEST]}, now) == "trust_domain_unknown"
    assert refusal([forge(uris=[ECHO]).sign(west).der], {}, now) == "trust_domain_unknown"
    empty = {EAST: Bundle(trust_domain=EAST, sequence=1, roots=())}
    assert refusal([forge(uris=[ECHO]).sign(west).der], empty, now) == "trust_domain_unknown"


def test_another_domains_root_in_the_chain_is_no_help(west: Any, forge: Any, bundles: Any, now: datetime) -> None:
    assert refusal([forge(uris=[ECHO]).sign(west).der, west.der], bundles, now) == "svid_untrusted"


def test_expired_and_not_yet_valid(east: Any, forge: Any, bundles: Any, now: datetime) -> None:
    hour = timedelta(hours=1)
    old = forge(uris=[ECHO], not_before=now - 2 * hour, not_after=now - timedelta(seconds=1)).sign(east)
    early = forge(uris=[ECHO], not_before=now + timedelta(seconds=1), not_after=now + hour).sign(east)
    assert refusal([old.der], bundles, now) == "svid_expired"
    assert refusal([early.der], bundles, now) == "svid_expired"
    assert str(verify_chain([early.der], bundles, now=now + timedelta(seconds=1))) == ECHO


@pytest.mark.parametrize(
    "changes",
    [
        {"ca": False},
        {"cert_sign": False},
        {"with_usage": False},
        {"uris": [f"spiffe://{WEST}"]},
        {"uris": [f"spiffe://{EAST}", f"spiffe://{WEST}"]},
        {"uris": [ECHO]},
        {"not_after": datetime.fromisoformat("2025-06-15T15:05:00+00:00")},
        {"extra": [(x509.NameConstraints([x509.DNSName("example.org")], None), True)], "path_length": 0},
        {"extra": [(x509.NameConstraints([x509.UniformResourceIdentifier(WEST)], None), True)], "path_length": 0},
    ],
)
def test_an_intermediate_with_wrong_constraints_is_refused(
    changes: dict[str, Any], east: Any, forge: Any, forge_ca: Any, bundles: Any, now: datetime
) -> None:
    middle = forge_ca("middle", EAST, **changes).sign(east)
    leaf = forge(uris=[ECHO], dns=["agent.east.fed.test"]).sign(middle)
    assert refusal([leaf.der, middle.der], bundles, now) == "svid_untrusted"


def test_a_leaf_cannot_sign(east: Any, forge: Any, bundles: Any, now: datetime) -> None:
    first = forge(name="first", uris=[ECHO]).sign(east)
    second = forge(name="second", uris=[f"spiffe://{EAST}/ns/isthmus-system/sa/agent"]).sign(first)
    assert refusal([second.der, first.der], bundles, now) == "svid_untrusted"


def test_the_path_length_holds(east: Any, forge: Any, forge_ca: Any, bundles: Any, now: datetime) -> None:
    first = forge_ca("first", EAST, path_length=0).sign(east)
    second = forge_ca("second", EAST).sign(first)
    leaf = forge(uris=[ECHO]).sign(second)
    assert refusal([leaf.der, second.der, first.der], bundles, now) == "svid_untrusted"


def test_a_root_of_the_same_name_with_another_key_is_no_root(
    forge: Any, forge_ca: Any, bundles: Any, now: datetime
) -> None:
    twin = forge_ca("east root", EAST, path_length=1).sign()
    leaf = forge(uris=[ECHO]).sign(twin)
    assert refusal([leaf.der], bundles, now) == "svid_untrusted"
    assert refusal([leaf.der, twin.der], bundles, now) == "svid_untrusted"


def test_what_is_no_chain(east: Any, forge: Any, bundles: Any, now: datetime) -> None:
    leaf = forge(uris=[ECHO]).sign(east).der
    assert refusal([], bundles, now) == "svid_missing"
    assert refusal([b""], bundles, now) == "svid_malformed"
    assert refusal([b"garbage"], bundles, now) == "svid_malformed"
    assert refusal([leaf[:-3]], bundles, now) == "svid_malformed"
    assert refusal([leaf + b"\0"], bundles, now) == "svid_malformed"
    assert refusal([leaf, b"x" * 20_000], bundles, now) == "svid_malformed"
    assert refusal([leaf] * 7, bundles, now) == "svid_malformed"


def test_what_an_authority_issues_is_verified_by_its_own_bundle_only(
    authority: Callable[[str], Authority], clock: FakeClock, now: datetime
) -> None:
    one, other = authority(EAST), authority(WEST)
    svid = one.issue(new_key().public_key(), spiffe_id=SpiffeId.workload(EAST, "shop", "echo"))
    assert verify_chain(svid.chain, {EAST: one.bundle, WEST: other.bundle}, now=now) == svid.spiffe_id
    assert refusal(list(svid.chain), {WEST: other.bundle}, now) == "trust_domain_unknown"
