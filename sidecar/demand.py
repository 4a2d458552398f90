"""Which names a sidecar holds: asked for by DNS or by Envoy, answered by the agent, released when nobody uses them.

Without I/O. Arrive: look-ups, the agent's answers and the time. Leaves: a Plan of what to subscribe at the agent and
what to release. The next module in the flow is sidecar.agent, which carries plans out.

    event      unknown         ASKED     ABSENT    PRESENT
    ask        ASKED, subscr.  ASKED     ABSENT    PRESENT      (used now)
    present    -               PRESENT   PRESENT   PRESENT
    absent     -               ABSENT    ABSENT    ABSENT       (still subscribed: it is put when it comes to exist)
    expire     -               released after `absent_for`      released after `idle` without look-up or connection

ASKED and ABSENT names share one bounded pool in which the longest unused makes room, so that a flood of names that do
not exist neither grows this process nor displaces a name that works. PRESENT names have a limit of their own; one that
had a connection when that was last looked at is not displaced, however long ago that was.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from federation.model.ids import ServiceName

RECENT = 30.0
"""Seconds since its last use during which a present name is never displaced by another: several times the DNS TTL. None
is kept for longer than one that nobody uses."""


class State(enum.Enum):
    """What is known of a name."""

    ASKED = "asked"
    ABSENT = "absent"
    PRESENT = "present"


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be done. `refused`: exists, but the limit of names in use is reached; it is released as well."""

    subscribe: tuple[ServiceName, ...] = ()
    release: tuple[ServiceName, ...] = ()
    refused: tuple[ServiceName, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.subscribe or self.release or self.refused)


NOTHING = Plan()


class Demand:
    """The names held. Times are monotonic seconds."""

    def __init__(self, *, limit: int, absent_limit: int, idle: float, absent_for: float) -> None:
        self._limit = limit
        self._open_limit = max(1, absent_limit)
        self._idle = idle
        self._absent_for = absent_for
        self._open: OrderedDict[ServiceName, tuple[State, float]] = OrderedDict()  # ASKED, ABSENT; least used first
        self._present: OrderedDict[ServiceName, float] = OrderedDict()
        self._carrying: frozenset[ServiceName] = frozenset()

    def state(self, name: ServiceName) -> State | None:
        """None where the name is not held."""
        if name in self._present:
            return State.PRESENT
        found = self._open.get(name)
        return found[0] if found else None

    def held(self) -> Iterator[ServiceName]:
        """Every name that is subscribed at the agent."""
        yield from self._present
        yield from self._open

    def present_names(self) -> Iterator[ServiceName]:
        yield from self._present

    def __len__(self) -> int:
        return len(self._present) + len(self._open)

    def ask(self, name: ServiceName, now: float) -> Plan:
        """Somebody wants the name: it counts as used now."""
        if name in self._present:
            self.touch(name, now)
            return NOTHING
        found = self._open.pop(name, None)
        self._open[name] = (found[0] if found else State.ASKED, now)
        if found:
            return NOTHING
        release: tuple[ServiceName, ...] = ()
        if len(self._open) > self._open_limit:
            release = (self._open.popitem(last=False)[0],)
        return Plan(subscribe=(name,), release=release)

    def touch(self, name: ServiceName, now: float) -> None:
        """A present name was looked up or has connections."""
        if name in self._present:
            self._present[name] = now
            self._present.move_to_end(name)

    def carrying(self, names: Iterable[ServiceName], now: float) -> None:
        """These, and no others, have connections now."""
        self._carrying = frozenset(names)
        for name in self._carrying:
            self.touch(name, now)

    def present(self, name: ServiceName, now: float) -> Plan:
        """The agent says that the name exists. Names that are not held are ignored: the answer came too late."""
        if name in self._present or name not in self._open:
            return NOTHING
        release: tuple[ServiceName, ...] = ()
        if len(self._present) >= self._limit:
            oldest = next((n for n in self._present if n not in self._carrying), None)
            if oldest is None or now - self._present[oldest] < min(RECENT, self._idle):
                del self._open[name]
                return Plan(release=(name,), refused=(name,))
            del self._present[oldest]
            release = (oldest,)
        del self._open[name]
        self._present[name] = now  # it was asked for a moment ago, or comes to exist now
        return Plan(release=release)

    def absent(self, name: ServiceName, now: float) -> Plan:
        """The agent says that the name does not exist (any more)."""
        if name in self._open:
            self._open[name] = (State.ABSENT, self._open[name][1])
            return NOTHING
        if self._present.pop(name, None) is None:
            return NOTHING
        self._open[name] = (State.ABSENT, now)
        if len(self._open) > self._open_limit:
            return Plan(release=(self._open.popitem(last=False)[0],))
        return NOTHING

    def expire(self, now: float) -> Plan:
        """Release what was not used for long."""
        gone: list[ServiceName] = []
        for name, (_, used) in list(self._open.items()):
            if now - used < self._absent_for:
                break
            del self._open[name]
            gone.append(name)
        for name, used in list(self._present.items()):
            if now - used < self._idle:
                break
            del self._present[name]
            gone.append(name)
        return Plan(release=tuple(gone))
