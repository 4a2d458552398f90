"""Which machine a certificate is of, on certificates of a real authority."""

from __future__ import annotations

from pathlib import Path

import pytest

from discovery.vms.names import Speaker, key_label, speaker_of, vm_names, vm_of
from federation.aio.clock import FakeClock
from federation.errors import Denied, InvalidName
from federation.model.ids import SpiffeId
from federation.trust.authority import Authority

TD = "dc1.fed.example"
LABEL = key_label("sha256:" + "a" * 64)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "keys", trust_domain=TD, clock=FakeClock())


def chain(authority: Authority, *names: str) -> tuple[bytes, ...]:
    return authority.issue_with_key(spiffe_id=SpiffeId.workload(TD, "shop", "web"), dns_names=names).chain


def test_the_names_of_a_machine_are_read_back(authority: Authority) -> None:
    made = chain(authority, *vm_names("web-1", LABEL, TD))
    assert vm_of(made, TD) == "web-1"
    assert speaker_of(made, TD) == Speaker("web-1", LABEL)
    assert vm_of(made, "other.example") is None


def test_other_certificates_are_of_no_machine(authority: Authority) -> None:
    assert vm_of(chain(authority), TD) is None
    assert vm_of(chain(authority, f"agent.{TD}"), TD) is None


@pytest.mark.parametrize(
    "names",
    [
        [f"web-1.vm.{TD}"],
        [f"{LABEL}.web-1.vm.{TD}"],
        [f"web-1.vm.{TD}", f"{LABEL}.web-2.vm.{TD}"],
        [f"web-1.vm.{TD}", f"web-2.vm.{TD}"],
        [*vm_names("web-1", LABEL, TD), f"web-2.vm.{TD}"],
        [f"a.b.web-1.vm.{TD}", f"web-1.vm.{TD}"],
    ],
)
def test_names_that_no_agent_signs_together_are_refused(authority: Authority, names: list[str]) -> None:
    with pytest.raises(Denied) as caught:
        vm_of(chain(authority, *names), TD)
    assert caught.value.error_code == "svid_invalid"


def test_each_key_has_a_label_of_its_own() -> None:
    assert key_label("sha256:a") != key_label("sha256:b")
    assert len(LABEL) == 32


def test_names_that_would_be_too_long_are_refused() -> None:
    with pytest.raises(InvalidName):
        vm_names("v" * 63, LABEL, "x" * 60 + "." + "y" * 60)
