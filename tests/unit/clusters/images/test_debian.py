"""What is read of apt, and which packages follow from it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clusters.images.debian import Package, closure, parse, state
from federation.errors import NotFound

RECORD = """\
Package: libexample1
Source: example
Version: 1:2.3-4
Installed-Size: 5
Maintainer: Somebody <somebody@example.com>
Architecture: amd64
Depends: libc6 (>= 2.36), debconf (>= 0.5) | debconf-2.0, python3:any
Pre-Depends: libpre0
Description-en: one line
 and another: one
Filename: pool/main/e/example.deb
SHA256: 00"""


def test_a_record() -> None:
    package = parse(RECORD)

    assert package is not None
    assert (package.name, package.version) == ("libexample1", "1:2.3-4")
    assert package.depends == (("libpre0",), ("libc6",), ("debconf", "debconf-2.0"), ("python3",))
    # What dpkg keeps of an installed package, and nothing that says where it was fetched.
    assert package.record == (
        "Package: libexample1\nStatus: install ok installed\nMaintainer: Somebody <somebody@example.com>\n"
        "Architecture: amd64\nSource: example\nVersion: 1:2.3-4\nPre-Depends: libpre0\n"
        "Depends: libc6 (>= 2.36), debconf (>= 0.5) | debconf-2.0, python3:any\n"
    )


@pytest.mark.parametrize("text", ["", "\n", "N: Unable to locate package nothing", "Package: only-a-name"])
def test_what_is_no_record(text: str) -> None:
    assert parse(text) is None


def there(**depends: str) -> dict[str, Package]:
    """Packages by name; `a="b c|d"` needs b, and c or d."""
    return {
        name: Package(name=name, version="1", depends=tuple(tuple(one.split("|")) for one in needs.split()), record="")
        for name, needs in depends.items()
    }


@pytest.mark.parametrize(
    ("roots", "without", "packages", "expected"),
    [
        (["a"], (), there(a=""), ["a"]),
        (["a"], (), there(a="b", b="c", c=""), ["a", "b", "c"]),
        (["a"], (), there(a="b", b="a"), ["a", "b"]),  # a circle, as libc6 and libgcc-s1 are
        (["a"], (), there(a="b|c", b="", c=""), ["a", "b"]),
        (["a"], (), there(a="b|c", c=""), ["a", "c"]),  # the first that there is
        (["c", "a"], (), there(a="b|c", b="", c=""), ["a", "c"]),  # what is taken already satisfies
        (["a"], ("b",), there(a="b c", b="d", c="", d=""), ["a", "c"]),  # nor what only b needs
        (["a"], ("b",), there(a="b|c", b="", c=""), ["a"]),
    ],
)
def test_what_follows(
    roots: list[str], without: tuple[str, ...], packages: dict[str, Package], expected: list[str]
) -> None:
    assert [package.name for package in closure(roots, packages, without=without)] == expected


def test_a_package_that_is_not_there() -> None:
    with pytest.raises(NotFound, match=r"the package b or c is not known to apt \(run apt-get update\)"):
        closure(["a"], there(a="b|c"))


def test_the_answer_is_old_when_lists_or_settings_change(tmp_path: Path) -> None:
    lists, settings = tmp_path / "var/lib/apt/lists", tmp_path / "etc/apt"
    lists.mkdir(parents=True)
    settings.mkdir(parents=True)
    (lists / "main").write_text("one")
    first = state(tmp_path)
    assert state(tmp_path) == first

    os.utime(lists / "main", ns=(1, 1))
    second = state(tmp_path)
    (settings / "preferences").write_text("pin")

    assert len({first, second, state(tmp_path)}) == 3
