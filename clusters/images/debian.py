"""Which Debian packages a program needs, and their files: asked of apt, unpacked into a cache, never installed here."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from federation.errors import NotFound, Unavailable

_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package as this system's archive has it."""

    name: str
    version: str
    depends: tuple[tuple[str, ...], ...]
    """What it needs to run (Pre-Depends and Depends): each is a choice of names, the preferred one first."""
    record: str
    """What the archive says of it, as the dpkg database keeps it: scanners of images read that."""


def known(roots: Iterable[str]) -> Mapping[str, Package]:
    """What apt knows of these packages and of all that they could need; names that it does not know are left out.

    Raises Unavailable without apt.
    """
    # Two calls, because each loads the whole of apt's cache.
    lines = _apt(["depends", "--recurse", "--important", *roots]).splitlines()
    names = {line.strip() for line in lines if line[:1].isalnum()}
    records = _apt(["show", "--no-all-versions", *sorted(names)]).split("\n\n") if names else []
    return {package.name: package for package in map(parse, records) if package is not None}


def _apt(arguments: list[str]) -> str:
    try:
        done = subprocess.run(
            ["apt-cache", *arguments],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,  # it complains of names that it does not know, and shows the others
        )
    except OSError as error:
        raise Unavailable(
            "images are made on Debian and Ubuntu only: there is no apt",
            hint="elsewhere, build deploy/images/Dockerfile",
        ) from error
    return done.stdout


def state(root: Path = Path("/")) -> str:
    """What changes when apt would know other packages: the times of its lists and of its settings."""
    folders = (root / "var/lib/apt/lists", root / "etc/apt")
    there = sorted(path for folder in folders for path in (folder, *folder.rglob("*")))
    return "".join(f"{path} {path.stat().st_mtime_ns}\n" for path in there if path.exists())


def parse(text: str) -> Package | None:
    """One record of `apt-cache show`; None for what is none. Only the fields that dpkg would keep are kept."""
    fields = dict(re.findall(r"^([A-Za-z-]+): *(.*)$", text, re.MULTILINE))
    if not fields.get("Package") or not fields.get("Version"):
        return None
    wanted = ", ".join(filter(None, (fields.get("Pre-Depends"), fields.get("Depends"))))
    depends = tuple(
        tuple(re.split(r"[\s:(]", choice.strip(), maxsplit=1)[0] for choice in one.split("|"))
        for one in wanted.split(",")
        if one.strip()
    )
    kept = "".join(f"{name}: {fields[name]}\n" for name in _KEPT if name in fields)
    record = kept.replace("\n", "\nStatus: install ok installed\n", 1)
    return Package(name=fields["Package"], version=fields["Version"], depends=depends, record=record)


_KEPT = ("Package", "Priority", "Section", "Maintainer", "Architecture", "Source", "Version", "Pre-Depends", "Depends")


def closure(
    roots: Iterable[str], there: Mapping[str, Package], *, without: Collection[str] = ()
) -> tuple[Package, ...]:
    """The packages named and all that they depend on, by name, of those that are there.

    `without` are not needed at run time, nor is what only they need. Of a choice the first one is taken that there is;
    one that was taken already satisfies it. Raises NotFound.
    """
    found: dict[str, Package] = {}
    wanted: list[tuple[str, ...]] = [(name,) for name in roots]
    for choice in wanted:  # it grows
        if any(name in found or name in without for name in choice):
            continue
        package = next((there[name] for name in choice if name in there), None)
        if package is None:
            raise NotFound(f"the package {' or '.join(choice)} is not known to apt", hint="run apt-get update")
        found[package.name] = package
        wanted += package.depends
    return tuple(found[name] for name in sorted(found))
