"""Who leads on a datacenter: a lock of Consul's, a key held by a session (`<prefix>/<cluster>/leader`).

Who has it may write there. Two agents of one cluster are replicas, whose Lease in the API server says which one reports
(discovery.kube.elector), or, without an API server, one agent whose state was copied: then the one that has the lock
reports, the other serves and waits. Agents of two clusters on one datacenter both lead, and export the same services
twice: the keys of the others under the prefix tell. Without the right to make sessions or keys, the agent goes on
without a lock, and says so.

    session ─ acquire ─┬─ held: renew, look for other clusters
                       └─ not held: whose is it? wait, stand by
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from discovery.consul.client import ConsulClient
from discovery.consul.errors import Missing, TokenUnknown
from discovery.consul.settings import ConsulSettings
from discovery.leading import MOST_OUTBID, Standing, Term
from discovery.settings import AgentSettings
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.aio.tasks import first_of
from federation.errors import Denied, IsthmusError
from federation.log import Logger
from federation.model.cluster import Problem

_DENIED_SECONDS = 60.0
"""Between two attempts while the token lacks the right."""
_LOCK_DELAY = 1
"""Seconds for which Consul keeps a lock from others after its session has ended without a word."""


class Holder(msgspec.Struct, frozen=True):
    """The value of the key: who holds it, and the epoch that it reports with."""

    cluster: str
    agent: str = ""
    epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the keys under the prefix say: who holds the own one, and which other clusters hold theirs."""

    holder: Holder | None = None
    others: tuple[str, ...] = ()


def read_keys(found: Iterable[Mapping[str, Any]] | None, *, key: str) -> Seen:
    """From the keys under the prefix as py-consul gives them; values that are not ours are nobody's."""
    holder, others = None, set()
    for one in found or ():
        if not one.get("Session") or not str(one.get("Key", "")).endswith("/leader"):
            continue
        try:
            said = msgspec.json.decode(one.get("Value") or b"", type=Holder)
        except msgspec.MsgspecError:
            continue
        if one["Key"] == key:
            holder = said
        else:
            others.add(said.cluster)
    return Seen(holder=holder, others=tuple(sorted(others)))


class Lock:
    """The lock of one datacenter. `run` until cancelled; it gives the lock back then."""

    def __init__(
        self,
        client: ConsulClient,
        settings: ConsulSettings,
        datacenter: str,
        *,
        cluster: str,
        agent: str,
        elects: bool,
        fallback: int,
        on_problems: Callable[[Iterable[Problem]], None],
        clock: Clock,
        log: Logger,
    ) -> None:
        """`agent`: the name of this one. `elects`: who has the lock reports, as nothing else says who does. `fallback`:
        the epoch to report with where nobody can say who leads."""
        self.leader = Term(clock)
        self.reporting: Latest[int | None] = Latest(None)
        self.holder = ""
        self._client, self._settings, self.datacenter = client, settings, datacenter
        self._cluster, self._agent, self._elects, self._fallback = cluster, agent, elects, fallback
        self._on_problems, self._clock, self._log = on_problems, clock, log.bind(datacenter=datacenter)
        self._key = f"{settings.lock_prefix}/{cluster}/leader"
        self._session = ""
        self._epoch = 0
        self._newest = fallback - 1
        self._outbids = 0
        self._started = clock.monotonic()
        self._wake = asyncio.Event()

    @property
    def key(self) -> str:
        """Of the lock."""
        return self._key

    @property
    def session(self) -> str:
        """With which it is held; empty: it is not."""
        return self._session

    async def run(self) -> None:
        """Take the lock when it is free, and keep it."""
        try:
            while True:
                delay = await self._turn()
                self._wake.clear()
                await first_of(self._wake.wait(), self._clock.sleep(delay))
        finally:
            await asyncio.shield(self._release())

    def outbid(self) -> None:
        """The registry has heard of a newer epoch. Who leads takes a newer one still."""
        if self.leader.value is None:
            return
        self._newest = self._epoch + min(2**self._outbids, MOST_OUTBID) - 1
        self._outbids += 1
        self._epoch = 0
        self._wake.set()

    async def _turn(self) -> float:
        """One look; seconds until the next one."""
        pause = self._settings.lock_ttl / 3
        sent, wall = self._clock.monotonic(), self._clock.wall_ns()
        try:
            async with asyncio.timeout(self._settings.lock_ttl / 2):
                held = await self._hold()
                seen = await self._look()
        except TokenUnknown as error:
            # That is told by who reads, and another token will come; what this one could not do is no question.
            return self._unknown(error, pause)
        except Denied as error:
            self._alone(error)
            return _DENIED_SECONDS
        except (IsthmusError, TimeoutError) as error:
            return self._unknown(error, pause)
        if held:
            self.holder = self._agent
            self.leader.extend(self._epoch, sent=sent, sent_wall_ns=wall, seconds=self._settings.lock_ttl * 2 / 3)
            if self.reporting.value != self._epoch:
                self._log.info("leading", epoch=self._epoch, agent=self._agent)
                self.reporting.set(self._epoch)
        elif seen.holder is not None:
            self.holder = seen.holder.agent
            self._newest = max(self._newest, seen.holder.epoch)
            self.leader.end()
            if self._elects and (self.reporting.value is not None or self._clock.monotonic() - self._started < pause):
                self._log.warning("another agent of this cluster leads", holder=self.holder)
            if self.reporting.value is not None:
                self.reporting.set(None)
        self._tell(held, seen)
        return pause if held else min(pause, 2.0)

    async def _hold(self) -> bool:
        """Renew the session or make one, and take the lock; whether it is ours."""
        api, dc = self._client.api, self.datacenter
        if self._session:
            try:
                await api.session.renew(self._session, dc=dc)
            except Missing:
                self._session = ""
        if not self._session:
            self._session = await api.session.create(
                name=f"isthmus agent of {self._cluster}",
                checks=[],
                ttl=int(self._settings.lock_ttl),
                lock_delay=_LOCK_DELAY,
                dc=dc,
            )
            self._epoch = 0
        # A new epoch with each time that it is taken: the registry listens to the newer one.
        seconds = self._clock.wall_ns() // 10**9
        epoch = self._epoch or max(self._newest + 1, seconds, self._fallback)
        value = msgspec.json.encode(Holder(cluster=self._cluster, agent=self._agent, epoch=epoch))
        if not await api.kv.put(self._key, value, acquire=self._session, dc=dc):
            self._epoch = 0
            return False
        self._epoch = self._newest = epoch
        return True

    async def _look(self) -> Seen:
        _, found = await self._client.api.kv.get(f"{self._settings.lock_prefix}/", recurse=True, dc=self.datacenter)
        return read_keys(found, key=self._key)

    # --- what comes of it --------------------------------------------------------------------------------------------

    def _tell(self, held: bool, seen: Seen) -> None:
        found = []
        where = f"Consul {self.datacenter}"
        if self._elects and not held and seen.holder is not None:
            detail = (
                f"another agent of {self._cluster} leads ({seen.holder.agent}); this one serves and does not report. "
                "Is its state directory a copy?"
            )
            found.append(Problem("consul_standby", where, detail))
        if seen.others:
            detail = f"{', '.join(seen.others)} exports from this datacenter, too: its services are exported twice"
            found.append(Problem("consul_shared", where, detail))
        self._on_problems(found)

    def _alone(self, error: IsthmusError) -> None:
        """Without the right to lock, nobody else is noticed."""
        if self.reporting.value is None:
            self._log.warning("no lock: going on without", error=str(error))
            self.reporting.set(max(self._fallback, self._epoch))
        detail = (
            f"no lock, so another agent would not be noticed: {error.message}. Grant session_prefix and key_prefix "
            f'"{self._settings.lock_prefix}/" with write, or set consul.lock to false'
        )
        self._on_problems([Problem("consul_no_lock", f"Consul {self.datacenter}", detail)])

    def _unknown(self, error: Exception, pause: float) -> float:
        """Consul does not say who leads. Who reports goes on; who has begun meanwhile waits for as long as a lock would
        last, and then reports, too: the registry listens to the newer epoch."""
        self._log.info("lock not renewed", error=str(error))
        if self.leader.value is None:
            self.leader.end()
        never = self._elects and self.reporting.value is None and not self.holder
        if never and self._clock.monotonic() >= self._started + self._settings.lock_ttl:
            self._log.warning("nobody can say which agent leads: the registry decides", epoch=self._fallback)
            self.reporting.set(self._fallback)
        return min(pause, 2.0)

    async def _release(self) -> None:
        """The other one need not wait until the session has run out."""
        self.leader.end()
        session, self._session = self._session, ""
        if not session:
            return
        try:
            async with asyncio.timeout(2.0):
                await self._client.api.kv.put(self._key, b"", release=session, dc=self.datacenter)
                await self._client.api.session.destroy(session, dc=self.datacenter)
        except (IsthmusError, TimeoutError) as error:
            self._log.info("lock not given back", error=str(error))


class Locks:
    """The locks of all datacenters; that of the first one says who reports. As discovery.kube.replicas.Replicas."""

    def __init__(
        self,
        settings: ConsulSettings,
        *,
        cluster: str,
        agent: str,
        elects: bool = True,
        fallback: int,
        on_problems: Callable[[Iterable[Problem]], None],
        clock: Clock,
        log: Logger,
    ) -> None:
        self._client = ConsulClient(settings, clock=clock, log=log)
        self._problems: dict[str, tuple[Problem, ...]] = {}
        self._on_problems, self._agent = on_problems, agent
        self._locks = [
            Lock(
                self._client,
                settings,
                name,
                cluster=cluster,
                agent=agent,
                elects=elects,
                fallback=fallback,
                on_problems=lambda found, name=name: self._show(name, found),  # type: ignore[misc]
                clock=clock,
                log=log.bind(part="lock"),
            )
            for name in settings.datacenters
        ]

    @property
    def leader(self) -> Latest[int | None]:
        """The epoch to write with while this agent leads."""
        return self._locks[0].leader

    @property
    def reporting(self) -> Latest[int | None]:
        """The epoch to report with."""
        return self._locks[0].reporting

    @property
    def holder(self) -> str:
        """The agent that leads, as far as is known; empty for none."""
        return self._locks[0].holder

    @property
    def by_datacenter(self) -> dict[str, Lock]:
        """Each datacenter's own."""
        return {lock.datacenter: lock for lock in self._locks}

    def standing(self) -> Standing:
        """Who leads, as this agent sees it now."""
        return Standing(
            identity=self._agent,
            leader=self.holder,
            since="",
            leading=self.leader.value is not None,
            reporting=self.reporting.value is not None,
            expired=False,
        )

    def outbid(self) -> None:
        """The registry wants a newer epoch than that of the report."""
        self._locks[0].outbid()

    async def run(self) -> None:
        """Hold the locks until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for lock in self._locks:
                    tasks.create_task(lock.run(), name="consul-lock")
        finally:
            await self._client.close()

    def _show(self, name: str, found: Iterable[Problem]) -> None:
        self._problems[name] = tuple(found)
        self._on_problems([p for group in self._problems.values() for p in group])


def make_locks(
    settings: AgentSettings,
    *,
    elects: bool,
    fallback: int,
    on_problems: Callable[[Iterable[Problem]], None],
    clock: Clock,
    log: Logger,
) -> Locks | None:
    """For an agent that reads Consul; None for others, and where none are wanted. `elects`, `fallback`: see Lock."""
    if settings.consul is None or not settings.consul.lock:
        return None
    return Locks(
        settings.consul,
        cluster=settings.cluster,
        agent=f"{socket.gethostname()[:60]}/{os.getpid()}",
        elects=elects,
        fallback=fallback,
        on_problems=on_problems,
        clock=clock,
        log=log,
    )
