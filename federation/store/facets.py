"""Clusters, links and tokens over anything that can show a picture and commit a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from federation.aio.clock import Clock
from federation.model.cluster import Bundle
from federation.store import plans
from federation.store.base import LinkEntry, Member, Token
from federation.store.picture import Picture, Plan, Result


class Committer(Protocol):
    """What a kind of store adds: durability."""

    @property
    def picture(self) -> Picture: ...

    async def commit(self, decide: Callable[[Picture], Plan[Result]]) -> Result:
        """Decide on the newest picture and make the plan durable, atomically; listeners are told before it returns."""


class ClusterFacet:
    """`federation.store.base.Clusters`."""

    def __init__(self, store: Committer, clock: Clock) -> None:
        self._store, self._clock = store, clock

    def all(self) -> Mapping[str, Member]:
        return self._store.picture.members

    async def enrol(self, token: bytes, member: Member, fingerprint: str) -> Member:
        return await self._store.commit(partial(plans.enrol, token=token, member=member, fingerprint=fingerprint))

    async def remove(self, name: str) -> tuple[LinkEntry, ...]:
        return await self._store.commit(partial(plans.remove_member, name=name, now_ns=self._clock.wall_ns()))

    async def set_bundle(self, name: str, bundle: Bundle) -> None:
        await self._store.commit(partial(plans.set_bundle, name=name, bundle=bundle))

    async def raise_epoch(self, name: str, epoch: int) -> None:
        await self._store.commit(partial(plans.raise_epoch, name=name, epoch=epoch))


class LinkFacet:
    """`federation.store.base.Links`."""

    def __init__(self, store: Committer) -> None:
        self._store = store

    def all(self) -> Mapping[str, LinkEntry]:
        return self._store.picture.links

    async def put(self, entry: LinkEntry) -> LinkEntry:
        return await self._store.commit(partial(plans.put_link, entry=entry))

    async def remove(self, name: str) -> LinkEntry:
        return await self._store.commit(partial(plans.remove_link, name=name))


class TokenFacet:
    """`federation.store.base.Tokens`."""

    def __init__(self, store: Committer, clock: Clock) -> None:
        self._store, self._clock = store, clock

    def all(self) -> Mapping[bytes, Token]:
        return self._store.picture.tokens

    async def issue(self, token: Token) -> None:
        await self._store.commit(partial(plans.issue_token, token=token))

    async def revoke(self, cluster: str) -> int:
        now_ns = self._clock.wall_ns()
        decide: Callable[[Picture], Plan[Any]] = partial(plans.revoke_tokens, cluster=cluster, now_ns=now_ns)
        return await self._store.commit(decide)
