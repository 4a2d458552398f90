"""Which ports of imports workloads without a sidecar call through this gateway: what Envoy has clusters for.

Without I/O. The listener of a port holds the name of its cluster, and Envoy asks for that with the first connection.
It asks for a name once and never again: a name that is given up, because nobody called for long or because the import
went away, stays dead until Envoy is restarted. So a name ends in a number, and the listener then gets the next one.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from federation.envoy import names
from federation.model.ids import ServiceName


class Line(NamedTuple):
    """A port of an import."""

    service: ServiceName
    port: int


@dataclass(slots=True)
class _State:
    number: int = 1
    asked: bool = False
    used: float | None = None  # when it was last seen in use; None: nobody has looked yet
    ending: str = ""  # the former name, for the connections that a replaced listener still has
    ended: float = 0.0


class Called:
    """Follows the names. Times are monotonic seconds of the caller's clock.

    What was not used for `idle_seconds` is given up, and its cluster taken away when the connections of the replaced
    listener have had `drain_seconds` to end. There are no more names than listeners: callers cannot invent any.
    """

    def __init__(self, *, idle_seconds: float = 600.0, drain_seconds: float = 5.0) -> None:
        self._idle, self._drain = idle_seconds, drain_seconds
        self._lines: dict[ServiceName, dict[int, _State]] = {}  # those that were asked for at some time
        self._moved: set[ServiceName] = set()
        self._in_use = 0

    def cluster(self, line: Line) -> str:
        """The name that the listener holds."""
        state = self._lines.get(line.service, {}).get(line.port)
        return names.egress_cluster(line.service, line.port, state.number if state is not None else 1)

    def clusters(self, line: Line) -> tuple[str, ...]:
        """The names that Envoy has to have a cluster for; the last one is the listener's if `in_use`."""
        state = self._lines.get(line.service, {}).get(line.port)
        if state is None:
            return ()
        return (*([state.ending] if state.ending else ()), *([self.cluster(line)] if state.asked else ()))

    def in_use(self, line: Line) -> bool:
        """Whether the listener's name was asked for and not given up since."""
        state = self._lines.get(line.service, {}).get(line.port)
        return state is not None and state.asked

    def ask(self, clusters: Iterable[str]) -> None:
        """Envoy asks for `clusters`; what is no name of a listener is passed over."""
        for cluster in clusters:
            parsed = names.parse_egress_cluster(cluster)
            if parsed is None:
                continue
            service, port, number = parsed
            state = self._lines.setdefault(service, {}).setdefault(port, _State())
            if number == state.number and not state.asked:
                state.asked, state.used = True, None
                self._in_use += 1
                self._moved.add(service)

    def keep(self, service: ServiceName, ports: Container[int]) -> None:
        """The service has listeners for `ports` alone: what was asked for at others is dead."""
        for port, state in self._lines.get(service, {}).items():
            if port not in ports:
                state.ending = ""
                self._give_up(state)

    def sweep(self, used: Collection[str], now: float) -> bool:
        """`used` are the clusters that carried something since the last sweep; returns whether anything has changed."""
        for service, lines in self._lines.items():
            for port, state in lines.items():
                if state.ending and now - state.ended >= self._drain:
                    state.ending = ""
                    self._moved.add(service)
                if not state.asked:
                    continue
                name = self.cluster(Line(service, port))
                if name in used or state.used is None:
                    state.used = now
                elif now - state.used >= self._idle:
                    state.ending, state.ended = name, now
                    self._give_up(state)
                    self._moved.add(service)
        return bool(self._moved)

    def take_moved(self) -> set[ServiceName]:
        """The services of which something was asked for or given up since this was last called."""
        moved, self._moved = self._moved, set()
        return moved

    @property
    def busy(self) -> bool:
        """Whether `sweep` has something to look at."""
        return any(state.asked or state.ending for lines in self._lines.values() for state in lines.values())

    @property
    def count(self) -> int:
        """Ports that are in use."""
        return self._in_use

    def _give_up(self, state: _State) -> None:
        if state.asked:
            state.asked = False
            state.number += 1
            self._in_use -= 1
