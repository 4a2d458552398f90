"""What one client has subscribed to, of one resource type: no I/O.

The rules are those of the xDS protocol (https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol):

- "How the client specifies what resources to return": `*` is the wildcard; a first request that names nothing means
  the same, for listeners and clusters, until the client subscribes to any explicit name.
- "Unsubscribing From Resources": an unsubscription from what was not subscribed is ignored; unsubscribing a name while
  the wildcard holds asks for an answer, because only the server knows whether the wildcard still includes it.
- "Client Behaviors": a name that is subscribed again wants to be sent again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from federation.xds.snapshot import TypeUrl

WILDCARD = "*"
_LEGACY_WILDCARD = frozenset({TypeUrl.CLUSTER, TypeUrl.LISTENER})


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What a request changed: `asked` names want an answer, `dropped` ones are no longer of interest."""

    asked: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()
    wildcard_began: bool = False
    wildcard_ended: bool = False


class Subscription:
    """Explicit names and the wildcard. `only_named` are prefixes of names that the wildcard does not include."""

    def __init__(self, kind: TypeUrl, *, only_named: tuple[str, ...] = ()) -> None:
        self._kind = kind
        self._only_named = only_named
        self._explicit: set[str] = set()
        self._star = False
        self._legacy = False
        self._begun = False

    @property
    def begun(self) -> bool:
        """Whether the client has asked for this type at all."""
        return self._begun

    @property
    def wildcard(self) -> bool:
        return self._star or self._legacy

    @property
    def names(self) -> frozenset[str]:
        """The names that were subscribed explicitly."""
        return frozenset(self._explicit)

    def named(self, name: str) -> bool:
        """Whether `name` was subscribed explicitly: it is then answered even if it does not exist."""
        return name in self._explicit

    def only_named(self, name: str) -> bool:
        """Whether `name` is sent to those alone who name it."""
        return name.startswith(self._only_named) if self._only_named else False

    def wants(self, name: str) -> bool:
        """Whether the client is to be kept up to date about `name`."""
        return name in self._explicit or (self.wildcard and not self.only_named(name))

    def receive(self, *, subscribe: Iterable[str], unsubscribe: Iterable[str]) -> Moved:
        """Apply one request, first its subscriptions."""
        before = self.wildcard
        asked: set[str] = set()
        dropped: set[str] = set()
        wanted = list(subscribe)
        if wanted:
            self._legacy = False
        elif not self._begun and self._kind in _LEGACY_WILDCARD:
            self._legacy = True
        self._begun = True
        for name in wanted:
            if name == WILDCARD:
                self._star = True
            else:
                self._explicit.add(name)
                asked.add(name)
        for name in unsubscribe:
            if name == WILDCARD:
                self._star = self._legacy = False
            elif name in self._explicit:
                self._explicit.discard(name)
                asked.discard(name)
                dropped.add(name)
        if self.wildcard:
            asked |= dropped
            dropped.clear()
        return Moved(
            asked=frozenset(asked),
            dropped=frozenset(dropped),
            wildcard_began=self.wildcard and not before,
            wildcard_ended=before and not self.wildcard,
        )
