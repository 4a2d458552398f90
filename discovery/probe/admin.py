"""What operators ask an agent about its own sight of things: `fedctl check` and `fedctl verify`.

Arrives: requests of federation/proto/v1/agent.proto, from discovery.admin. Leaves: answers; nothing is changed.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from discovery.probe import resolver
from discovery.probe.prober import Attempt, Reach
from federation import __version__
from federation.model.address import join_address, split_address
from federation.model.ids import ServiceName
from federation.model.service import Import
from federation.model.wire import service_from_pb
from federation.policy import routes
from federation.proto.v1 import agent_pb2 as pb
from federation.proto.v1 import records_pb2
from federation.trust.bundle import fingerprint
from federation.trust.keys import certificate_from_der

if TYPE_CHECKING:
    from discovery.agent import Agent

_SECONDS, _PROBE_SECONDS = 3.0, 5.0
_MOST_NAMED = 100
"""Services of one sort that are named; nobody reads more of them."""


async def probe(agent: Agent, request: pb.ProbeRequest) -> pb.ProbeReply:
    """Real requests. Raises InvalidName, QuotaExceeded (probe_busy)."""
    name = ServiceName.parse(f"{request.namespace}/{request.name}")
    seconds = request.timeout_ms / 1000 if request.timeout_ms else _PROBE_SECONDS
    shown = records_pb2.Service(namespace=name.namespace, name=name.name, ports=request.ports)
    ports = service_from_pb(shown).ports
    attempts = await agent.prober.probe(name, request.cluster, seconds=seconds, ports=ports)
    return pb.ProbeReply(attempts=map(_attempt, attempts))


async def examine(agent: Agent, request: pb.ExamineRequest) -> pb.ExamineReply:
    """What only this agent can see."""
    seconds = min(request.timeout_ms / 1000 if request.timeout_ms else _SECONDS, 30.0)
    async with asyncio.TaskGroup() as group:
        reached = group.create_task(agent.prober.reach(seconds=seconds), name="examine-gateways")
        own_dns = group.create_task(_own_dns(agent, seconds), name="examine-dns")
        cluster_dns = group.create_task(_cluster_dns(agent, seconds), name="examine-cluster-dns")
    settings, clusterset = agent.settings, agent.settings.clusterset
    return pb.ExamineReply(
        cluster=settings.cluster,
        version=__version__,
        now_ns=agent.clock.wall_ns(),
        network=settings.network,
        pod_ranges=agent.kubernetes.pod_ranges() if agent.kubernetes is not None else (),
        certificates=_certificates(agent),
        pins=_pins(agent),
        gateways=map(_reach, reached.result()),
        dns=_told(own_dns.result()),
        cluster_dns=_told(cluster_dns.result()),
        exports_down=_named(name for name, s in agent.source.state.value.exports.items() if not s.ready),
        imports_homeless=_named(n for n in agent.view.imports if agent.source.has_namespace(n.namespace) is False),
        imports_unaddressed=_named(name for name, found in agent.view.imports.items() if _lacks_address(agent, found)),
        clusterset=[] if settings.kubernetes is not None else [t for t in (clusterset.v4, clusterset.v6) if t],
    )


def _named(names: Iterator[ServiceName]) -> list[str]:
    return sorted(map(str, names))[:_MOST_NAMED]


def _lacks_address(agent: Agent, found: Import) -> bool:
    """One whose namespace is missing has none, which is told apart."""
    return not found.headless and not found.ips and agent.source.has_namespace(found.name.namespace) is not False


def _certificates(agent: Agent) -> Iterator[pb.Certificate]:
    leaf = agent.renewer.current
    life = leaf.not_after - leaf.issued_at
    yield pb.Certificate(
        what="the agent's identity",
        not_before_ns=_ns(leaf.not_before),
        not_after_ns=_ns(leaf.not_after),
        renews_ns=_ns(leaf.issued_at + life / 2),
    )
    for what, bundle in (("the cluster's root", agent.bundle), ("the registry's root", agent.registry_bundle)):
        for der in bundle.roots:
            root = certificate_from_der(der)
            ends = _ns(root.not_valid_after_utc)
            yield pb.Certificate(what=what, not_before_ns=_ns(root.not_valid_before_utc), not_after_ns=ends)


def _pins(agent: Agent) -> Iterator[pb.PinStatus]:
    linked = {n.name: n for n in agent.view.linked}
    for name in sorted({*agent.pins, *linked}):
        pin, seen = agent.pins.get(name), agent.view.neighbours.get(name)
        shown = seen.cluster.bundle if seen is not None and seen.cluster is not None else None
        yield pb.PinStatus(
            cluster=name,
            fingerprint=pin.fingerprint if pin is not None else "",
            shown=fingerprint(shown) if shown is not None and shown.roots else "",
            linked=name in linked,
        )


async def _own_dns(agent: Agent, seconds: float) -> resolver.Told | None:
    """Its own DNS, as a workload would ask it."""
    if agent.dns is None or not agent.dns.port:
        return None
    host, _ = split_address(agent.settings.dns.listen, what="dns.listen")
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    return await _dns(agent, (host, agent.dns.port), seconds)


async def _cluster_dns(agent: Agent, seconds: float) -> resolver.Told | None:
    """The cluster's DNS, which the agent's pod asks like every other one."""
    kubernetes = agent.settings.kubernetes
    if kubernetes is None or kubernetes.kubeconfig or agent.dns is None:
        return None
    try:
        text = await asyncio.to_thread(resolver.RESOLV_CONF.read_text)
    except OSError:
        return None
    server = resolver.first_nameserver(text)
    return await _dns(agent, server, seconds) if server is not None else None


async def _dns(agent: Agent, server: tuple[str, int], seconds: float) -> resolver.Told:
    found = _addressed(agent)
    if found is None:
        detail = "nothing is imported that has an address"
        return resolver.Told(server=resolver.wire_server(server), name="", detail=detail)
    name = routes.names(found.name, suffix=agent.settings.suffix, pinned=None)[-1]
    return await resolver.ask(server, name, found.ips, seconds=seconds)


def _addressed(agent: Agent) -> Import | None:
    """An import that the DNS has to know: the first by name."""
    able = (found for found in agent.view.imports.values() if found.ips and not found.headless)
    return min(
        (found for found in able if agent.source.has_namespace(found.name.namespace) is not False),
        key=lambda found: found.name,
        default=None,
    )


def _attempt(made: Attempt) -> pb.Attempt:
    return pb.Attempt(
        port=made.port.port if made.port is not None else 0,
        app=made.port.app.value if made.port is not None else "",
        way=made.way,
        gateway=made.gateway,
        address=made.address,
        code=made.outcome.code,
        detail=made.outcome.detail,
        status=made.outcome.status,
        took_ns=int(made.took * 1e9),
        clusters=made.clusters,
    )


def _reach(reached: Reach) -> pb.GatewayReach:
    return pb.GatewayReach(
        cluster=reached.cluster,
        name=reached.gateway.name,
        address=join_address(reached.gateway.address, reached.gateway.port) if reached.gateway.address else "",
        own=reached.own,
        code=reached.outcome.code,
        detail=reached.outcome.detail,
        took_ns=int(reached.took * 1e9),
        not_after_ns=reached.not_after_ns,
    )


def _told(told: resolver.Told | None) -> pb.DnsReach | None:
    if told is None:
        return None
    return pb.DnsReach(server=told.server, name=told.name, addresses=told.addresses, code=told.code, detail=told.detail)


def _ns(moment: datetime) -> int:
    return int(moment.timestamp() * 1e6) * 1000
