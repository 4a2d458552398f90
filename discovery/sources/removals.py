"""Decides which vanished files are believed. Nothing is deleted because one reading came back empty.

A file that goes alone is believed at once. When a whole folder seems to be empty, or more than a fifth of it vanishes
within a short while, what is gone is held until a second reading, some seconds later, finds the same. Each is held for
itself: what vanishes later neither confirms nor delays it.
Pure; time is given.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

SHARE = 0.2
FEW = 5
"""Up to this many removals within the window are ordinary, whatever their share."""


class Removals:
    """Remembers what is held and what went recently. Times are monotonic seconds."""

    def __init__(self, *, confirm_seconds: float) -> None:
        self._confirm = confirm_seconds
        self._held: dict[str, float] = {}
        """With the time of the second look."""
        self._recent: deque[tuple[float, int, int]] = deque()
        """When how many went that were believed, and that were held: a wave counts while it rolls, and not longer."""
        self._believed = self._wave = 0
        """Of those the believed ones, and all."""
        self._doubt = float("-inf")

    @property
    def held(self) -> Collection[str]:
        """Files that are gone and still count."""
        return self._held.keys()

    def due(self) -> float | None:
        """When to look again; None when nothing is held."""
        return min(self._held.values(), default=None)

    def ripe(self, now: float) -> set[str]:
        """What is to be looked at again now."""
        return {name for name, due in self._held.items() if due <= now}

    def doubt(self, until: float) -> None:
        """There is reason to doubt that what goes is gone: all of it is held until then at least."""
        self._doubt = max(self._doubt, until)
        self._held = {name: max(due, until) for name, due in self._held.items()}

    def look(
        self, gone: set[str], *, present: int, now: float, whole: bool = True, seen: Collection[str] | None = None
    ) -> set[str]:
        """Of the known files, `gone` are missing or empty and `present` are there: those of `gone` that are believed.

        A file that came back is no longer held. Only a look at the `whole` folder confirms what is held; `seen`: of
        that only these, which it looked for.
        """
        for name in self._held.keys() - gone:
            del self._held[name]
        while self._recent and self._recent[0][0] <= now - self._confirm:
            _, went, stayed = self._recent.popleft()
            self._believed -= went
            self._wave -= went + stayed
        believed: set[str] = set()
        if whole:
            ripe = self.ripe(now)
            believed = ripe if seen is None else ripe.intersection(seen)
        if fresh := gone - self._held.keys():
            budget = max(FEW, int(SHARE * (present + len(fresh) + self._believed)))
            self._wave += len(fresh)
            if present == 0 or now < self._doubt or self._wave > budget:
                self._recent.append((now, 0, len(fresh)))
                self._held.update(dict.fromkeys(fresh, max(now + self._confirm, self._doubt)))
            else:
                self._recent.append((now, len(fresh), 0))
                self._believed += len(fresh)
                believed |= fresh
        for name in believed:
            self._held.pop(name, None)
        return believed
