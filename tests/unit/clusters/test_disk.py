"""Disks that are full: what the system says, and what programs say."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from clusters.disk import is_full, refusal


@pytest.mark.parametrize(
    ("number", "code", "hint"),
    [
        (errno.ENOSPC, "no_disk", "make room"),
        (errno.EDQUOT, "no_disk", "make room"),
        (errno.EROFS, "storage_failed", "free or repair the disk"),
    ],
)
def test_what_the_system_says(number: int, code: str, hint: str) -> None:
    error = refusal(Path("/full/file"), OSError(number, os.strerror(number)), hint="make room")
    assert (error.error_code, error.hint) == (code, hint)
    assert error.message == f"cannot write to /full/file: {os.strerror(number)}"


@pytest.mark.parametrize(
    ("said", "full"),
    [
        ("E: Failed to fetch x  Error writing to file - write (28: No space left on device)", True),
        ("write /var/lib/containerd: no space left on device", True),
        ("cp: error writing 'x': Disk quota exceeded", True),
        ("read-only file system", False),
        ("", False),
    ],
)
def test_what_programs_say(said: str, full: bool) -> None:
    assert is_full(said) is full
