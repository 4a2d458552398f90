"""Disks that are full, told as one error (`no_disk`), whoever was refused: we, or a program that we ran."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from federation.errors import StorageFailed

CODE = "no_disk"
SAID = r"no space left on device|disk quota exceeded"
"""How programs say it; in whatever case."""


def refusal(where: Path, error: OSError, *, hint: str) -> StorageFailed:
    """What the system said of `where`, as an error; `hint` says how room is made there."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StorageFailed(
        f"cannot write to {where}: {error.strerror or error}",
        hint=hint if full else "free or repair the disk",
        code=CODE if full else None,
    )


def is_full(said: str) -> bool:
    """Whether a program says that it has found no room."""
    return re.search(SAID, said, re.IGNORECASE) is not None
