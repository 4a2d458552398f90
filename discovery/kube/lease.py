"""Which replica of the agent writes and reports: the holder of one Lease (coordination.k8s.io).

    watch of Leases ┐
    answers ────────┴→ decide → create, update → API server       leader, reporting → writer, publisher

`decide` is pure. Times of other machines are never compared: a Lease has run out when *this* replica has seen no change
of it for its whole duration. Every write of it is about the version that was seen, so of two that take it one succeeds.
The holder gives up well before the others may take it, and says nothing in its last third: see Term.
"""

from __future__ import annotations

import asyncio
import math
import random
import socket
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from discovery.kube.client import KubeClient
from discovery.kube.errors import Conflict, NotFound
from discovery.kube.resources import LEASES
from discovery.kube.types import MANAGER, LeaseObject
from discovery.kube.watch import Key, Store, older
from discovery.mcs.held import EPOCH
from discovery.membership import Membership
from discovery.sources.manifests import MANAGED_BY
from federation.aio.backoff import Backoff
from federation.aio.clock import Clock
from federation.aio.files import read_state, write_state
from federation.aio.latest import Latest
from federation.aio.tasks import first_of
from federation.errors import AlreadyExists, CorruptState, IsthmusError, Unavailable
from federation.log import Logger
from federation.model.cluster import Problem

NAME = "isthmus-agent"
"""Of the Lease."""
REPORT_EPOCH = "isthmus.io/report-epoch"
"""Annotation of the Lease: the newest epoch of the cluster's report to the registry."""
LEFT = "isthmus.io/left"
"""Annotation of the Lease: the fingerprint of the root of a cluster that was taken out of the federation. Replicas with
that root write nothing any more; whoever takes the Lease with another root takes the annotation away."""
_MOST_OUTBID = 2**40


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A Lease as it was read, or as it is to be written.

    `epoch` rises whenever another replica becomes the holder, `report_epoch` whenever any becomes it: also the same
    one after a restart, for its report begins anew then. `duration` is in seconds. `acquired` is for people: when the
    holder became it, by its own clock, as a meta/v1 MicroTime; empty for one that is only about to. `left`: see LEFT.
    """

    holder: str
    epoch: int
    report_epoch: int
    duration: float
    transitions: int = 0
    acquired: str = ""
    left: str = ""
    resource_version: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Who leads, as one replica sees it.

    `leader`: the holder of the Lease, empty for nobody; `since`: when it became that (a meta/v1 MicroTime, by its own
    clock). `expired`: no renewal was seen for as long as the Lease lasts.
    """

    identity: str
    leader: str
    since: str
    leading: bool
    reporting: bool
    expired: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """`duration`: without a renewal for so many seconds it is anybody's. `renew`: seconds between two renewals."""

    duration: float
    renew: float

    @property
    def own(self) -> float:
        """Seconds after a renewal for which the holder believes in it: requests of its last moment are still to
        arrive, and clocks do not run alike."""
        return self.duration * 2 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is to be done: `write` (unless None) now; look again at `at` (monotonic seconds) at the latest."""

    write: State | None
    at: float


def decide(
    seen: State | None,
    changed: float,
    *,
    me: str,
    reporting: int | None,
    rules: Rules,
    now: float,
    least: int,
    wanted: int = 0,
) -> Step:
    """What the replica `me` does about the Lease `seen` (None: there is none), which last changed at `changed`.

    `reporting`: the epoch that it reports with. No new epoch is below `least` (the time of day in seconds), so that
    they rise even when the Lease was deleted. `wanted`: a report epoch that is needed to be heard.
    """
    epoch = max(seen.epoch + 1 if seen else 0, least)
    report = max(seen.report_epoch + 1 if seen else 0, least, wanted)
    if seen is None:
        taken = State(holder=me, epoch=epoch, report_epoch=report, duration=rules.duration)
        return Step(write=taken, at=now + rules.renew)
    if seen.holder == me:
        kept = reporting == seen.report_epoch and wanted <= seen.report_epoch
        if kept and now < changed + rules.renew:
            return Step(write=None, at=changed + rules.renew)
        mine = replace(seen, report_epoch=seen.report_epoch if kept else report, duration=rules.duration)
        return Step(write=mine, at=now + rules.renew)
    expires = changed + seen.duration
    if seen.holder and now < expires:
        return Step(write=None, at=expires)
    taken = replace(
        seen,
        holder=me,
        epoch=epoch,
        report_epoch=report,
        duration=rules.duration,
        transitions=seen.transitions + 1,
        acquired="",
        left="",
    )
    return Step(write=taken, at=now + rules.renew)


class Term(Latest[int | None]):
    """The epoch while this replica leads. Who reads it at the moment of a write never sees one that has ended, not even
    when the process, or its machine, stood still in between."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(None)
        self._clock = clock
        self._until, self._until_wall = float("-inf"), 0

    @property
    def value(self) -> int | None:
        """None as soon as the time is up, whether or not anybody has been told."""
        return super().value if self.lasts else None

    @property
    def lasts(self) -> bool:
        """Monotonic time stands still while a machine is suspended, and the wall clock may be set back: either ends
        it."""
        return self._clock.monotonic() < self._until and self._clock.wall_ns() < self._until_wall

    @property
    def until(self) -> float:
        """Monotonic seconds."""
        return self._until

    def extend(self, epoch: int, *, sent: float, sent_wall_ns: int, seconds: float) -> None:
        """A renewal that was sent at `sent` has been answered."""
        told = super().value
        self._until, self._until_wall = sent + seconds, sent_wall_ns + int(seconds * 1e9)
        if told != epoch:
            self.set(epoch)

    def end(self) -> bool:
        """It is over: everybody is told. Whether that is news."""
        self._until = float("-inf")
        news = super().value is not None
        if news:
            self.set(None)
        return news


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
        self._wanted = self._seen.report_epoch + min(2**self._outbids, _MOST_OUTBID)
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


# --- the object -------------------------------------------------------------------------------------------------------


def read(found: LeaseObject) -> State:
    """What a Lease says; one that somebody else has edited is as good as free."""
    spec, notes = found.spec, found.metadata.annotations or {}
    return State(
        holder=spec.holder_identity or "",
        epoch=_number(notes.get(EPOCH, "")),
        report_epoch=_number(notes.get(REPORT_EPOCH, "")),
        duration=float(spec.lease_duration_seconds or 0),
        transitions=spec.lease_transitions or 0,
        acquired=spec.acquire_time or "",
        left=notes.get(LEFT, ""),
        resource_version=found.metadata.resource_version,
        uid=found.metadata.uid,
    )


def render(state: State, *, namespace: str, wall_ns: int) -> dict[str, Any]:
    """The Lease as the API has it; its times are for people."""
    metadata: dict[str, Any] = {
        "name": NAME,
        "namespace": namespace,
        "labels": {MANAGED_BY: MANAGER},
        "annotations": {
            EPOCH: str(state.epoch),
            REPORT_EPOCH: str(state.report_epoch),
            **({LEFT: state.left} if state.left else {}),
        },
    }
    if state.resource_version:
        metadata |= {"resourceVersion": state.resource_version, "uid": state.uid}
    return {
        "apiVersion": LEASES.api_version,
        "kind": LEASES.kind,
        "metadata": metadata,
        "spec": {
            "holderIdentity": state.holder,
            "leaseDurationSeconds": math.ceil(state.duration),
            "leaseTransitions": state.transitions,
            "acquireTime": state.acquired or micro_time(wall_ns),
            "renewTime": micro_time(wall_ns),
        },
    }


def micro_time(wall_ns: int) -> str:
    """A meta/v1 MicroTime."""
    return datetime.fromtimestamp(wall_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


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
