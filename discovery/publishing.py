"""Brings the cluster's report to the registry while this replica is the one that reports, and knows what became of it.

Arrives: the Report, and the epoch to report with (None: another replica does). Leaves: a stream of Publish, the
registry's rejections as problems, and whether it has an export as it is now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from discovery.report import Report
from federation.aio.backoff import Backoff
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.aio.tasks import cancel
from federation.errors import IsthmusError
from federation.log import Logger
from federation.model.cluster import Problem
from federation.model.ids import ServiceName
from federation.model.record import Key, Kind
from federation.registry.client import Connect, PublishClient, Rejection

STALE_EPOCH = "stale_epoch"
NO_MEMBER = "not_authorised"
"""Codes of what the registry says."""


class Publishing:
    """`run` until cancelled. `on_acknowledged` is called when the registry has taken, or refused, some of the report.

    `on_failed` gets why the registry ended or refused the stream: by STALE_EPOCH it has heard of a newer epoch, by
    NO_MEMBER the cluster is none any more.
    """

    def __init__(
        self,
        report: Report,
        *,
        cluster: str,
        connect: Connect,
        reporting: Latest[int | None],
        on_failed: Callable[[IsthmusError], None],
        on_acknowledged: Callable[[], None],
        on_problems: Callable[[Iterable[Problem]], None],
        heartbeat: float,
        write_timeout: float,
        what: str,
        clock: Clock,
        log: Logger,
    ) -> None:
        self._report, self._cluster, self._reporting = report, cluster, reporting
        self._on_acknowledged, self._on_problems = on_acknowledged, on_problems
        self._log = log
        self._options: dict[str, Any] = {
            "connect": connect,
            "on_rejections": self._rejected,
            "on_ack": self._published,
            "on_failed": on_failed,
            "clock": clock,
            "log": log,
            "heartbeat": heartbeat,
            "write_timeout": write_timeout,
            "what": what,
        }
        self._rejections: dict[tuple[Kind, str], Problem] = {}
        self._just_rejected: set[tuple[Kind, str]] = set()
        self._acknowledged = 0
        self.client = self._make()

    @property
    def active(self) -> bool:
        """Whether this replica is to report."""
        return self._reporting.value is not None

    @property
    def connected(self) -> bool:
        """The registry listens to this replica, or to another one that is known."""
        return self.client.connected or not self.active

    @property
    def connections(self) -> int:
        """Streams that were begun."""
        return self.client.connections

    @property
    def last_error(self) -> IsthmusError | None:
        """Why the last attempt failed."""
        return self.client.last_error if self.active else None

    async def run(self) -> None:
        """Report whenever there is an epoch to report with."""
        version = -1
        while True:
            version, epoch = await self._reporting.newer(version)
            if epoch is None:
                self._log.info("another replica reports")
                continue
            self._begin(epoch)
            running = asyncio.create_task(self.client.run(), name="agent-publish-client")
            following = asyncio.create_task(self._another(version, epoch), name="agent-publish-epoch")
            try:
                await asyncio.wait({running, following}, return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    running.result()  # it ends by a failure only
                version = following.result()
            finally:
                await cancel(following)
                await cancel(running)

    def reconnect(self) -> None:
        """The credentials were renewed."""
        self.client.reconnect()

    def published(self, name: ServiceName) -> bool | Problem:
        """Whether the registry has the export as it is now, or why it does not take it."""
        rejected = self._rejections.get((Kind.SERVICE, str(name)))
        if rejected is not None:
            return rejected
        entry = self._report.records.log.entry(Key(self._cluster, Kind.SERVICE, str(name)))
        return entry is not None and entry.live and entry.revision <= self._acknowledged

    async def _another(self, version: int, epoch: int) -> int:
        """The last version before the one that says another epoch."""
        while True:
            newer, value = await self._reporting.newer(version)
            if value != epoch:
                return version
            version = newer

    def _begin(self, epoch: int) -> None:
        """A report that begins anew, with what is known, unless it has this epoch already."""
        if self._report.records.epoch == epoch:
            return
        self._report.begin(epoch)
        self._rejections.clear()
        self._just_rejected = set()
        self._acknowledged = 0
        self._on_problems(())
        self.client = self._make()

    def _make(self) -> PublishClient:
        backoff = Backoff(base=0.1, cap=3.0)
        return PublishClient(log_=self._report.records.log, backoff=backoff, **self._options)

    def _rejected(self, rejections: tuple[Rejection, ...]) -> None:
        self._just_rejected = {(r.kind, r.name) for r in rejections}
        for rejection in rejections:
            self._log.warning("record rejected", kind=rejection.kind.name, name=rejection.name, code=rejection.code)
            subject = f"{rejection.kind.name} {rejection.name}"
            self._rejections[(rejection.kind, rejection.name)] = Problem(rejection.code, subject, rejection.detail)
        self._on_problems(self._rejections.values())

    def _published(self, revision: int) -> None:
        """The registry has taken the log up to `revision`: what it no longer rejects of that is settled."""
        if self._rejections:
            for entry in self._report.records.log.entries(since=self._acknowledged):
                key = (entry.record.key.kind, entry.record.key.name)
                if entry.revision <= revision and key not in self._just_rejected:
                    self._rejections.pop(key, None)
            self._on_problems(self._rejections.values())
        self._just_rejected = set()
        self._acknowledged = revision
        self._on_acknowledged()
