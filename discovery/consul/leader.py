"""The lock of a datacenter: of several agents of one cluster the one that holds it writes.

A key of Consul's KV store, locked by a session. Consul frees it when the session was not renewed for twice its TTL. The
holder believes in it for one TTL after the last renewal that was answered, by the monotonic and by the wall clock (the
former stands still while a machine is suspended); what it writes is proven by the lock all the same
(discovery.consul.imports.catalog).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from urllib.parse import quote

import msgspec

from discovery.consul.client import ConsulClient
from discovery.consul.errors import ServerFailed
from discovery.consul.imports.catalog import Fence
from federation.aio.backoff import Backoff
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.errors import Denied, IsthmusError, Unavailable
from federation.log import Logger
from federation.model.cluster import Problem

_END_SECONDS = 2.0


class _Session(msgspec.Struct):
    id: str = msgspec.field(name="ID")


class _Entry(msgspec.Struct, rename="pascal"):
    session: str = ""
    modify_index: int = 0


_session = msgspec.json.Decoder(_Session)
_entries = msgspec.json.Decoder(list[_Entry])


def lock_key(prefix: str, cluster: str) -> str:
    """The key of a cluster's lock; each datacenter has its own store."""
    return f"{prefix}/{cluster}/leader"


class LeaderLock:
    """`run` until cancelled. `leader` is the lock while this agent holds it, None otherwise."""

    def __init__(
        self,
        client: ConsulClient,
        datacenter: str,
        *,
        key: str,
        name: str,
        ttl: float,
        on_problem: Callable[[Problem | None], None],
        clock: Clock,
        log: Logger,
    ) -> None:
        """`name`: this agent, for people who look at the key. `ttl`: seconds."""
        self.leader: Latest[Fence | None] = Latest(None)
        self._client, self._datacenter, self._key, self._name, self._ttl = client, datacenter, key, name, ttl
        self._on_problem, self._clock, self._log = on_problem, clock, log.bind(datacenter=datacenter, part="lock")
        self._session = ""
        self._renewed = (0.0, 0)
        self._backoff = Backoff(base=0.2, cap=5.0)

    async def run(self) -> None:
        """Take part for ever; end in order by giving the lock back."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._take_part(), name=f"consul-lock-{self._datacenter}")
                tasks.create_task(self._doubt(), name=f"consul-lock-term-{self._datacenter}")
        finally:
            await self._give_back()

    async def _take_part(self) -> None:
        while True:
            try:
                await self._keep_session()
                if await self._acquire():
                    if self.leader.value is None:
                        self._log.info("this agent leads")
                        self.leader.set(Fence(self._key, self._session))
                    self._on_problem(None)
                    await self._clock.sleep(self._ttl / 3)
                else:
                    self._lose("another agent holds the lock")
                    self._on_problem(None)
                    await self._wait_until_free()
                self._backoff.reset()
            except IsthmusError as error:
                if isinstance(error, Denied):
                    self._lose("the token may not hold the lock")
                if not isinstance(error, Unavailable):
                    self._on_problem(Problem(error.error_code, f"Consul {self._datacenter}", str(error)))
                await self._clock.sleep(self._backoff.next())

    async def _keep_session(self) -> None:
        sent = self._clock.monotonic(), self._clock.wall_ns()
        if self._session:
            status, _ = await self._put(f"/v1/session/renew/{quote(self._session, safe='')}", b"")
            if status == 404:
                self._session = ""
                self._lose("its session has ended")
        if not self._session:
            # The delay before a lock that was lost can be had again is for those who cannot prove that they hold it.
            ttl = f"{int(self._ttl * 1000)}ms"
            body = {"Name": self._name, "TTL": ttl, "Checks": [], "NodeChecks": [], "LockDelay": "1s"}
            _, answer = await self._put("/v1/session/create", msgspec.json.encode(body))
            try:
                self._session = _session.decode(answer).id
            except msgspec.MsgspecError as error:
                raise ServerFailed(f"no session: {error}") from error
        self._renewed = sent

    async def _acquire(self) -> bool:
        """Whether this agent holds the lock now."""
        _, answer = await self._put(f"/v1/kv/{quote(self._key)}", self._name.encode(), acquire=self._session)
        return answer.strip() == b"true"

    async def _wait_until_free(self) -> None:
        """Until nobody holds the key, or it is time to renew our own session."""
        index = 0
        ends = self._clock.monotonic() + self._ttl / 2
        while (left := ends - self._clock.monotonic()) > 0:
            answer = await self._client.key(self._datacenter, self._key, index=index, wait=min(left, 30.0))
            try:
                held = bool(answer is not None and _entries.decode(answer.body)[0].session)
            except (msgspec.MsgspecError, IndexError) as error:
                raise ServerFailed(f"no key: {error}") from error
            if not held:
                await self._clock.sleep(min(left, 1.0))  # the lock delay may not be over
                return
            index = answer.meta.index if answer is not None else 0

    async def _doubt(self) -> None:
        """The term ends by itself when Consul does not answer."""
        while True:
            await self._clock.sleep(min(0.5, self._ttl / 10))
            if self.leader.value is None:
                continue
            monotonic, wall_ns = self._renewed
            age = max(self._clock.monotonic() - monotonic, (self._clock.wall_ns() - wall_ns) / 1e9)
            if age > self._ttl:
                self._lose(f"Consul has not answered for {age:.0f} s")

    def _lose(self, why: str) -> None:
        if self.leader.value is not None:
            self._log.warning("this agent does not lead any more", why=why)
            self.leader.set(None)

    async def _give_back(self) -> None:
        """So that the next one need not wait for the end of the session."""
        session, held = self._session, self.leader.value
        self.leader.set(None)
        if not session:
            return
        with contextlib.suppress(IsthmusError, TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                if held is not None:
                    await self._put(f"/v1/kv/{quote(self._key)}", self._name.encode(), release=session)
                await self._put(f"/v1/session/destroy/{quote(session, safe='')}", b"")

    async def _put(self, path: str, body: bytes, **query: str) -> tuple[int, bytes]:
        status, _, answer = await self._client.send(
            "PUT",
            path,
            query={"dc": self._datacenter, **query},
            body=body or None,
            what="the lock of the agent that leads",
            needs=f'key "{self._key}" {{ policy = "write" }} and session_prefix "" {{ policy = "write" }}',
            passes=(404,),
        )
        return status, answer
