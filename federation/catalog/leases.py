"""A table of leases: who has to be heard of again by when. Pure; the caller brings the (monotonic) time."""

from __future__ import annotations

import heapq


class Leases:
    """Deadlines by name, in seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._deadlines: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []  # may hold deadlines that were overtaken

    def renew(self, name: str, ttl: float, now: float) -> None:
        """`name` was heard of: it holds until `now + ttl`. A renewal never shortens a lease; `drop` ends one."""
        deadline = now + ttl
        if deadline <= self._deadlines.get(name, float("-inf")):
            return
        self._deadlines[name] = deadline
        heapq.heappush(self._heap, (deadline, name))
        if len(self._heap) > 2 * len(self._deadlines) + 64:
            self._heap = [(when, who) for who, when in self._deadlines.items()]
            heapq.heapify(self._heap)

    def drop(self, name: str) -> None:
        """Forget `name`; it will not be reported as expired."""
        self._deadlines.pop(name, None)

    def expired(self, now: float) -> list[str]:
        """The names whose lease has run out by `now`, in the order of their deadlines; each is reported once."""
        out = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            _, name = heapq.heappop(self._heap)
            del self._deadlines[name]
            out.append(name)
        return out

    def next_deadline(self) -> float | None:
        """When `expired` has to be asked next; None while there are no leases."""
        while self._heap and self._deadlines.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def __contains__(self, name: str) -> bool:
        return name in self._deadlines

    def __len__(self) -> int:
        return len(self._deadlines)
