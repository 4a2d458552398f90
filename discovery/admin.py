"""What operators ask of this agent, on a UNIX socket that only its own user can open.

Arrives: requests of federation/proto/v1/agent.proto. Leaves: answers from what the agent holds; changes go to its pins
and its source.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import grpc

from discovery.consumers import Consumer
from discovery.leading import Standing
from discovery.names import check_callable, parse_global
from discovery.probe import admin as probing
from discovery.sources.combined import whence
from discovery.view import Neighbour
from discovery.vms import admin as vms
from federation import __version__
from federation.errors import NotFound, StorageFailed
from federation.model.address import join_address
from federation.model.cluster import Peer
from federation.model.ids import ServiceName, parse_label
from federation.model.record import OriginState
from federation.model.service import Backend, Import, Service
from federation.model.wire import (
    bundle_to_pb,
    gateway_to_pb,
    grants_from_pb,
    import_to_pb,
    link_to_pb,
    problem_to_pb,
    service_to_pb,
)
from federation.policy.locality import place
from federation.proto.v1 import agent_pb2 as pb
from federation.proto.v1 import agent_pb2_grpc as rpc
from federation.proto.v1 import records_pb2, registry_pb2
from federation.registry.status import unary
from federation.trust.bundle import fingerprint

if TYPE_CHECKING:
    from discovery.agent import Agent

SOCKET = "agent.sock"
_METHODS = (
    *("Identity", "Pin", "Unpin", "Namespace", "Status"),
    *("Export", "Unexport", "Preview", "ListImports", "Resolve"),
    *("InviteVm", "ListVms", "RemoveVm"),
    *("Examine", "Probe"),
)


class AdminServer:
    """Serves the Agent service on `<state directory>/agent.sock`, mode 0600."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._server: Any = None
        self.path = agent.path / SOCKET

    async def start(self) -> None:
        """Raises StorageFailed."""
        server = grpc.aio.server()
        rpc.add_AgentServicer_to_server(_Servicer(self._agent), server)  # type: ignore[no-untyped-call]
        self.path.unlink(missing_ok=True)  # the state directory is locked: nobody else can be listening
        before = os.umask(0o177)
        try:
            server.add_insecure_port(f"unix:{self.path}")
            await server.start()
        except RuntimeError as error:
            raise StorageFailed(f"cannot listen on {self.path}") from error
        finally:
            os.umask(before)
        self._server = server

    async def close(self) -> None:
        if self._server is not None:
            await self._server.stop(0.5)
            self._server = None
            self.path.unlink(missing_ok=True)


class _Servicer(rpc.AgentServicer):
    def __init__(self, agent: Agent) -> None:
        call = unary(agent.log)
        for name in _METHODS:
            handler = getattr(self, f"_{name.lower()}")
            handler = _named(handler, name)
            setattr(self, name, call(handler))
        self._agent = agent

    async def _identity(self, request: registry_pb2.Empty, context: Any) -> pb.AgentIdentity:
        agent = self._agent
        return pb.AgentIdentity(
            cluster=agent.settings.cluster,
            trust_domain=agent.settings.trust_domain,
            federation=agent.settings.federation,
            bundle=bundle_to_pb(agent.bundle),
            fingerprint=fingerprint(agent.bundle),
        )

    async def _pin(self, request: pb.PinRequest, context: Any) -> registry_pb2.Empty:
        self._agent.pins.pin(request.cluster, request.trust_domain, request.fingerprint)
        self._agent.view.pinned(request.cluster)
        await self._share_pins()
        return registry_pb2.Empty()

    async def _unpin(self, request: pb.UnpinRequest, context: Any) -> registry_pb2.Empty:
        if self._agent.pins.unpin(request.cluster):
            self._agent.view.pinned(request.cluster)
        await self._share_pins()
        return registry_pb2.Empty()

    async def _share_pins(self) -> None:
        if self._agent.replicas is not None:
            await self._agent.replicas.share_pins()

    async def _export(self, request: pb.ExportRequest, context: Any) -> pb.ExportReply:
        name = self._name(request)
        path, changed = await self._agent.source.export(name, grants_from_pb(request.grants))
        return pb.ExportReply(path=path, changed=changed)

    async def _unexport(self, request: pb.ExportRequest, context: Any) -> pb.ExportReply:
        name = ServiceName.parse(f"{request.namespace}/{request.name}")
        path, changed = await self._agent.source.unexport(name)
        return pb.ExportReply(path=path, changed=changed)

    async def _preview(self, request: pb.PreviewRequest, context: Any) -> pb.PreviewReply:
        agent, asked = self._agent, request.export
        name = ServiceName.parse(f"{asked.namespace}/{asked.name}") if request.withdraw else self._name(asked)
        grants = None if request.withdraw else grants_from_pb(asked.grants)
        planned = await agent.source.preview(name, grants)
        return pb.PreviewReply(
            path=planned.where,
            changed=planned.changed,
            before=_claim(agent.source.state.value.exports.get(name)),
            after=_claim(planned.claim),
            uncarried=[pb.PreviewReply.Uncarried(port=port, protocol=protocol) for port, protocol in planned.uncarried],
            peers=[
                pb.PreviewPeer(
                    status=_peer(n),
                    link=link_to_pb(n.link) if n.link is not None else None,
                    service=_claim(n.services.get(name)),
                )
                for n in agent.view.linked
            ],
        )

    async def _namespace(self, request: pb.NamespaceRequest, context: Any) -> pb.NamespaceReply:
        there = self._agent.source.has_namespace(parse_label(request.name, what="namespace"))
        kubernetes = self._agent.settings.kubernetes
        if there is None:
            return pb.NamespaceReply(state="unknown")
        if there:
            return pb.NamespaceReply(state="exists")
        creates = kubernetes is not None and kubernetes.create_namespaces
        return pb.NamespaceReply(state="created" if creates else "missing")

    def _name(self, request: pb.ExportRequest) -> ServiceName:
        """Raises InvalidName, for one that no peer could call, too."""
        name = ServiceName.parse(f"{request.namespace}/{request.name}")
        check_callable(name, self._agent.settings.trust_domain)
        return name

    async def _listimports(self, request: registry_pb2.Empty, context: Any) -> pb.ListImportsReply:
        imports = self._agent.view.imports
        names = sorted(imports)
        return pb.ListImportsReply(
            imports=[import_to_pb(imports[name]) for name in names],
            sources=[made for name in names if (made := _sources(self._agent, name)).endpoints],
        )

    async def _resolve(self, request: pb.ResolveRequest, context: Any) -> pb.ResolveReply:
        name, pinned = parse_global(request.name, suffix=self._agent.settings.suffix)
        found = self._agent.view.imports.get(name)
        if found is None:
            raise NotFound(
                f"{name} is not exported by this cluster or any that it is linked to",
                hint=f"fedctl export {name} in the cluster that has it; fedctl get links",
            )
        backends = list(explain(found, self._agent, pinned))
        return pb.ResolveReply(**{"import": import_to_pb(found)}, backends=backends)

    async def _invitevm(self, request: pb.InviteVmRequest, context: Any) -> pb.InviteVmReply:
        return await vms.invite(self._agent, request)

    async def _listvms(self, request: registry_pb2.Empty, context: Any) -> pb.ListVmsReply:
        return vms.listed(self._agent)

    async def _removevm(self, request: pb.RemoveVmRequest, context: Any) -> registry_pb2.Empty:
        await self._agent.vms.remove(request.name)
        return registry_pb2.Empty()

    async def _examine(self, request: pb.ExamineRequest, context: Any) -> pb.ExamineReply:
        return await probing.examine(self._agent, request)

    async def _probe(self, request: pb.ProbeRequest, context: Any) -> pb.ProbeReply:
        return await probing.probe(self._agent, request)

    async def _status(self, request: registry_pb2.Empty, context: Any) -> pb.AgentStatus:
        agent = self._agent
        watch = agent.watch
        seen = 0
        if watch.last_seen is not None:
            seen = agent.clock.wall_ns() - int((agent.clock.monotonic() - watch.last_seen) * 1e9)
        failure = watch.last_error or agent.publish.last_error
        detail = str(failure) if failure is not None else ""
        problems = [problem_to_pb(p) for p in agent.problems.all()]
        if not agent.source.state.value.complete:
            why = f"it reports and serves nothing before it has read {agent.source.what}"
            problems.append(records_pb2.Problem(code="source_not_read", detail=why, since_ns=agent.started_ns))
            detail = detail or why
        return pb.AgentStatus(
            cluster=agent.settings.cluster,
            version=__version__,
            registry_connected=watch.connected and agent.publish.connected,
            registry_last_seen_ns=seen,
            registry_revision=agent.sink.replica.revision,
            epoch=agent.report.records.epoch,
            sequence=agent.report.records.sequence,
            exports=len(agent.source.state.value.exports),
            imports=len(agent.view.imports),
            peers=[_peer(n) for n in agent.view.linked],
            consumers=[_consumer(c, agent) for c in agent.consumers.all],
            problems=problems,
            registry_detail=detail,
            exports_down=sum(not s.ready for s in agent.source.state.value.exports.values()),
            replica=_replica(agent.election.standing()) if agent.election is not None else None,
        )


def _sources(agent: Agent, name: ServiceName) -> pb.Sources:
    found = whence(agent.parts, name)
    return pb.Sources(
        namespace=name.namespace,
        name=name.name,
        endpoints=[pb.Sources.Whence(address=address, source=source) for address, source in sorted(found.items())],
    )


def _claim(service: Service | None) -> records_pb2.Service | None:
    """As peers get it: without endpoints."""
    return None if service is None else service_to_pb(replace(service, endpoints=()))


def _named(handler: Any, name: str) -> Any:
    async def call(request: Any, context: Any) -> Any:
        return await handler(request, context)

    call.__name__ = name
    return call


def _peer(neighbour: Neighbour) -> pb.PeerStatus:
    state, detail = "live", ""
    if neighbour.problem is not None:
        state, detail = "unpinned", neighbour.problem.detail
    elif neighbour.bundle is None:
        state, detail = "unknown", "it has not reported to the registry yet"
    elif neighbour.stale:
        state, detail = "stale", "it is not connected to the registry; its last report counts"
    elif not neighbour.gateways and neighbour.cluster is not None and neighbour.cluster.outbound_only:
        if neighbour.services:
            state, detail = "no gateway", "none of its gateways can be reached from outside: it cannot be called"
    elif not neighbour.gateways:
        state, detail = "no gateway", "none of its gateways is known: it cannot be called"
    return pb.PeerStatus(
        cluster=neighbour.name,
        state=state,
        services=len(neighbour.services),
        gateways=[gateway_to_pb(g) for _, g in sorted(neighbour.gateways.items())],
        detail=detail,
    )


def _replica(standing: Standing) -> pb.ReplicaStatus:
    return pb.ReplicaStatus(
        identity=standing.identity,
        leader=standing.leader,
        since_ns=_nanoseconds(standing.since),
        leading=standing.leading,
        reporting=standing.reporting,
        expired=standing.expired,
    )


def _nanoseconds(time: str) -> int:
    """Of a meta/v1 MicroTime; 0 for what is none, for anybody may have edited it."""
    try:
        return int(datetime.fromisoformat(time).timestamp() * 1e6) * 1000
    except ValueError:
        return 0


def _consumer(consumer: Consumer, agent: Agent) -> pb.ConsumerStatus:
    return pb.ConsumerStatus(
        role=consumer.role,
        name=consumer.shown,
        version=consumer.version,
        connected=consumer.connected,
        applied_revision=consumer.applied,
        offered_revision=agent.server.offered(consumer),
        problems=map(problem_to_pb, consumer.problems),
        address=consumer.address,
        identity=consumer.identity,
        names=len(consumer.names),
    )


def explain(service: Import, agent: Agent, pinned: str | None) -> Iterator[pb.ResolvedBackend]:
    """The copies of `service` in the order in which a caller of this cluster uses them, then those that it cannot use.

    The order is that of the first port; what counts for a call is decided by the same function (policy.locality).
    """
    peers = {
        n.name: Peer(
            cluster=n.name,
            trust_domain=n.bundle.trust_domain,
            locality=n.cluster.locality if n.cluster is not None else agent.settings.place,
            bundle=n.bundle,
            gateways=tuple(n.gateways.values()),
        )
        for n in agent.view.linked
        if n.bundle is not None
    }
    own = agent.settings.cluster
    peers[own] = Peer(
        cluster=own, trust_domain=agent.settings.trust_domain, locality=agent.settings.place, bundle=agent.bundle
    )
    backends = {b.cluster: b for b in service.backends if pinned in (None, b.cluster)}
    sources = whence(agent.parts, service.name)
    used: set[str] = set()
    reached: set[tuple[str, int]] = set()
    port = service.ports[0].port if service.ports else 0
    tiers = place(service, port, peers=peers, locality=agent.settings.place, pinned=pinned)
    for priority, tier in enumerate(tiers):
        for host in tier:
            cluster = host.cluster or own
            used.add(cluster)
            reached.add((host.address, host.port))
            backend = backends[cluster]
            yield pb.ResolvedBackend(
                cluster=cluster,
                priority=priority,
                ready=backend.ready if host.cluster else 1,
                address=join_address(host.address, host.port),
                state="stale" if backend.stale else "ready",
                weight=host.weight,
                source="" if host.cluster else sources.get(host.address, ""),
            )
    for cluster, backend in backends.items():
        for endpoint in backend.endpoints if backend.local else ():
            if (endpoint.address, endpoint.ports.get(port)) not in reached:
                used.add(cluster)
                yield pb.ResolvedBackend(
                    cluster=cluster,
                    priority=len(tiers),
                    address=join_address(endpoint.address, endpoint.ports.get(port, 0)),
                    state="draining" if endpoint.terminating else "not ready",
                    source=sources.get(endpoint.address, ""),
                )
        if cluster not in used:
            yield pb.ResolvedBackend(
                cluster=cluster, priority=len(tiers), ready=backend.ready, state=_unused(backend, agent)
            )


def _unused(backend: Backend, agent: Agent) -> str:
    neighbour = agent.view.neighbours.get(backend.cluster)
    if not backend.ready:
        return "not ready"
    if not backend.local and (neighbour is None or not neighbour.gateways):
        return "no gateway"
    return "stale" if neighbour is not None and neighbour.state is OriginState.STALE else "not ready"
