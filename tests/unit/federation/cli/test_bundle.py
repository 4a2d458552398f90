"""The bundle of a virtual machine: settings that its processes take, and files that come out as they went in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from federation.cli import bundle
from federation.cli.bundle import Invitation, VmBundle
from federation.errors import InvalidInput, StorageFailed
from gateway import settings as gateway_settings
from sidecar import settings as sidecar_settings

INVITATION = Invitation(
    vm="web-1",
    cluster="dc1",
    namespace="shop",
    account="web",
    trust_domain="dc1.fed.example",
    token="isthmus-vm1.AAAA",
    anchors="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    enrolment=["192.0.2.1:7446", "192.0.2.2:7446"],
    addresses=["192.0.2.1:7445"],
    suffix="global",
)


def made(files: dict[str, str], process: str = "sidecar") -> VmBundle:
    return VmBundle(
        vm="web-1",
        cluster="dc1",
        process=process,
        expires="2026-01-01T00:00:00Z",
        fingerprint="sha256:ab",
        files=files,
    )


def test_a_sidecar_takes_its_settings_as_they_are(tmp_path: Path) -> None:
    made(bundle.sidecar(INVITATION, state="/var/lib/isthmus/sidecar")).write(tmp_path / "web-1")
    settings = sidecar_settings.read(tmp_path / "web-1" / "sidecar.yaml")
    assert (settings.name, settings.namespace, settings.account) == ("web-1", "shop", "web")
    assert settings.agent is not None
    assert settings.agent.enrolment == ("192.0.2.1:7446", "192.0.2.2:7446")
    assert Path(settings.agent.token_file).read_text() == "isthmus-vm1.AAAA\n"
    assert Path(settings.agent.anchors).read_text() == INVITATION.anchors
    assert (tmp_path / "web-1").stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "web-1").iterdir())


def test_a_gateway_takes_its_settings_as_they_are(tmp_path: Path) -> None:
    files = bundle.gateway(INVITATION, state="/var/lib/isthmus/gateway", address="192.0.2.10", port=15443)
    made(files, "gateway").write(tmp_path)
    settings = gateway_settings.read(tmp_path / "gateway.yaml")
    assert (settings.address, settings.port, settings.account) == ("192.0.2.10", 15443, "gateway")


def test_nothing_is_secret_but_the_token() -> None:
    one = bundle.sidecar(INVITATION, state="/s")
    other = bundle.sidecar(replace(INVITATION, token="another"), state="/s")
    assert {name for name in one if one[name] != other[name]} == {bundle.TOKEN}


def test_as_one_document_and_back() -> None:
    one = made({**bundle.sidecar(INVITATION, state="/s"), "isthmus.service": "[Unit]\nDescription=é: {x}\n\n"})
    assert VmBundle.parse(one.text()) == one
    assert "  join.token: |\n" in one.text(), "a person can read it"
    assert yaml.safe_load(one.text()) == one.document()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a\n",
        "vm: web-1\n",
        "files: 3\n",
        "vm: [\n",
        made({"../x": "y"}).text(),
        made({"a/b": "y"}).text(),
        made({"..": "y"}).text(),
    ],
)
def test_what_is_no_bundle(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        VmBundle.parse(text)
    assert caught.value.error_code == "bundle_malformed"
    assert "\n" not in caught.value.message


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed):
        made({"a": "b"}).write(tmp_path / "file" / "below")
