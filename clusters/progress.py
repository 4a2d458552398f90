"""Lines of progress, each with the seconds since the beginning."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Say = Callable[[str], None]
"""Told a line of progress."""


class Progress:
    """Writes to stderr what it is told: `  12.3 s  east: ready`."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began = clock, clock()

    @property
    def seconds(self) -> float:
        return self._clock() - self._began

    def __call__(self, text: str) -> None:
        print(f"{self.seconds:6.1f} s  {text}", file=sys.stderr, flush=True)


def silent(_text: str) -> None:
    """Says nothing."""
