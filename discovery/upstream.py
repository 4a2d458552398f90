"""The agent's two streams to the registry, over connections that carry its newest certificate.

Arrive: changes of what other clusters offer, and what the registry says of the report. Leave: this cluster's report,
while this agent is the one that reports; calls to who made it, for each of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import grpc

from discovery.publishing import NO_MEMBER, STALE_EPOCH, Publishing
from discovery.report import Report
from discovery.settings import AgentSettings
from federation import __version__
from federation.aio.backoff import Backoff
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.catalog.replica import Changes, Sink
from federation.errors import IsthmusError
from federation.log import Logger
from federation.model.cluster import Bundle, Problem
from federation.proto.v1 import catalog_pb2
from federation.registry.client import CHANNEL_OPTIONS, WatchClient
from federation.trust.grpc_credentials import channel_credentials, channel_options, registry_server_name
from federation.trust.renewal import Renewer
from federation.trust.svid import Svid


class Election(Protocol):
    """By what one agent of several knows whether it is the one that reports."""

    @property
    def reporting(self) -> Latest[int | None]:
        """The epoch to report with; None: another agent does."""

    def outbid(self) -> None:
        """The registry has heard of a newer epoch."""


class Upstream:
    """`watch.run` from the start, `publish.run` once the report is whole, `follow_renewal` always."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        sink: Sink,
        report: Report,
        epoch: int,
        election: Election | None,
        trusted: Bundle,
        renewer: Renewer[Svid],
        on_changes: Callable[[Changes], None],
        on_acknowledged: Callable[[], None],
        on_no_member: Callable[[], None],
        on_problems: Callable[[Iterable[Problem]], None],
        clock: Clock,
        log: Logger,
    ) -> None:
        """`trusted`: the registry's bundle. Without an `election` this agent always reports, with `epoch`.
        `on_no_member` is called whenever the registry refuses a stream because the cluster is no member."""
        self._settings, self._trusted, self._renewer = settings, trusted, renewer
        self._election, self._on_no_member = election, on_no_member
        what = f"the registry at {settings.registry}"
        self.watch = WatchClient(
            connect=self._connect,
            sink=sink,
            on_changes=on_changes,
            presence=self._presence,
            backoff=Backoff(base=0.1, cap=3.0),
            clock=clock,
            log=log.bind(stream="watch"),
            ack_delay=(0.02, 0.05),  # not while what it is about is on its way to the sidecars
            what=what,
            on_failed=self._failed,
        )
        self.publish = Publishing(
            report,
            cluster=settings.cluster,
            connect=self._connect,
            reporting=election.reporting if election is not None else Latest(epoch),
            on_failed=self._publish_failed,
            on_acknowledged=on_acknowledged,
            on_problems=on_problems,
            clock=clock,
            log=log.bind(stream="publish"),
            heartbeat=settings.heartbeat,
            write_timeout=settings.write_timeout,
            what=what,
        )

    async def follow_renewal(self) -> None:
        """Connect anew with each new certificate, until cancelled."""
        version = self._renewer.latest.version
        while True:
            version, _ = await self._renewer.latest.newer(version)
            self.watch.reconnect()
            self.publish.reconnect()

    async def _connect(self) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(
            self._settings.registry,
            channel_credentials(self._renewer.current, self._trusted),
            options=[*CHANNEL_OPTIONS, *channel_options(registry_server_name(self._settings.federation))],
        )

    def _presence(self) -> catalog_pb2.Presence:
        return catalog_pb2.Presence(role=catalog_pb2.Presence.AGENT, name=self._settings.cluster, version=__version__)

    def _failed(self, error: IsthmusError) -> None:
        if error.error_code == NO_MEMBER:
            self._on_no_member()

    def _publish_failed(self, error: IsthmusError) -> None:
        if error.error_code == STALE_EPOCH and self._election is not None:
            self._election.outbid()
        self._failed(error)
