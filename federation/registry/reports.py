"""The catalog of the federation: what members report, leased, and what each of them sees of it.

Arrives: streams of proven members (`offer`, `intake`), members and links of the store (`refresh`), the passing of time
(`tick`). Leaves: one Log, whose only other origin is @registry with the links. In memory: after a restart the members
publish again, under a new history, and consumers keep what they had until then.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.catalog.leases import Leases
from federation.catalog.replica import Changes, Log, Visible
from federation.errors import Denied, QuotaExceeded
from federation.log import Logger
from federation.model import wire
from federation.model.cluster import Bundle, Link
from federation.model.ids import REGISTRY_ORIGIN
from federation.model.record import Key, Kind, Origin, OriginState, Record, Version
from federation.proto.v1 import catalog_pb2 as pb
from federation.registry.intake import Desk, Publishing
from federation.registry.publish import Intake, Rejection
from federation.registry.quota import TokenBucket
from federation.registry.session import Session, Watching
from federation.registry.settings import RegistrySettings
from federation.registry.sight import Sight, Sights, TermsIndex
from federation.registry.watch import Offer
from federation.store.base import LinkEntry, Member

MAX_PROBLEMS = 50
MAX_WATCHES = 64
MAX_PUBLISHES = 4
"""Streams of one member at the same time: an agent needs one of each, two while it renews its certificate."""


class Reports:
    """Owns the log. `members` and `links` read the store; `on_epoch` and `on_bundle` ask to keep what was reported."""

    def __init__(
        self,
        settings: RegistrySettings,
        *,
        members: Callable[[], Mapping[str, Member]],
        links: Callable[[], Mapping[str, LinkEntry]],
        epoch: int,
        on_epoch: Callable[[str, int], None],
        on_bundle: Callable[[str, Bundle], None],
        clock: Clock,
        log: Logger,
        audit: Logger,
    ) -> None:
        self.log = Log(history=secrets.token_hex(16))
        self.leases = Leases()
        self.published = 0
        self.rejected = 0
        self.linked_at: dict[str, int] = {}
        """The revision at which a link was last changed."""
        self._settings, self._clock = settings, clock
        self._members, self._links = members, links
        self._on_epoch, self._on_bundle = on_epoch, on_bundle
        self._logger, self._audit = log, audit
        self._version = Version(epoch, 0)
        self._terms = TermsIndex()
        self._sights = Sights(self._terms)
        self._sessions: dict[str, Session] = {}
        self._revisions: deque[tuple[float, int]] = deque(maxlen=120)
        self.log.reset_origin(REGISTRY_ORIGIN, self._next(), [self._link_record(e.link) for e in links().values()])
        for name in links():
            self.linked_at[name] = self.log.revision

    # --- the store has changed ---------------------------------------------------------------------------------------

    def refresh(self, *, clusters: frozenset[str], links: frozenset[str]) -> None:
        """Bring the log and every running stream up to what the store now says of these."""
        members, present = self._members(), self._links()
        version = self._next()
        records = []
        for name in sorted(links):
            entry = present.get(name)
            if entry is not None:
                records.append(self._link_record(entry.link))
            elif self.log.get(Key(REGISTRY_ORIGIN, Kind.LINK, name)) is not None:
                records.append(Record(Key(REGISTRY_ORIGIN, Kind.LINK, name), version, None))
        self.log.put(records)
        for name in links:
            self.linked_at.pop(name, None)
            if name in present:
                self.linked_at[name] = self.log.revision
        for name in {end for link in links for end in link.split("/")}:
            session = self._sessions.get(name)
            if session is not None:
                self._see(session)
        for name in clusters:
            if name not in members:
                self._expel(name)

    def _expel(self, name: str) -> None:
        self.leases.drop(name)
        version = self._origin_version(name)
        self.log.set_origin(Origin(name, version, OriginState.GONE))
        self._terms.forget(name)
        self._sights.forget(name)
        session = self._sessions.pop(name, None)
        if session is not None:
            session.close("not_authorised", f"cluster {name} has left the federation")

    # --- streams -----------------------------------------------------------------------------------------------------

    def offer(self, cluster: str) -> Offer:
        """For a new Watch stream of a proven member."""
        session = self.session(cluster)
        _check_streams(cluster, len(session.watching), MAX_WATCHES)
        watching = Watching()
        session.watching.append(watching)

        def opened(end: Callable[..., None]) -> None:
            watching.end = end

        def acked(ack: pb.Ack) -> None:
            session.last_seen_ns = self._clock.wall_ns()
            watching.applied, watching.acked = min(ack.revision, self.log.revision), True

        def present(presence: pb.Presence) -> None:
            problems = tuple(map(wire.problem_from_pb, presence.problems[:MAX_PROBLEMS]))
            session.on_presence(presence, problems)

        def closed(reason: str) -> None:
            session.watching.remove(watching)
            self._logger.info("watch_closed", cluster=cluster, reason=reason)

        self._logger.info("watch_opened", cluster=cluster)
        return Offer(
            log=self.log,
            visible=session.sight,
            refilter=session.refilter,
            on_open=opened,
            on_ack=acked,
            on_presence=present,
            on_close=closed,
        )

    def intake(self, cluster: str) -> Intake:
        """For a new Publish stream of a proven member.

        It resumes where the last one ended. While another one is open, it starts from nothing: so that an agent which
        was replaced, and does not know, cannot disturb the one that took over.
        """
        session = self.session(cluster)
        _check_streams(cluster, len(session.publishing), MAX_PUBLISHES)
        report = session.report
        if report is None or report in session.publishing:
            report = Publishing(cluster, self._desk(cluster), session.bucket)
        publishing = report

        def opened(end: Callable[..., None]) -> None:
            session.publishing[publishing] = end

        def alive() -> None:
            session.last_seen_ns = self._clock.wall_ns()
            if session.report is publishing and self._sessions.get(cluster) is session:
                self._renew(session, publishing)

        def closed(reason: str) -> None:
            session.publishing.pop(publishing, None)
            self._logger.info("publish_closed", cluster=cluster, reason=reason)

        self._logger.info("publish_opened", cluster=cluster)
        return Intake(
            sink=publishing.sink,
            on_changes=lambda changes: self._take(session, publishing, changes),
            on_alive=alive,
            on_open=opened,
            on_close=closed,
            pause=publishing.pause,
        )

    def _take(self, session: Session, publishing: Publishing, changes: Changes) -> Sequence[Rejection]:
        if self._sessions.get(session.name) is not session:  # a frame that was on its way when the member left
            raise Denied(f"{session.name} is no member of this federation", code="not_authorised")
        if session.report is not publishing and not changes.complete:
            return ()  # a newcomer is heard when it has said everything
        before = publishing.rejections
        rejections = publishing.take(changes)
        self.rejected += publishing.rejections - before
        if session.report is not publishing:
            session.report = publishing
            for other, end in list(session.publishing.items()):
                if other is not publishing:
                    end("superseded", "another agent of this cluster has taken over")
        own = self.log.get(Key(session.name, Kind.CLUSTER, session.name))
        if own is not None and own.payload is not None and own.payload != session.cluster_payload:
            session.cluster_payload, session.cluster = own.payload, wire.decode_cluster(own.payload)
            self._see(session)
        self._renew(session, publishing)
        return rejections

    def _renew(self, session: Session, publishing: Publishing) -> None:
        """The origin was heard of."""
        self.leases.renew(session.name, self._settings.lease, self._clock.monotonic())
        known = self.log.origins().get(session.name)
        if known is not None and known.state is OriginState.STALE and publishing.sink.synced:
            self.log.set_origin(Origin(session.name, known.version, OriginState.LIVE))
            self._logger.info("origin_live", cluster=session.name)

    def session(self, cluster: str) -> Session:
        """What is known of a member; raises Denied (not_authorised) where there is none."""
        if cluster not in self._members():
            raise Denied(f"{cluster} is no member of this federation", code="not_authorised")
        session = self._sessions.get(cluster)
        if session is None:
            quotas = self._settings.quotas
            bucket = TokenBucket(rate=quotas.records_per_second, burst=quotas.burst, now=self._clock.monotonic())
            session = Session(cluster, Latest[Visible](self._sight(cluster, None)), bucket)
            self._sessions[cluster] = session
        return session

    def peek(self, cluster: str) -> Session | None:
        """What is known of a member, if anything."""
        return self._sessions.get(cluster)

    # --- time --------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Call about once a second: leases that have run out make their origins STALE; nothing is deleted."""
        now = self._clock.monotonic()
        self._revisions.append((now, self.log.revision))
        for name in self.leases.expired(now):
            version = self._origin_version(name)
            if self.log.set_origin(Origin(name, version, OriginState.STALE)):
                self._logger.warning("origin_stale", cluster=name, lease=self._settings.lease)

    def settled(self) -> int:
        """The revision that everybody who follows must have reached by now: that of one lease ago."""
        before = self._clock.monotonic() - self._settings.lease
        return max((revision for at, revision in self._revisions if at <= before), default=0)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _desk(self, cluster: str) -> Desk:
        return Desk(
            log=self.log,
            limits=self._settings.quotas,
            single_machine=self._settings.single_machine,
            terms=self._terms,
            now=self._clock.monotonic,
            member=lambda: self._members().get(cluster),
            on_epoch=lambda epoch: self._on_epoch(cluster, epoch),
            on_bundle=lambda bundle: self._on_bundle(cluster, bundle),
            on_records=self._on_records,
            audit=self._audit,
        )

    def _see(self, session: Session) -> None:
        """Its links or its network may have changed."""
        session.see(self._sight(session.name, session.cluster.network if session.cluster is not None else None))

    def _sight(self, cluster: str, network: str | None) -> Sight:
        return self._sights.of(cluster, (e.link for e in self._links().values()), network=network)

    def _on_records(self, count: int) -> None:
        self.published += count

    def _origin_version(self, name: str) -> Version:
        origin = self.log.origins().get(name)
        return Version(0, 0) if origin is None else origin.version

    def _link_record(self, link: Link) -> Record:
        return Record(Key(REGISTRY_ORIGIN, Kind.LINK, link.name), self._version, wire.encode_link(link))

    def _next(self) -> Version:
        self._version = Version(self._version.epoch, self._version.sequence + 1)
        return self._version


def _check_streams(cluster: str, present: int, limit: int) -> None:
    if present >= limit:
        raise QuotaExceeded(
            f"{cluster} has {present} streams of this kind open already",
            hint="are too many agents running for this cluster?",
            code="too_many_streams",
        )
