"""Folders from packages, and tars that depend on names and contents alone."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from clusters.images.layers import certificates, lay_out, merged, pack, prune
from clusters.images.recipe import System, python_system


def write(folder: Path, *names: str, executable: bool = False) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        path.chmod(0o4755 if executable else 0o600)
    return folder


def paths(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or path.is_file()
    )


def test_a_system_of_packages(tmp_path: Path) -> None:
    library = write(tmp_path / "library", "lib/x86_64-linux-gnu/libc.so.6", "usr/share/doc/libc6/copyright")
    (library / "lib64").mkdir()
    (library / "lib64/ld.so.2").symlink_to("/lib/x86_64-linux-gnu/ld.so.2")
    tool = write(tmp_path / "tool", "bin/tool", "usr/bin/other", executable=True)
    write(tool, "usr/share/man/man1/tool.1", "usr/share/doc/tool/changelog", "etc/tool.conf", "etc/drop.me")
    system = System(
        packages=("tool",),
        without=frozenset(),
        dropped=("etc/drop*",),
        kept=("usr/bin/tool", "usr/share/doc/*/copyright"),
        files={"etc/passwd": "root:x:0:0::/:\n"},
        links={"usr/bin/alias": "tool"},
        folders={"tmp": (0o1777, 0)},
        executables=True,
    )
    root = tmp_path / "root"
    root.mkdir()

    lay_out(system, [(library, "libc6", "Package: libc6\n"), (tool, "tool", "Package: tool\n")], root)

    assert paths(root) == [
        "bin",  # these four are links
        "etc/passwd",
        "etc/tool.conf",
        "lib",
        "lib64",
        "sbin",
        "usr/bin/alias",
        "usr/bin/tool",
        "usr/lib/x86_64-linux-gnu/libc.so.6",
        "usr/lib64/ld.so.2",
        "usr/share/doc/libc6/copyright",
        "var/lib/dpkg/status.d/libc6",
        "var/lib/dpkg/status.d/tool",
    ]
    assert (root / "bin").readlink() == Path("usr/bin")
    assert (
        root / "usr/bin/tool"
    ).stat().st_mode & 0o7777 == 0o755  # nobody's rights but the owner's to write, no setuid
    assert (root / "usr/lib/x86_64-linux-gnu/libc.so.6").stat().st_mode & 0o7777 == 0o644
    assert (root / "tmp").is_dir()


@pytest.mark.parametrize(
    ("path", "expected"),
    [("lib/a", "usr/lib/a"), ("sbin/nft", "usr/sbin/nft"), ("usr/lib/a", "usr/lib/a"), ("library/a", "library/a")],
)
def test_merged_folders(path: str, expected: str) -> None:
    assert merged(path) == expected


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("usr/bin/python3.11", True),
        ("usr/sbin/nft", True),
        ("usr/bin/ip", True),
        ("usr/bin/openssl", False),
        ("usr/sbin/update-ca-certificates", False),
        ("usr/lib/python3.11/asyncio/tasks.py", True),
        ("usr/lib/python3.11/ensurepip/__init__.py", False),
        ("usr/lib/python3.11/test/support.py", False),
        ("usr/lib/python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so", True),
        ("usr/lib/python3.11/lib-dynload/readline.cpython-311-x86_64-linux-gnu.so", False),
        ("usr/share/doc/libc6/copyright", True),
        ("usr/share/doc/libc6/changelog.Debian.gz", False),
        ("usr/share/man/man8/nft.8.gz", False),
        ("usr/lib/x86_64-linux-gnu/gconv/UTF-16.so", False),
    ],
)
def test_what_stays_of_the_packages(path: str, kept: bool) -> None:
    assert python_system("3.11").keeps(path) is kept


def test_public_roots(tmp_path: Path) -> None:
    package = write(
        tmp_path / "ca", "usr/share/ca-certificates/mozilla/b.crt", "usr/share/ca-certificates/mozilla/a.crt"
    )
    other = write(tmp_path / "other", "etc/something")

    assert certificates([other, package]) == (
        "usr/share/ca-certificates/mozilla/a.crt" + "usr/share/ca-certificates/mozilla/b.crt"
    )
    assert certificates([other]) == ""


def test_pruning_takes_empty_folders_with_it(tmp_path: Path) -> None:
    write(tmp_path, "a/tests/one.py", "a/code.py", "setuptools/deep/file", "b/kept")

    prune(tmp_path, lambda path: path.startswith("setuptools/") or "/tests/" in path)

    assert paths(tmp_path) == ["a/code.py", "b/kept"]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_dir()) == ["a", "b"]


def test_the_same_contents_give_the_same_tar(tmp_path: Path) -> None:
    long = "x" * 90 + "/" + "y" * 90
    for name, order in (("one", ("b/x", "a", long)), ("two", (long, "a", "b/x"))):
        folder = write(tmp_path / name, *order)
        (folder / "link").symlink_to("a")
        (folder / "state").mkdir()
        os.utime(folder / "a", (len(name), 1))
    (tmp_path / "two" / "a").chmod(0o666)
    (tmp_path / "two" / "b").chmod(0o700)

    first = pack(tmp_path / "one", tmp_path / "one.tar", epoch=0, folders={"state": (0o700, 65532)})
    second = pack(tmp_path / "two", tmp_path / "two.tar", epoch=0, folders={"state": (0o700, 65532)})

    assert first == second
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as archive:
        assert archive.getnames() == ["a", "b", "b/x", "link", "state", "x" * 90, long]
        state = archive.getmember("state")
        assert (state.mode, state.uid, state.gid) == (0o700, 65532, 65532)
        assert {(entry.mtime, entry.uname) for entry in archive} == {(0, "")}
        assert archive.getmember("a").mode == 0o644
    assert pack(tmp_path / "one", tmp_path / "later.tar", epoch=1) != first
