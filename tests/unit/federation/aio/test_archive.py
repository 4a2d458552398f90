"""The file that a backup is: whole, or refused with one line."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.aio.archive import Archive, Manifest, pack, unpack
from federation.errors import CorruptState

MANIFEST = Manifest(kind="cluster", name="east", made_ns=1_795_705_793 * 10**9, isthmus="0.1.0")
FILES = {"keys/root.pem": b"key", "epoch.state": b"7", "empty": b""}
DATA = pack(Archive(manifest=MANIFEST, files=FILES))


def test_what_is_packed_is_unpacked_and_the_same_content_has_the_same_bytes() -> None:
    found = unpack(DATA, what="f")
    assert (found.manifest, dict(found.files)) == (MANIFEST, FILES)
    assert pack(found) == DATA
    assert "key" not in repr(found)


def test_it_is_an_ordinary_tar(tmp_path: Path) -> None:
    (tmp_path / "f.tar").write_bytes(DATA)
    subprocess.run(["tar", "-xf", "f.tar"], cwd=tmp_path, check=True)
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=tmp_path, check=True)


@given(at=st.integers(0, len(DATA) - 1), bit=st.integers(0, 7))
@settings(max_examples=200)
def test_a_flipped_bit_is_noticed_or_has_no_effect(at: int, bit: int) -> None:
    flipped = DATA[:at] + bytes([DATA[at] ^ 1 << bit]) + DATA[at + 1 :]
    try:
        found = unpack(flipped, what="f")
    except CorruptState:
        return
    assert (found.manifest, dict(found.files)) == (MANIFEST, FILES)  # padding, or the times in a header


@given(length=st.integers(0, len(DATA) - 1))
@settings(max_examples=100)
def test_a_cut_one_is_noticed_or_lacks_padding_only(length: int) -> None:
    try:
        found = unpack(DATA[:length], what="f")
    except CorruptState:
        return
    assert (found.manifest, dict(found.files)) == (MANIFEST, FILES)


def tar(*members: tuple[str, bytes], link: str = "") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/shadow"
            archive.addfile(info)
    return made.getvalue()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no backup"),
        (b"no tar at all", "no backup"),
        (tar(("manifest.json", b"{}")), "damaged or cut"),
        (tar(("../outside", b"x")), "it holds '../outside'"),
        (tar(("/etc/passwd", b"x")), "it holds '/etc/passwd'"),
        (tar(("a", b"x"), ("a", b"y")), "it holds 'a'"),
        (tar(link="a"), "it holds 'a'"),
        (
            pack(Archive(manifest=Manifest(format=2, kind="x", name="y", made_ns=0, isthmus="9.9"), files={})),
            "format 2",
        ),
    ],
)
def test_what_is_none_of_ours_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(CorruptState, match=says) as caught:
        unpack(data, what="f.tar")
    assert caught.value.message.startswith("f.tar")
    assert caught.value.hint
