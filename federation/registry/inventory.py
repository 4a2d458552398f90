"""What operators see: members, links, services, gateways and the registry itself, read from the store and the log."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata

from federation.aio.clock import Clock
from federation.model import wire
from federation.model.cluster import Gateway, Problem
from federation.model.record import Kind, OriginState
from federation.proto.v1 import registry_pb2 as pb
from federation.registry.service import Service
from federation.registry.session import Session
from federation.registry.states import End, cluster_state, link_state
from federation.store.base import LinkEntry, Member
from federation.trust.bundle import fingerprint

try:
    VERSION = metadata.version("isthmus")
except metadata.PackageNotFoundError:  # a source tree on PYTHONPATH
    VERSION = "unknown"


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Inventory:
    """Reads; changes nothing. `count_streams` is asked for the open streams."""

    def __init__(self, service: Service, *, restored_ns: int = 0, clock: Clock) -> None:
        """`restored_ns`: when the backup was made that was restored last; 0: that is not known."""
        self._restored_ns = restored_ns
        self._service, self._reports = service, service.reports
        self._started_ns = clock.wall_ns()
        self.count_streams: Callable[[], int] = lambda: 0

    def clusters(self) -> pb.ListClustersReply:
        members = self._service.store.clusters.all().values()
        return pb.ListClustersReply(clusters=map(self._cluster, members))

    def links(self) -> pb.ListLinksReply:
        settled = self._reports.settled()
        entries = self._service.store.links.all().values()
        return pb.ListLinksReply(links=(self._link(entry, settled) for entry in entries))

    def services(self) -> pb.ListServicesReply:
        found = sorted(self._reports.log.records(kind=Kind.SERVICE), key=lambda r: (r.key.origin, r.key.name))
        return pb.ListServicesReply(
            services=(
                pb.ServiceInfo(cluster=r.key.origin, service=wire.service_to_pb(wire.decode_service(r.payload or b"")))
                for r in found
            )
        )

    def gateways(self) -> pb.ListGatewaysReply:
        origins = self._reports.log.origins()
        found = sorted(self._reports.log.records(kind=Kind.GATEWAY), key=lambda r: (r.key.origin, r.key.name))
        return pb.ListGatewaysReply(
            gateways=(
                pb.GatewayInfo(
                    cluster=r.key.origin,
                    gateway=wire.gateway_to_pb(wire.decode_gateway(r.payload or b"")),
                    stale=origins[r.key.origin].state is not OriginState.LIVE,
                )
                for r in found
            )
        )

    def status(self) -> pb.RegistryStatus:
        return pb.RegistryStatus(
            federation=self._service.federation,
            version=VERSION,
            history=self._reports.log.history,
            revision=self._reports.log.revision,
            started_ns=self._started_ns,
            streams=self.count_streams(),
            problems=map(wire.problem_to_pb, self.problems()),
            now_ns=self._service.now_ns(),
        )

    def problems(self) -> list[Problem]:
        """What is wrong with the registry itself."""
        store, found = self._service.store, []
        if store.failure:
            found.append(Problem("storage_failed", "store", f"{store.failure}; changes are refused until it can write"))
        if store.restored:
            when = f"a backup of {_time(self._restored_ns)}" if self._restored_ns else "an older state"
            detail = (
                f"{when} was restored: links made since then are gone (fedctl link A B makes them again), links cut "
                "since then are back, clusters that joined since then are no members"
            )
            found.append(Problem("store_restored", "store", detail))
        return found

    def _cluster(self, member: Member) -> pb.ClusterInfo:
        reports = self._reports
        session = reports.peek(member.name)
        origin = reports.log.origins().get(member.name)
        claim = session.cluster if session is not None else None
        problems = dict.fromkeys((*(claim.problems if claim else ()), *(session.agent_problems if session else ())))
        return pb.ClusterInfo(
            name=member.name,
            trust_domain=member.trust_domain,
            state=self.state(member),
            locality=wire.locality_to_pb(claim.locality if claim else member.locality),
            bundle_fingerprint=fingerprint(member.bundle),
            joined_ns=member.joined_ns,
            last_seen_ns=session.last_seen_ns if session else 0,
            epoch=origin.version.epoch if origin else member.epoch,
            sequence=origin.version.sequence if origin else 0,
            services=_count(session, "services"),
            gateways=_count(session, "gateways"),
            applied_revision=(session.applied or 0) if session else 0,
            problems=map(wire.problem_to_pb, problems),
            outbound_only=bool(claim and claim.outbound_only),
            agent_version=(claim.agent_version if claim else "") or (session.agent_version if session else ""),
        )

    def state(self, member: Member) -> str:
        """Of its lease."""
        origin = self._reports.log.origins().get(member.name)
        reported = member.epoch > 0 or origin is not None
        return cluster_state(reported=reported, leased=member.name in self._reports.leases and origin is not None)

    def _link(self, entry: LinkEntry, settled: int) -> pb.LinkInfo:
        link = entry.link
        state, detail = link_state(
            (self._end(link.a, link.b), self._end(link.b, link.a)),
            linked_at=self._reports.linked_at.get(link.name, 0),
            settled=settled,
        )
        return pb.LinkInfo(link=wire.link_to_pb(link), state=state, detail=detail)

    def _end(self, name: str, other: str) -> End:
        session = self._reports.peek(name)
        records = self._reports.log.records(kind=Kind.GATEWAY, origin=name)
        gateways: list[Gateway] = [wire.decode_gateway(r.payload or b"") for r in records]
        return End(
            name=name,
            state=self.state(self._service.member(name)),
            watching=bool(session and session.watching),
            applied=session.applied if session else None,
            gateways=len(gateways),
            draining=sum(g.draining for g in gateways),
            outbound_only=bool(session and session.cluster and session.cluster.outbound_only),
            services=_count(session, "services"),
            problem=_problem_about(session, other),
            network=session.cluster.network if session and session.cluster else "",
            pods=session.cluster.pod_ranges if session and session.cluster else (),
        )


def _count(session: Session | None, what: str) -> int:
    report = session.report if session is not None else None
    return getattr(report.usage, what) if report is not None else 0


def _problem_about(session: Session | None, other: str) -> str:
    """What this end's agent says of the other end."""
    if session is None:
        return ""
    claimed = session.cluster.problems if session.cluster else ()
    return next((p.detail for p in (*claimed, *session.agent_problems) if p.subject == other), "")
