"""When the gateways among a set of endpoints begin to be checked: once Envoy has the set, and not before.

Envoy does not use a new cluster before every host that is to be checked was checked once, so that one black hole among
the gateways would hold up a new name for the time-out of a check, local copies included. So a set of endpoints is first
sent without checks, and again with them when Envoy has asked for it. No I/O; the builders ask, the process beside Envoy
tells.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Sequence
from itertools import islice

from federation.envoy.endpoint import Host


class Checks:
    """Keeps track of the sets of endpoints by name, and of the owners (see Ledger) whose sets are due again."""

    def __init__(self) -> None:
        self._waiting: dict[str, Hashable] = {}
        self._begun: set[str] = set()
        self._names: dict[Hashable, set[str]] = {}
        self._due: set[Hashable] = set()

    def begun(self, owner: Hashable, name: str, placement: Sequence[Sequence[Host]]) -> bool:
        """Whether `owner`'s set of endpoints `name` is sent with checks."""
        if name in self._begun:
            return True
        if name not in self._waiting and not any(host.cluster for hosts in placement for host in hosts):
            return True  # nobody to check
        self._waiting[name] = owner
        self._names.setdefault(owner, set()).add(name)
        return False

    def begin(self, known: Container[str], limit: int | None = None) -> bool:
        """Envoy has the sets in `known`: whether an update has to follow that sends some of them with checks.

        At most `limit` of them, the longest waiting first: the handshakes of many first checks at once would keep
        Envoy's main thread from taking up a new name meanwhile.
        """
        ready = list(islice((name for name in self._waiting if name in known), limit))
        for name in ready:
            self._begun.add(name)
            self._due.add(self._waiting.pop(name))
        return bool(ready)

    def take_due(self) -> set[Hashable]:
        """The owners whose checks begin with this update."""
        due, self._due = self._due, set()
        return due

    def forget(self, owner: Hashable) -> None:
        """`owner` has no sets any more."""
        names = self._names.pop(owner, set())
        self._begun -= names
        self._due.discard(owner)
        for name in names:
            self._waiting.pop(name, None)
