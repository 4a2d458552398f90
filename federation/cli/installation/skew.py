"""Which version may follow which.

Within a minor version all is compatible; one minor version beside the next works while an upgrade is under way; what a
newer minor version has written to disk an older one need not be able to read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from federation.errors import Conflict, InvalidInput

_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(?:[-+.][0-9A-Za-z.+-]*)?\Z", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Version:
    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> Version:
        """Raises InvalidInput for what is no version."""
        found = _VERSION.match(text)
        if found is None:
            raise InvalidInput(f"{text[:80]!r} is no version", hint="such as 1.4.2", code="invalid_version")
        return cls(*map(int, found.groups()))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


def version_of_image(image: str) -> Version | None:
    """What the tag of an image says; None where it says no version, as `latest`, or a digest alone."""
    tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
    try:
        return Version.parse(tag)
    except InvalidInput:
        return None


def check_same(installed: str, wanted: str, *, reached: str) -> None:
    """Raises Conflict unless a component of version `wanted` may be put beside those that are there: they are all of
    this version, and no upgrade to another one was begun."""
    new = Version.parse(wanted)
    for version, what in ((installed, "is installed"), (reached, "was begun with")):
        if Version.parse(version) != new:
            raise Conflict(
                f"isthmus {version} {what}, and this would be {wanted}",
                hint="run `fedctl upgrade` first, or use the fedctl of that version",
                code="upgrade_first",
            )


def check(installed: Version, wanted: Version, *, own: Version, reached: Version | None = None) -> None:
    """Raises Conflict when `wanted` may not follow `installed`, or is not for a fedctl of version `own` to install.

    `reached`: the highest that an upgrade has begun with, which need not have ended; the way back begins there.
    """
    highest = max(installed, reached or installed)
    if _distance(own, wanted) > 1:
        raise Conflict(
            f"fedctl {own} does not install {wanted}",
            hint=f"use the fedctl of version {wanted.major}.{wanted.minor}",
            code="version_skew",
        )
    if wanted < highest and _distance(highest, wanted) > 0:
        what = "is installed" if highest == installed else "was begun with"
        raise Conflict(
            f"{highest} {what}, and {wanted} need not be able to read what it has written",
            hint=f"go on with {highest.major}.{highest.minor}; to go back, restore a backup of that version",
            code="downgrade_refused",
        )
    if _distance(installed, wanted) > 1:
        raise Conflict(
            f"{installed} is installed, and {wanted} is more than one minor version away",
            hint=f"upgrade to {installed.major}.{installed.minor + 1} first",
            code="version_skew",
        )


def _distance(one: Version, other: Version) -> int:
    """Minor versions between the two; another major version is far away."""
    return abs(one.minor - other.minor) if one.major == other.major else 1000
