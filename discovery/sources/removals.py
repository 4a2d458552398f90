"""Decides which vanished files are believed. Nothing is deleted because one reading came back empty.

A file that goes alone is believed at once. When a whole folder seems to be empty, or more than a fifth of it vanishes
within a short while, what is gone is held until a second reading, some seconds later, finds the same.
Pure; time is given.
"""

from __future__ import annotations

from collections import deque

SHARE = 0.2
FEW = 5
"""Up to this many removals within the window are ordinary, whatever their share."""


class Removals:
    """Remembers what is held and what went recently. Times are monotonic seconds."""

    def __init__(self, *, confirm_seconds: float) -> None:
        self._confirm = confirm_seconds
        self._held: dict[str, float] = {}
        self._recent: deque[float] = deque()

    @property
    def held(self) -> frozenset[str]:
        """Files that are gone and still count."""
        return frozenset(self._held)

    def due(self) -> float | None:
        """When to look again; None when nothing is held."""
        return max(self._held.values()) + self._confirm if self._held else None

    def look(self, gone: set[str], *, present: int, now: float, whole: bool = True) -> set[str]:
        """Of the known files, `gone` are missing or empty and `present` are there: those of `gone` that are believed.

        A file that came back is no longer held. A change of what is gone begins the wait anew. Only a look at the
        `whole` folder confirms what is held.
        """
        for name in self._held.keys() - gone:
            del self._held[name]
        while self._recent and self._recent[0] <= now - self._confirm:
            self._recent.popleft()
        fresh = gone - self._held.keys()
        if fresh:
            total = present + len(gone) + len(self._recent)
            budget = max(FEW, int(SHARE * total))
            if present == 0 or len(self._recent) + len(gone) > budget:
                for name in gone:
                    self._held[name] = now
                return set()
            self._recent.extend([now] * len(fresh))
            return fresh
        return self._confirmed(now) if whole else set()

    def _confirmed(self, now: float) -> set[str]:
        due = self.due()
        if due is None or now < due:
            return set()
        confirmed = set(self._held)
        self._held.clear()
        return confirmed
