"""Resources by their owner, and what changed: so that one changed service costs one service's work.

An owner is whatever a builder makes resources for (a use, an export …). Each resource is made from a key, and made
again only when that differs; owners may share a resource, which goes with the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from google.protobuf.message import Message

from federation.envoy import names, tls
from federation.envoy.checks import Checks
from federation.model.cluster import Peer


class Part(NamedTuple):
    """One resource: `make` is called when `key` differs from what the resource was made from."""

    kind: str
    name: str
    key: object
    make: Callable[[], Message]


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs from the last time: type URL → name → resource, and type URL → names that are gone.

    A resource is a message, or what the ledger's `finish` made of it.
    """

    put: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    removed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    begin_checks: Callable[[Container[str], int | None], bool] = field(default=lambda *_: False, compare=False)
    """To be called with the names of the sets of endpoints that Envoy asked for; whether an update has to follow."""

    def __bool__(self) -> bool:
        return bool(self.put or self.removed)


class Ledger:
    """The resources of one Envoy, and who owns each.

    Messages are not kept, they weigh ten times their bytes; with `finish` (name, message → what `take` gives) no two of
    them are alive at the same time.
    """

    def __init__(self, finish: Callable[[str, Message], Any] | None = None) -> None:
        self._finish = finish
        self._owned: dict[Hashable, tuple[tuple[str, str], ...]] = {}
        self._keys: dict[tuple[str, str], object] = {}
        self._owners: dict[tuple[str, str], int] = {}
        self._put: dict[str, dict[str, Any]] = {}
        self._removed: dict[str, set[str]] = {}
        self._secrets: object = None
        self.checks = Checks()

    def write(self, owner: Hashable, parts: Iterable[Part]) -> None:
        """Set all that `owner` has; parts with the key they had before are left as they are."""
        ids: list[tuple[str, str]] = []
        for kind, name, key, make in parts:
            part = (kind, name)
            ids.append(part)
            if part in self._keys and self._keys[part] == key:
                continue
            message = make()
            self._keys[part] = key
            self._put.setdefault(kind, {})[name] = self._finish(name, message) if self._finish else message
            self._removed.get(kind, set()).discard(name)
        for part in ids:
            self._owners[part] = self._owners.get(part, 0) + 1
        old = self._owned.get(owner, ())
        self._owned[owner] = tuple(ids)
        self._release(old)

    def drop(self, owner: Hashable) -> None:
        """Forget `owner` and what only it had."""
        self.checks.forget(owner)
        self._release(self._owned.pop(owner, ()))

    def keep_secrets(self, identity: tls.Identity, peers: Iterable[Peer]) -> None:
        """What every Envoy of ours has: its identity, whom it lets call, and for each trust domain whom it calls."""
        bundles = tuple(sorted((p.bundle for p in peers if p.bundle.roots), key=lambda b: b.trust_domain))
        proof = (identity.chain_pem, identity.key_pem)
        if self._secrets == (proof, bundles):
            return
        self._secrets = (proof, bundles)
        self.write(
            "secrets",
            [
                Part(names.SECRET_TYPE, names.IDENTITY, proof, partial(tls.identity_secret, identity)),
                Part(names.SECRET_TYPE, names.PEERS, bundles, partial(tls.peers_secret, bundles)),
                *(
                    Part(names.SECRET_TYPE, names.peer_secret(b.trust_domain), b, partial(tls.peer_secret, b))
                    for b in bundles
                ),
            ],
        )

    def take(self) -> Changes:
        """What changed since the last `take`."""
        put, self._put = self._put, {}
        removed, self._removed = self._removed, {}
        return Changes(
            {kind: made for kind, made in put.items() if made},
            {kind: frozenset(gone) for kind, gone in removed.items() if gone},
            self.checks.begin,
        )

    def _release(self, parts: Iterable[tuple[str, str]]) -> None:
        for part in parts:
            self._owners[part] -= 1
            if self._owners[part]:
                continue
            kind, name = part
            del self._owners[part], self._keys[part]
            self._put.get(kind, {}).pop(name, None)
            self._removed.setdefault(kind, set()).add(name)


def settled(update: Callable[[], Changes]) -> dict[str, list[tuple[str, Message]]]:
    """What `update` comes to when Envoy has everything: resources as sorted lists by type URL."""
    first = update()
    first.begin_checks(first.put.get(names.ENDPOINT_TYPE, {}), None)
    then = update().put
    return listed({kind: {**made, **then.get(kind, {})} for kind, made in first.put.items()})


def listed(resources: Mapping[str, Mapping[str, Message]]) -> dict[str, list[tuple[str, Message]]]:
    """Resources as sorted lists by type URL."""
    return {kind: sorted(made.items(), key=lambda item: item[0]) for kind, made in resources.items() if made}
