"""What a registry keeps for good: clusters with their bundles, links with their grants, join tokens.

A store holds everything in memory as well: reads are plain calls and go on when the disk fails; writes are awaited, are
durable when they return, and raise StorageFailed (nothing has changed then) when the medium refuses. Listeners learn of
each change in the event loop, before the write returns; with a store shared by several registries they will also learn
of the others' changes. The reports of clusters are not here: they are leased (federation.registry.service).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from federation.model.cluster import Bundle, Link
from federation.model.service import Locality

KEEP_TOKENS_NS = 24 * 3600 * 10**9
"""A token is forgotten so long after its expiry: until then a retry of its owner is answered as before."""

KEEP_DEPARTED = 10_000
"""So many names of clusters that left are remembered, those that left last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A cluster that joined.

    `epoch` is the highest that a report of this name has had, also in earlier memberships; 0 before the first.
    """

    name: str
    trust_domain: str
    bundle: Bundle
    joined_ns: int
    locality: Locality = Locality()
    epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Departed:
    """What outlives a membership: the epoch that reports of a later one have to exceed."""

    name: str
    epoch: int
    left_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkEntry:
    """A link, and the root fingerprints that the operator read from the two clusters when making it."""

    link: Link
    fingerprint_a: str
    fingerprint_b: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A join token as it is kept: by its hash. `redeemed_by` is the root fingerprint of the cluster that used it."""

    hash: bytes = field(repr=False)
    cluster: str
    issued_ns: int
    expires_ns: int
    redeemed_by: str = ""
    revoked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one write touched, by name ("a/b" for links)."""

    clusters: frozenset[str] = frozenset()
    links: frozenset[str] = frozenset()


Listener = Callable[[Change], None]


class Clusters(Protocol):
    """Members by name."""

    def all(self) -> Mapping[str, Member]:
        """An immutable picture of now, sorted by name."""

    async def enrol(self, token: bytes, member: Member, fingerprint: str) -> Member:
        """Redeem the token with this hash and add `member`, both or neither; the time is `member.joined_ns`.

        Of any number of concurrent calls with one token a single one succeeds. Repeated by the same cluster with the
        same root (`fingerprint`) while it is a member, it returns the member as it is, whatever the time. A name that
        was a member before keeps its epoch.
        Raises Denied (token_unknown, token_foreign, token_revoked, token_used, token_expired) and AlreadyExists.
        """

    async def remove(self, name: str) -> tuple[LinkEntry, ...]:
        """Remove a member, its links and its unused tokens; returns the links that were cut. Raises NotFound."""

    async def set_bundle(self, name: str, bundle: Bundle) -> None:
        """Replace the bundle by one with a higher sequence; raises NotFound, Conflict (bundle_rollback)."""

    async def raise_epoch(self, name: str, epoch: int) -> None:
        """Remember that `epoch` was seen, also after `name` has left; a lower one changes nothing. Raises NotFound."""


class Links(Protocol):
    """Links by name "a/b"."""

    def all(self) -> Mapping[str, LinkEntry]:
        """An immutable picture of now, sorted by name."""

    async def put(self, entry: LinkEntry) -> LinkEntry:
        """Make the link, or replace its grants and fingerprints (`created_ns` stays). Raises NotFound."""

    async def remove(self, name: str) -> LinkEntry:
        """Raises NotFound."""


class Tokens(Protocol):
    """Join tokens by hash."""

    def all(self) -> Mapping[bytes, Token]:
        """An immutable picture of now."""

    async def issue(self, token: Token) -> None:
        """Keep a new token; unused ones for the same cluster are revoked. Raises AlreadyExists where it is a member."""

    async def revoke(self, cluster: str) -> int:
        """Revoke what is unused and not expired for `cluster`; returns how many."""


class Store(Protocol):
    """Everything durable of one federation."""

    @property
    def clusters(self) -> Clusters: ...

    @property
    def links(self) -> Links: ...

    @property
    def tokens(self) -> Tokens: ...

    @property
    def epoch(self) -> int:
        """Rises with every opening, also of a restored backup: the epoch of the registry's own records."""

    @property
    def restored(self) -> bool:
        """Whether this opening found an older state than the one before had left."""

    @property
    def failure(self) -> str:
        """Why the last write failed; empty once one has succeeded again."""

    def subscribe(self, listener: Listener) -> None:
        """`listener` is called with every change from now on."""

    async def close(self) -> None: ...
