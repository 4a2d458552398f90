"""Secrets on disk."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from federation.errors import CorruptState, Denied, StorageFailed
from federation.trust.keystore import private_directory, read_secret, write_secret


def test_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "secret"
    assert read_secret(path, hint="") is None
    write_secret(path, b"one")
    write_secret(path, b"two")
    assert read_secret(path, hint="") == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_damage_is_told_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_secret(path, b"secret")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptState) as caught:
        read_secret(path, hint="do this")
    assert caught.value.hint == "do this"


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_secret(path, b"secret")
    path.chmod(0o640)
    with pytest.raises(Denied) as caught:
        read_secret(path, hint="")
    assert caught.value.error_code == "secret_exposed"
    assert f"chmod 600 {path}" in caught.value.hint


def test_where_no_directory_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageFailed):
        private_directory(tmp_path / "file" / "below")
    with pytest.raises(StorageFailed):
        read_secret(tmp_path / "file" / "below", hint="")
