"""Pins: what an operator said decides, whatever the registry carries."""

from __future__ import annotations

from pathlib import Path

import pytest

from discovery.pins import FRESH_SECONDS, Pins
from federation import log
from federation.aio.clock import FakeClock
from federation.errors import Denied, InvalidInput
from federation.model.cluster import Bundle
from federation.trust.authority import Authority
from federation.trust.bundle import fingerprint

CLOCK = FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pins.state"


def open_pins(path: Path) -> Pins:
    return Pins(path, cluster="east", federation="fed.example", clock=CLOCK, log=log.get("test"))


def bundle_of(tmp_path: Path, name: str = "west", *, instance: str = "") -> Bundle:
    return Authority.open(tmp_path / f"{name}{instance}", trust_domain=f"{name}.fed.example", clock=CLOCK).bundle


def test_a_bundle_is_believed_when_its_pin_matches(path: Path, tmp_path: Path) -> None:
    pins, bundle = open_pins(path), bundle_of(tmp_path)
    with pytest.raises(Denied) as caught:
        pins.accept("west", bundle)
    assert caught.value.error_code == "unpinned"
    pins.pin("west", "west.fed.example", fingerprint(bundle))
    assert pins.believed("west") is None
    assert pins.accept("west", bundle) == bundle
    restored = open_pins(path)
    believed = restored.believed("west")
    assert believed is not None
    assert believed.roots == bundle.roots


def test_another_root_is_refused_and_the_proven_one_stays(path: Path, tmp_path: Path) -> None:
    pins, bundle, forged = open_pins(path), bundle_of(tmp_path), bundle_of(tmp_path, instance="-forged")
    pins.pin("west", "west.fed.example", fingerprint(bundle))
    pins.accept("west", bundle)
    with pytest.raises(Denied):
        pins.accept("west", forged)
    with pytest.raises(Denied):
        pins.accept("west", bundle_of(tmp_path, "other"))
    believed = pins.believed("west")
    assert believed is not None
    assert believed.roots == bundle.roots


def test_pinning_anew_forgets_what_was_believed(path: Path, tmp_path: Path) -> None:
    pins, old, new = open_pins(path), bundle_of(tmp_path), bundle_of(tmp_path, instance="-new")
    pins.pin("west", "west.fed.example", fingerprint(old))
    pins.accept("west", old)
    pins.pin("west", "west.fed.example", fingerprint(old))
    assert pins.believed("west") is not None
    pins.pin("west", "west.fed.example", fingerprint(new))
    assert pins.believed("west") is None
    pins.accept("west", new)


def test_a_cut_link_takes_the_pin_unless_it_is_fresh(path: Path, tmp_path: Path) -> None:
    pins, bundle = open_pins(path), bundle_of(tmp_path)
    pins.pin("west", "west.fed.example", fingerprint(bundle))
    assert not pins.link_cut("west")
    CLOCK.advance(FRESH_SECONDS + 1)
    assert pins.link_cut("west")
    assert list(pins) == []
    assert not pins.unpin("west")


@pytest.mark.parametrize(
    ("cluster", "domain", "text"),
    [
        ("east", "east.fed.example", "sha256:" + "0" * 64),
        ("West", "west.fed.example", "sha256:" + "0" * 64),
        ("west", "evil.fed.example", "sha256:" + "0" * 64),
        ("west", "west.fed.example", "md5:0"),
        ("west", "west.fed.example", ""),
    ],
)
def test_nonsense_is_refused(path: Path, cluster: str, domain: str, text: str) -> None:
    pins = open_pins(path)
    with pytest.raises(InvalidInput):
        pins.pin(cluster, domain, text)
    assert not path.exists()


def test_a_damaged_file_trusts_nobody(path: Path, tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    open_pins(path).pin("west", "west.fed.example", fingerprint(bundle))
    path.write_bytes(path.read_bytes()[:-1])
    assert list(open_pins(path)) == []
    assert path.with_name("pins.state.corrupt").exists()
