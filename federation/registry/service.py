"""What the registry does: lets clusters in, links them, answers its operators. No gRPC; the callers are authorised.

Arrives: requests from federation.registry.rpc. Leaves: writes to the store, which tells `Reports` at once, so that a
reply means that the change is on its way to everybody it concerns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from federation import __version__
from federation.aio.clock import Clock
from federation.errors import Conflict, Denied, InvalidInput, IsthmusError, NotFound
from federation.log import Logger
from federation.model import wire
from federation.model.cluster import Bundle, Link, LinkGrant
from federation.model.ids import REGISTRY_ORIGIN, parse_label, trust_domain_of
from federation.model.service import Locality
from federation.proto.v1 import registry_pb2 as pb
from federation.registry.reports import Reports
from federation.registry.settings import RegistrySettings
from federation.store import plans
from federation.store.base import Change, LinkEntry, Member, Store, Token
from federation.trust.authority import Authority
from federation.trust.bundle import check_bundle, check_pin, fingerprint, parse_fingerprint, root_fingerprint
from federation.trust.possession import check_possession, possession_message
from federation.trust.token import MAX_SECONDS, JoinToken

MAX_GRANTS = 1_000
_RESERVED = ("registry",)  # registry.<federation> is the registry's own DNS name
_QUEUE = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """How members dial the two ports."""

    catalog: str
    enrolment: str


class Service:
    """The registry's decisions over its store. `run` has to run while it serves."""

    def __init__(
        self,
        settings: RegistrySettings,
        *,
        store: Store,
        authority: Authority,
        addresses: Callable[[], Addresses],
        clock: Clock,
        log: Logger,
        audit: Logger,
    ) -> None:
        self.settings, self.store = settings, store
        self._authority, self._addresses, self._clock = authority, addresses, clock
        self._log, self._audit = log, audit
        self._later: asyncio.Queue[tuple[str, Callable[[], Awaitable[None]]]] = asyncio.Queue(_QUEUE)
        self.reports = Reports(
            settings,
            members=store.clusters.all,
            links=store.links.all,
            epoch=store.epoch,
            on_epoch=self._keep_epoch,
            on_bundle=self._keep_bundle,
            clock=clock,
            log=log,
            audit=audit,
        )
        store.subscribe(self._changed)

    @property
    def federation(self) -> str:
        return self.settings.federation

    def bundles(self) -> dict[str, Bundle]:
        """By trust domain: the registry's own and every member's. Safe to call from any thread."""
        found = {m.trust_domain: m.bundle for m in self.store.clusters.all().values()}
        found[self.federation] = self._authority.bundle
        return found

    def now_ns(self) -> int:
        """Wall time."""
        return self._clock.wall_ns()

    async def run(self) -> None:
        """Leases, and what streams ask to be kept, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tick(), name="registry-leases")
            group.create_task(self._keep(), name="registry-keep")

    async def flush(self) -> None:
        """Keep what streams asked to be kept and `run`, which has ended, has not come to."""
        while not self._later.empty():
            await self._keep_one(*self._later.get_nowait())

    # --- joining and leaving -----------------------------------------------------------------------------------------

    async def issue_token(self, cluster: str, ttl_seconds: int) -> tuple[str, int]:
        """(token, expiry in wall ns); 0 seconds means 900. Raises InvalidInput, AlreadyExists, StorageFailed."""
        self._check_name(cluster)
        seconds = ttl_seconds or MAX_SECONDS
        if not 1 <= seconds <= MAX_SECONDS:
            raise InvalidInput(
                f"a token cannot live for {seconds} s", hint=f"give 1 to {MAX_SECONDS}", code="invalid_ttl"
            )
        token = JoinToken.new(
            registry=self._addresses().enrolment, ca_fingerprint=fingerprint(self._authority.bundle), cluster=cluster
        )
        now = self._clock.wall_ns()
        expires = now + seconds * 1_000_000_000
        await self.store.tokens.issue(Token(hash=token.hash(), cluster=cluster, issued_ns=now, expires_ns=expires))
        return token.encode(), expires

    async def revoke_token(self, cluster: str) -> None:
        """Raises NotFound where no token of `cluster` could be used."""
        parse_label(cluster, what="cluster")
        if not await self.store.tokens.revoke(cluster):
            raise NotFound(f"there is no unused join token for {cluster[:80]}", code="token_unknown")

    async def enrol(
        self, text: str, cluster: str, bundle: Bundle, possession: bytes, locality: Locality
    ) -> pb.JoinReply:
        """Redeem a token; repeated by the same cluster with the same root it gives the same answer.

        Raises InvalidInput, Denied (token_*, possession_unproven, bundle_*), AlreadyExists, StorageFailed.
        """
        token = JoinToken.parse(text)
        self._check_name(cluster)
        if token.cluster != cluster:
            raise Denied(f"this join token is for cluster {token.cluster}, not for {cluster}", code="token_foreign")
        if token.ca_fingerprint not in map(root_fingerprint, self._authority.bundle.roots):
            raise Denied("this join token is of another registry", code="token_foreign")
        trust_domain = trust_domain_of(cluster, self.federation)
        check_bundle(bundle, trust_domain=trust_domain)
        check_pin(bundle, fingerprint(bundle), None)
        check_possession(bundle, possession_message(token), possession)
        print_ = fingerprint(bundle)
        member = Member(
            name=cluster,
            trust_domain=trust_domain,
            bundle=bundle,
            joined_ns=self._clock.wall_ns(),
            locality=locality,
        )
        try:
            kept = await self.store.clusters.enrol(token.hash(), member, print_)
        except Denied as error:
            self._audit.warning("join_refused", cluster=cluster, fingerprint=print_, code=error.error_code)
            raise
        self._audit.info("cluster_joined", cluster=cluster, fingerprint=print_)
        return pb.JoinReply(
            federation=self.federation,
            trust_domain=trust_domain,
            registry_bundle=wire.bundle_to_pb(self._authority.bundle),
            single_machine=self.settings.single_machine,
            registry_address=self._addresses().catalog,
            epoch_floor=kept.epoch,
        )

    def look(self, text: str) -> pb.LookReply:
        """Whether a token could be redeemed now; nothing is. Raises as `enrol` does for what is wrong with it."""
        token = JoinToken.parse(text)
        self._check_name(token.cluster)
        if token.ca_fingerprint not in map(root_fingerprint, self._authority.bundle.roots):
            raise Denied("this join token is of another registry", code="token_foreign")
        now = self._clock.wall_ns()
        held = plans.redeemable(self.store.tokens.all().get(token.hash()), token.cluster, now)
        if token.cluster in self.store.clusters.all():
            raise plans.taken(token.cluster)
        return pb.LookReply(expires_ns=held.expires_ns, now_ns=now, version=__version__)

    async def leave(self, cluster: str) -> None:
        """Raises NotFound, StorageFailed."""
        parse_label(cluster, what="cluster")
        await self.store.clusters.remove(cluster)

    # --- links -------------------------------------------------------------------------------------------------------

    async def link(self, a: str, b: str, prints: tuple[str, str], grants: Sequence[LinkGrant]) -> Link:
        """Link `a` and `b`; `prints` are their root fingerprints as the operator read them from the clusters.

        Raises InvalidInput, NotFound, Conflict (fingerprint_mismatch), StorageFailed.
        """
        for name in (a, b):
            parse_label(name, what="cluster")
        if a == b:
            raise InvalidInput(f"{a} cannot be linked to itself", hint="name two clusters", code="link_to_itself")
        if len(grants) > MAX_GRANTS:
            raise InvalidInput(f"{len(grants)} grants; a link has at most {MAX_GRANTS}", code="too_many_grants")
        for grant in grants:
            if {grant.origin, grant.consumer} != {a, b}:
                raise InvalidInput(
                    f"a grant from {grant.origin} to {grant.consumer} does not belong to the link of {a} and {b}",
                    code="foreign_grant",
                )
        for name, print_ in zip((a, b), prints, strict=True):
            parse_fingerprint(print_)
            self._check_fingerprint(name, print_)
        (a, print_a), (b, print_b) = sorted(((a, prints[0]), (b, prints[1])))
        link = Link(a=a, b=b, created_ns=self._clock.wall_ns(), grants=tuple(grants))
        entry = await self.store.links.put(LinkEntry(link=link, fingerprint_a=print_a, fingerprint_b=print_b))
        return entry.link

    async def unlink(self, a: str, b: str) -> None:
        """Raises InvalidName, NotFound, StorageFailed."""
        first, second = sorted((parse_label(a, what="cluster"), parse_label(b, what="cluster")))
        await self.store.links.remove(f"{first}/{second}")

    def member(self, name: str) -> Member:
        """Raises NotFound."""
        member = self.store.clusters.all().get(name)
        if member is None:
            raise plans.no_cluster(name)
        return member

    def _check_fingerprint(self, name: str, print_: str) -> None:
        held = self.member(name).bundle
        if print_ not in map(root_fingerprint, held.roots):
            raise Conflict(
                f"{name} has the root {print_}, but joined with {fingerprint(held)}",
                hint=f"let {name} leave and join again, if its keys were made anew",
                code="fingerprint_mismatch",
            )

    # --- inside ------------------------------------------------------------------------------------------------------

    def _check_name(self, cluster: str) -> None:
        parse_label(cluster, what="cluster")
        if cluster in _RESERVED or cluster == REGISTRY_ORIGIN:
            raise InvalidInput(f"no cluster can be called {cluster}", hint="choose another name", code="reserved_name")

    def _changed(self, change: Change) -> None:
        self.reports.refresh(clusters=change.clusters, links=change.links)

    def _keep_epoch(self, cluster: str, epoch: int) -> None:
        self._enqueue(cluster, partial(self.store.clusters.raise_epoch, cluster, epoch))

    def _keep_bundle(self, cluster: str, bundle: Bundle) -> None:
        self._enqueue(cluster, partial(self.store.clusters.set_bundle, cluster, bundle))

    def _enqueue(self, cluster: str, write: Callable[[], Awaitable[None]]) -> None:
        try:
            self._later.put_nowait((cluster, write))
        except asyncio.QueueFull:  # the next report asks again
            self._log.warning("keep_dropped", cluster=cluster)

    async def _keep(self) -> None:
        while True:
            await self._keep_one(*await self._later.get())

    async def _keep_one(self, cluster: str, write: Callable[[], Awaitable[None]]) -> None:
        try:
            await write()
        except IsthmusError as error:  # the disk is full, or the cluster has left: streams go on
            self._log.warning("keep_failed", cluster=cluster, code=error.error_code, detail=error.message)

    async def _tick(self) -> None:
        while True:
            self.reports.tick()
            deadline = self.reports.leases.next_deadline()
            wait = 1.0 if deadline is None else deadline - self._clock.monotonic()
            await self._clock.sleep(min(1.0, max(0.01, wait)))
