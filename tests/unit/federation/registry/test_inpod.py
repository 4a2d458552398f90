"""The folder of a registry in a pod: made once, then only its settings follow the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.cli.installation.rollout import reasons
from federation.errors import Conflict, InvalidSettings, StorageFailed
from federation.registry.inpod import load, prepare
from federation.registry.settings import load as parse


def file(tmp_path: Path, **keys: Any) -> Path:
    path = tmp_path / "registry.yaml"
    known = {"federation": "fed.example", "directory": str(tmp_path / "state"), "listen": "127.0.0.1:7400"}
    path.write_text(yaml.safe_dump(known | keys))
    return path


def test_the_directory_is_the_volume_unless_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text("federation: fed.example\n")
    assert load(path).directory == "/var/lib/isthmus"


def test_it_is_made_once_and_a_new_address_takes_effect_at_the_next_start(tmp_path: Path) -> None:
    prepare(load(file(tmp_path, advertise="192.0.2.1:7400")))
    state = tmp_path / "state"
    assert {p.name for p in state.iterdir()} >= {"ca", "operator", "registry.db", "settings.yaml"}
    assert yaml.safe_load((state / "operator/operator.yaml").read_text())["registry"] == "192.0.2.1:7400"
    root = (state / "ca/root.pem").read_bytes()
    prepare(load(file(tmp_path, advertise="192.0.2.2:31400", quotas={"services": 7})))
    assert (state / "ca/root.pem").read_bytes() == root
    held = parse(state / "settings.yaml")
    assert (held.advertise, held.quotas.services, held.path) == ("192.0.2.2:31400", 7, state)


def test_what_a_start_that_was_cut_has_left_is_used(tmp_path: Path) -> None:
    prepare(load(file(tmp_path)))
    state = tmp_path / "state"
    root = (state / "ca/root.pem").read_bytes()
    (state / "settings.yaml").unlink()  # it is written last
    (state / "operator/operator.pem").unlink()
    prepare(load(file(tmp_path)))
    assert (state / "ca/root.pem").read_bytes() == root
    assert (state / "operator/operator.pem").exists()


def test_a_volume_that_is_not_its_own_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As storage that ignores fsGroup leaves it; root, as who tests may run, could write it all the same."""
    settings = load(file(tmp_path))
    settings.path.mkdir(mode=0o755)
    monkeypatch.setattr(os, "access", lambda path, _mode: path != settings.path)
    monkeypatch.setattr(os, "geteuid", lambda: 65532)
    monkeypatch.setattr(os, "getegid", lambda: 65532)
    with pytest.raises(StorageFailed, match="user 65532 cannot write to the volume") as caught:
        prepare(settings)
    assert caught.value.error_code == "volume_closed"
    assert list(settings.path.iterdir()) == []
    # `fedctl install registry --wait` shows all of it: what it is, and what to do.
    said = f"registry: {caught.value} [{caught.value.error_code}]".replace(str(settings.path), "/var/lib/isthmus")
    ended = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"message": said}}}
    pod = {"metadata": {"name": "isthmus-registry-0"}, "status": {"containerStatuses": [ended]}}
    (shown,) = reasons({}, [pod])
    assert "ignores fsGroup: chgrp 65532 and chmod 2770 it" in shown
    assert shown.endswith("persistence.storageClass) [volume_closed]")


def test_the_folder_of_another_federation_is_left_alone(tmp_path: Path) -> None:
    prepare(load(file(tmp_path)))
    before = (tmp_path / "state/settings.yaml").read_bytes()
    with pytest.raises(Conflict, match=r"holds the registry of fed\.example") as caught:
        prepare(load(file(tmp_path, federation="other.example")))
    assert caught.value.error_code == "other_federation"
    assert (tmp_path / "state/settings.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("keys", "says"),
    [({"listen": "0.0.0.0:7400"}, "set advertise"), ({"advertised": "x"}, "advertised"), ({"federation": 1}, "")],
)
def test_bad_settings(tmp_path: Path, keys: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load(file(tmp_path, **keys))
    assert says in str(caught.value)


def test_a_volume_that_belongs_to_somebody_else_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    settings = load(file(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "chmod", refuse)  # root owns it, and its group may write
        prepare(settings)
    assert (tmp_path / "state/ca").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state/settings.yaml").exists()
