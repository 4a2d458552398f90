"""Which replica of the agent writes and reports: the holder of one Lease (coordination.k8s.io).

    watch of Leases ┐
    answers ────────┴→ decide → create, update → API server       leader, reporting → writer, publisher

What is to be done is decided by discovery.kube.lease. Every write of the Lease is about the version that was seen, so
of two that take it one succeeds. The holder gives up well before the others may take it, and says nothing in its last
third: see discovery.leading.Term.
"""

from __future__ import annotations

import asyncio
import random
import socket
import uuid
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import msgspec

from discovery.kube.client import KubeClient
from discovery.kube.errors import Conflict, NotFound
from discovery.kube.lease import NAME, Rules, State, decide, read, render
from discovery.kube.resources import LEASES
from discovery.kube.types import LeaseObject
from discovery.kube.watch import Key, Store, older
from discovery.leading import MOST_OUTBID, Standing, Term
from discovery.membership import Membership
from federation.aio.backoff import Backoff
from federation.aio.clock import Clock
from federation.aio.files import read_state, write_state
from federation.aio.latest import Latest
from federation.aio.tasks import first_of
from federation.errors import AlreadyExists, CorruptState, IsthmusError, Unavailable
from federation.log import Logger
from federation.model.cluster import Problem


class Elector:
    """`run` until cancelled; it gives the Lease back then. `leases` is the store of a Reflector over `namespace`."""

    def __init__(
        self,
        client: KubeClient,
        leases: Store[LeaseObject],
        *,
        namespace: str,
        identity: str,
        rules: Rules,
        fallback: int,
        membership: Membership,
        on_problem: Callable[[Problem | None], None],
        clock: Clock,
        log: Logger,
        rng: random.Random | None = None,
    ) -> None:
        """`fallback`: the epoch to report with when nobody can say who the holder is; no new one is below it.

        A replica that sees by the Lease that its cluster was taken out leads no more; one that the registry calls no
        member does not make a Lease where there is none, for that may be why.
        """
        self.leader = Term(clock)
        self.reporting: Latest[int | None] = Latest(None)
        """The epoch to report to the registry with; None while another replica is known to be the one that does.

        It outlives `leader`: without an API server nobody can write to it, but the report stays true. Should two
        report at the same time, the registry listens to the newer epoch.
        """
        self._client, self._namespace, self._identity, self._rules = client, namespace, identity, rules
        self._fallback, self._on_problem, self._clock, self._log = fallback, on_problem, clock, log
        self._rng = rng or random.Random()
        self._backoff = Backoff(base=0.2, cap=max(0.2, rules.renew), uniform=self._rng.uniform)
        self._seen: State | None = None
        self._changed = clock.monotonic()
        self._newest = 0  # epoch that was ever seen
        self._known = False
        self._started = clock.monotonic()
        self._membership = membership
        self._wanted = 0
        self._outbids = 0
        self._wake = asyncio.Event()
        leases.listen(self._told)
        self._leases = leases

    @property
    def identity(self) -> str:
        """Of this replica."""
        return self._identity

    @property
    def holder(self) -> str:
        """Who holds the Lease, as far as is known."""
        return self._seen.holder if self._seen else ""

    def standing(self) -> Standing:
        """Who leads, as this replica sees it now."""
        seen = self._seen
        return Standing(
            identity=self._identity,
            leader=self.holder,
            since=seen.acquired if seen is not None and seen.holder else "",
            leading=self.leader.value is not None,
            reporting=self.reporting.value is not None,
            expired=bool(self.holder) and self._clock.monotonic() >= self._changed + (seen.duration if seen else 0.0),
        )

    def outbid(self) -> None:
        """The registry has heard of a newer epoch. The holder takes a newer one still; anybody else leaves it."""
        if self.leader.value is None or self._seen is None:
            return
        self._wanted = self._seen.report_epoch + min(2**self._outbids, MOST_OUTBID)
        self._outbids += 1
        self._wake.set()

    async def run(self) -> None:
        """Take the Lease when it is free, keep it, and give it back at the end."""
        try:
            while True:
                at = await self._turn()
                self._wake.clear()
                await first_of(self._wake.wait(), self._clock.sleep(max(0.0, at - self._clock.monotonic())))
        finally:
            await asyncio.shield(self._release())

    async def _turn(self) -> float:
        """One look; returns the monotonic time of the next one."""
        if not self._known and not await self._read():
            return self._lapse(self._clock.monotonic() + self._backoff.next())
        now = self._clock.monotonic()
        if self._membership.left.value or (self._seen is None and not self._membership.lasts):
            return self._lapse(now + self._rules.renew)
        step = decide(
            self._seen,
            self._changed,
            me=self._identity,
            reporting=self.reporting.value,
            rules=self._rules,
            now=now,
            least=max(self._clock.wall_ns() // 1_000_000_000, self._newest + 1, self._fallback),
            wanted=self._wanted,
        )
        if step.write is None or await self._write(step.write):
            self._backoff.reset()
            return self._lapse(step.at)
        return self._lapse(self._clock.monotonic() + self._backoff.next())

    def _lapse(self, at: float) -> float:
        """End what has run out; the next look is not after the end of what has not."""
        if self.leader.lasts:
            return min(at, self.leader.until)
        if self.leader.end():
            self._log.warning("lease lost", holder=self.holder)
        never = not self._newest and self.reporting.value is None  # it can be neither read nor made
        if self._membership.left.value:
            return at
        if never and self._clock.monotonic() >= self._started + self._rules.duration:
            self._log.warning("nobody can say which replica leads: the registry decides", epoch=self._fallback)
            self.reporting.set(self._fallback)
        return at

    # --- what the API server says ------------------------------------------------------------------------------------

    def _told(self, keys: Collection[Key]) -> None:
        if (self._namespace, NAME) not in keys:
            return
        found = self._leases.objects.get((self._namespace, NAME))
        self._saw(found)
        self._wake.set()

    def _saw(self, found: LeaseObject | None) -> None:
        state = read(found) if found is not None else None
        self._known = True
        if state == self._seen:
            return
        if state is not None and self._seen is not None and _older(state, self._seen):
            return  # the watch is behind what we wrote
        self._seen, self._changed = state, self._clock.monotonic()
        if state is not None:
            self._newest = max(self._newest, state.epoch)
        if state is not None and state.left:
            self._membership.end(state.left)
        if self._membership.left.value:
            self._end()
        elif state is not None and state.holder not in ("", self._identity):
            if self.leader.lasts:
                self._log.warning("another replica has taken over", holder=state.holder, epoch=state.epoch)
            self._end()

    def _end(self) -> None:
        """Neither write nor report."""
        self.leader.end()
        if self.reporting.value is not None:
            self.reporting.set(None)

    async def _read(self) -> bool:
        try:
            async with asyncio.timeout(self._rules.own):
                data = await self._client.get(LEASES, self._namespace, NAME)
            self._saw(msgspec.json.decode(data, type=LeaseObject))
        except NotFound:
            self._saw(None)
        except (IsthmusError, TimeoutError, msgspec.MsgspecError) as error:
            self._failed(error)
            return False
        return True

    async def _write(self, wanted: State) -> bool:
        """Write the Lease; whether it is ours then."""
        sent, wall = self._clock.monotonic(), self._clock.wall_ns()
        body = msgspec.json.encode(render(wanted, namespace=self._namespace, wall_ns=wall))
        before = self._seen
        try:
            async with asyncio.timeout(self._rules.own):
                if wanted.resource_version:
                    data = await self._client.update(LEASES, self._namespace, NAME, body)
                else:
                    data = await self._client.create(LEASES, self._namespace, body)
            found = msgspec.json.decode(data, type=LeaseObject)
        except (Conflict, AlreadyExists):
            self._known = False  # somebody was faster: look
            return False
        except NotFound as error:
            if wanted.resource_version:
                self._seen, self._known = None, False
            else:
                self._failed(error)  # there is no such namespace
            return False
        except (IsthmusError, TimeoutError, msgspec.MsgspecError) as error:
            self._failed(error)
            self._known = False  # it may have arrived
            return False
        self._on_problem(None)
        self._saw(found)
        if self._seen is None or self._seen.holder != self._identity:
            return False  # the watch has told of somebody who came after us
        self._changed = sent
        fresh = before is None or (before.epoch, before.report_epoch) != (wanted.epoch, wanted.report_epoch)
        self.leader.extend(wanted.epoch, sent=sent, sent_wall_ns=wall, seconds=self._rules.own)
        if self.reporting.value != wanted.report_epoch:
            self.reporting.set(wanted.report_epoch)
        if fresh:
            self._wanted = 0
            self._log.info("leading", epoch=wanted.epoch, report_epoch=wanted.report_epoch, identity=self._identity)
        return True

    def _failed(self, error: Exception) -> None:
        known = error if isinstance(error, IsthmusError) else Unavailable(f"the Lease {NAME} could not be read")
        self._log.warning("lease not renewed", code=known.error_code, error=known.message)
        if isinstance(known, Unavailable):
            return  # that the API server is away is said by those who read
        hint = "run: fedctl install rbac" if isinstance(known, NotFound) else known.hint
        detail = f"{known.message} ({hint}): nothing is written in this cluster"
        self._on_problem(Problem(known.error_code, f"Lease {self._namespace}/{NAME}", detail))

    async def _release(self) -> None:
        """The others need not wait until it runs out."""
        seen, leading = self._seen, self.leader.value is not None
        self.leader.end()
        if seen is None or not leading:
            return
        given = replace(seen, holder="", duration=1.0)
        body = msgspec.json.encode(render(given, namespace=self._namespace, wall_ns=self._clock.wall_ns()))
        try:
            async with asyncio.timeout(1.0):
                await self._client.update(LEASES, self._namespace, NAME, body)
        except (IsthmusError, TimeoutError) as error:
            self._log.info("lease not given back", error=str(error))


def _older(state: State, than: State) -> bool:
    return older(state.resource_version, than.resource_version)


def replica_identity(path: Path) -> str:
    """The name of the replica whose state is beside `path`: the same after a restart. Raises StorageFailed."""
    try:
        held = read_state(path)
    except CorruptState:
        held = None
    if held:
        return held.decode()
    made = f"{socket.gethostname()[:60]}_{uuid.uuid4().hex[:8]}"
    write_state(path, made.encode())
    return made
