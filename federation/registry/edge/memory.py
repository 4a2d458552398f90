"""Gives back to the system what start-up and large builds have left behind. Linux; elsewhere nothing happens."""

from __future__ import annotations

import ctypes
import gc

LARGE = 1000
"""Resources; a smaller build leaves nothing worth the call."""


def trim(built: int) -> None:
    """After a build of so many resources: glibc keeps freed pages unless it is asked."""
    if built >= LARGE:
        give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if give_back is not None:
            give_back(0)


def settle() -> None:
    """Once, when the process is up: what the start left is given back.

    What exists now is taken out of the garbage collector's sight, so that later collections are short.
    """
    gc.collect()
    gc.freeze()
    trim(LARGE)
