"""Gives back to the system what start-up and large builds have left behind. Linux; elsewhere nothing happens."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator

LARGE = 1000
"""Resources; a smaller build leaves nothing worth the call."""

_MADV_DONTNEED = 4


def trim(built: int) -> None:
    """After a build of so many resources: glibc keeps freed pages unless it is asked."""
    if built >= LARGE:
        give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if give_back is not None:
            give_back(0)


def settle() -> None:
    """Once, when the process is up: most of what was mapped and allocated served the start alone.

    Pages of code that were never written are unmapped; those still in use come back from the page cache by a minor
    fault each. What exists now is taken out of the garbage collector's sight, so that later collections are short.
    """
    gc.collect()
    gc.freeze()
    trim(LARGE)
    try:
        with open("/proc/self/smaps", encoding="utf-8", errors="replace") as smaps:
            code = list(unwritten_code(smaps))
    except OSError:
        return
    libc = ctypes.CDLL(None)
    for start, end in code:
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


def unwritten_code(smaps: Iterator[str]) -> Iterator[tuple[int, int]]:
    """The address ranges of executable mappings of files of which no page was changed (proc(5), smaps)."""
    candidate: tuple[int, int] | None = None
    for line in smaps:
        fields = line.split()
        if fields[0] == "Anonymous:":
            if candidate is not None and fields[1] == "0":
                yield candidate
            candidate = None
        elif not fields[0].endswith(":"):
            start, _, end = fields[0].partition("-")
            file = len(fields) > 5 and fields[5].startswith("/")
            candidate = (int(start, 16), int(end, 16)) if fields[1] == "r-xp" and file else None
