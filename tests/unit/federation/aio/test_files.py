import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.aio.files import read_state, write_atomic, write_state
from federation.errors import CorruptState, StorageFailed


def test_what_was_written_is_read(tmp_path: Path):
    path = tmp_path / "view"
    assert read_state(path) is None
    write_state(path, b"one")
    write_state(path, b"two")
    assert read_state(path) == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["view"]


@given(position=st.integers(0, 200), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(tmp_path_factory: pytest.TempPathFactory, position: int, bit: int):
    path = tmp_path_factory.mktemp("flip") / "view"
    write_state(path, b"x" * 150)
    raw = bytearray(path.read_bytes())
    raw[position % len(raw)] ^= 1 << bit
    path.write_bytes(raw)
    with pytest.raises(CorruptState, match="damaged"):
        read_state(path)


@pytest.mark.parametrize("length", [0, 1, 16, 40, 81, 90])
def test_any_truncation_is_noticed(tmp_path: Path, length: int):
    path = tmp_path / "view"
    write_state(path, b"payload of some length")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CorruptState):
        read_state(path)


def test_a_full_disk_leaves_the_old_file_unharmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "view"
    write_state(path, b"old")

    def full(descriptor: int, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StorageFailed, match="No space left") as caught:
            write_state(path, b"new")
    assert caught.value.error_code == "storage_failed"
    assert read_state(path) == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["view"]


def test_a_missing_folder_is_one_clear_line(tmp_path: Path):
    with pytest.raises(StorageFailed, match="cannot write"):
        write_atomic(tmp_path / "absent" / "file", b"")
