"""Gives back to the system what a large build has left behind."""

from __future__ import annotations

import ctypes

LARGE = 1000
"""Resources; a smaller build leaves nothing worth the call."""


def trim(built: int) -> None:
    """After a build of so many resources: glibc keeps freed pages unless it is asked; other C libraries do not."""
    if built >= LARGE:
        give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if give_back is not None:
            give_back(0)
