"""What is issued, for how long, and what becomes of the root on disk."""

from __future__ import annotations

import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from federation.aio.clock import FakeClock
from federation.errors import Conflict, CorruptState, Denied, InvalidInput, InvalidName, IsthmusError
from federation.model.cluster import Bundle
from federation.model.ids import SpiffeId
from federation.trust.authority import INTERMEDIATE_LIFETIME, ROOT_LIFETIME, Authority
from federation.trust.keys import certificate_from_der, key_from_pem, new_key, public_der
from federation.trust.possession import check_possession
from federation.trust.svid import BACKDATE, utc
from federation.trust.verify import verify_chain

EAST = "east.fed.test"
ECHO = SpiffeId.workload(EAST, "shop", "echo")
HOUR = timedelta(hours=1)


@pytest.fixture
def east(authority: Callable[[str], Authority]) -> Authority:
    return authority(EAST)


def verified(authority: Authority, chain: tuple[bytes, ...], clock: FakeClock) -> SpiffeId:
    return verify_chain(chain, {EAST: authority.bundle}, now=utc(clock))


def test_a_leaf_follows_the_specification(east: Authority, clock: FakeClock) -> None:
    key = new_key()
    svid = east.issue(key.public_key(), spiffe_id=ECHO, ttl=HOUR, dns_names=["agent.east.fed.test"])
    leaf, intermediate = map(certificate_from_der, svid.chain)
    now = utc(clock)
    assert (leaf.not_valid_before_utc, leaf.not_valid_after_utc) == (now - BACKDATE, now + HOUR)
    assert (svid.not_before, svid.not_after, svid.issued_at) == (now - BACKDATE, now + HOUR, now)
    assert svid.key_pem == b""
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical  # the subject is empty
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [str(ECHO)]
    assert names.value.get_values_for_type(x509.DNSName) == ["agent.east.fed.test"]
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value == x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert public_der(leaf.public_key()) == public_der(key.public_key())  # type: ignore[arg-type]
    constraints = intermediate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    assert verified(east, svid.chain, clock) == ECHO


def test_a_leaf_with_its_key(east: Authority) -> None:
    svid = east.issue_with_key(spiffe_id=ECHO)
    leaf = certificate_from_der(svid.chain[0])
    assert public_der(key_from_pem(svid.key_pem).public_key()) == public_der(leaf.public_key())  # type: ignore[arg-type]
    assert "PRIVATE" not in repr(svid)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"ttl": timedelta(hours=24, seconds=1)}, InvalidInput),
        ({"ttl": timedelta(0)}, InvalidInput),
        ({"ttl": -HOUR}, InvalidInput),
        ({"spiffe_id": SpiffeId.workload("west.fed.test", "shop", "echo")}, InvalidInput),
        ({"spiffe_id": SpiffeId(EAST, "")}, InvalidName),
        ({"spiffe_id": SpiffeId(EAST, "/ns/a%62/sa/x")}, InvalidName),
        ({"spiffe_id": SpiffeId(EAST, "/" + "a" * 2048)}, InvalidName),
        ({"dns_names": ["agent.west.fed.test"]}, InvalidInput),
        ({"dns_names": ["isthmus-injector.shop.svc"]}, InvalidInput),
        ({"dns_names": ["isthmus-system.svc"]}, InvalidInput),
        ({"dns_names": ["*.east.fed.test"]}, InvalidName),
        ({"dns_names": ["xeast.fed.test"]}, InvalidInput),
        ({"public_key": ec.generate_private_key(ec.SECP256K1()).public_key()}, InvalidInput),
    ],
)
def test_what_is_never_issued(east: Authority, arguments: dict[str, object], error: type[IsthmusError]) -> None:
    with pytest.raises(error):
        east.issue(**({"public_key": new_key().public_key(), "spiffe_id": ECHO} | arguments))  # type: ignore[arg-type]


def test_a_day_is_the_longest_life(east: Authority) -> None:
    assert east.issue_with_key(spiffe_id=ECHO, ttl=timedelta(hours=24)).not_after


def test_the_root_is_kept(east: Authority, authority: Callable[[str], Authority], clock: FakeClock) -> None:
    again = authority(EAST)
    assert again.bundle == east.bundle
    svid = again.issue_with_key(spiffe_id=ECHO)  # by another intermediate
    assert verified(east, svid.chain, clock) == ECHO


def test_the_root_is_private(east: Authority, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / EAST).stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / EAST).iterdir()} == {0o600}


def test_an_open_directory_is_closed(authority: Callable[[str], Authority], tmp_path: Path) -> None:
    (tmp_path / EAST).mkdir(mode=0o755)
    authority(EAST)
    assert stat.S_IMODE((tmp_path / EAST).stat().st_mode) == 0o700


def test_an_exposed_key_is_refused(east: Authority, authority: Callable[[str], Authority], tmp_path: Path) -> None:
    (tmp_path / EAST / "root.pem").chmod(0o644)
    with pytest.raises(Denied) as caught:
        authority(EAST)
    assert caught.value.error_code == "secret_exposed"


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b"", lambda b: b.replace(b"MI", b"MJ", 1)])
def test_a_damaged_root_is_told_and_kept(
    east: Authority, authority: Callable[[str], Authority], tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / EAST / "root.pem"
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(CorruptState) as caught:
        authority(EAST)
    assert "backup" in caught.value.hint
    assert path.read_bytes() == damaged


def test_another_domains_root_is_refused(east: Authority, tmp_path: Path, clock: FakeClock) -> None:
    with pytest.raises(Conflict, match=r"spiffe://east\.fed\.test"):
        Authority.open(tmp_path / EAST, trust_domain="west.fed.test", clock=clock)


def test_the_intermediate_is_made_anew_at_half_of_its_life(east: Authority, clock: FakeClock) -> None:
    first = east.issue_with_key(spiffe_id=ECHO).chain[1]
    assert east.issue_with_key(spiffe_id=ECHO).chain[1] == first
    clock.advance(INTERMEDIATE_LIFETIME / timedelta(seconds=2) + 1)
    svid = east.issue_with_key(spiffe_id=ECHO)
    assert svid.chain[1] != first
    assert verified(east, svid.chain, clock) == ECHO


def test_nothing_outlives_the_root(east: Authority, clock: FakeClock) -> None:
    end = utc(clock) + ROOT_LIFETIME
    clock.advance(ROOT_LIFETIME / timedelta(seconds=1) - 60)
    assert east.issue_with_key(spiffe_id=ECHO, ttl=HOUR).not_after == end
    clock.advance(61)
    with pytest.raises(Conflict) as caught:
        east.issue_with_key(spiffe_id=ECHO, ttl=HOUR)
    assert caught.value.error_code == "root_expired"


def test_a_clock_five_minutes_behind_believes(east: Authority, clock: FakeClock) -> None:
    svid = east.issue_with_key(spiffe_id=ECHO)
    behind = utc(clock) - BACKDATE
    assert verify_chain(svid.chain, {EAST: east.bundle}, now=behind) == ECHO


def test_possession_is_proven_by_the_roots_key_only(east: Authority, authority: Callable[[str], Authority]) -> None:
    signature = east.sign_possession(b"message")
    check_possession(east.bundle, b"message", signature)
    for bundle, message, proof in (
        (east.bundle, b"another message", signature),
        (authority("west.fed.test").bundle, b"message", signature),
        (east.bundle, b"message", b""),
        (Bundle(trust_domain=EAST, sequence=1, roots=()), b"message", signature),
    ):
        with pytest.raises(Denied):
            check_possession(bundle, message, proof)
