"""One import's port as a caller's Envoy has it: cluster, endpoints, and the filters in front.

Shared by sidecars and by gateways that call out for workloads without a sidecar. Each function makes the resources of
one service and nothing else, so that callers keep what has not changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost

from federation.envoy import endpoint, listener, names, route
from federation.envoy.cluster import Remote, service_cluster
from federation.envoy.ledger import Part
from federation.model.cluster import Peer
from federation.model.ids import ServiceName
from federation.model.service import Endpoint, Import, Port, Protocol
from federation.model.view import View

STRANGER = "421: the Host or :authority is not a name of the service that this address belongs to"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A port of a service under the names that a caller may use. Equal targets have equal clusters and filters."""

    service: ServiceName
    port: Port
    domains: tuple[str, ...]
    remotes: tuple[Remote, ...]
    affinity: bool
    cluster: str
    """The name of the Envoy cluster."""
    endpoints: str
    """The name of its EDS resource."""
    aliases: tuple[str, ...] = ()
    """Names that a caller may use, too, and that nobody else knows: requests go on under the first of `domains`."""


def believed(view: View) -> View:
    """The view without peers that nobody could verify: those with no roots, or with the roots of another domain.

    Their gateways then are no endpoints, rather than endpoints whose context of trust is missing.
    """
    doubtful = {name for name, peer in view.peers.items() if name != view.cluster and not peer.verifiable}
    if not doubtful:
        return view
    return replace(view, peers={name: peer for name, peer in view.peers.items() if name not in doubtful})


def tcp_ports(service: Import) -> tuple[Port, ...]:
    """The ports that can be carried: TCP, whatever is spoken on them."""
    return tuple(p for p in service.ports if p.protocol is Protocol.TCP)


def remotes(service: Import, port: int, peers: Mapping[str, Peer], pinned: str | None) -> tuple[Remote, ...]:
    """Whom mutual TLS is spoken with for the port, ready or not: the gateways of the clusters that offer it, and those
    endpoints of the own one that have an identity."""
    found: list[Remote] = []
    for backend in service.backends:
        peer = peers.get(backend.cluster)
        if peer is None or port not in backend.ports or (pinned is not None and backend.cluster != pinned):
            continue
        if backend.local:
            found += own_remotes(backend.endpoints, port, peer)
        else:
            found.append(Remote(backend.cluster, peer.trust_domain))
    return tuple(found)


def own_remotes(endpoints: Iterable[Endpoint], port: int, own: Peer | None) -> tuple[Remote, ...]:
    """Those among the endpoints of the own cluster that mutual TLS is spoken with."""
    if own is None:
        return ()
    identities = {e.identity for e in endpoints if port in e.ports and e.identity and own.vouches_for(e.identity)}
    return tuple(Remote(own.cluster, own.trust_domain, identity) for identity in sorted(identities))


def target_cluster(target: Target) -> Cluster:
    """The CDS resource."""
    return service_cluster(
        target.cluster,
        target.service,
        target.port.port,
        target.port.app,
        endpoints=target.endpoints,
        remotes=target.remotes,
        host=target.domains[0],
        affinity=target.affinity,
    )


def target_filters(target: Target, *, ask: bool = False) -> list[Filter]:
    """The filters of a listener that leads to this port alone; with `ask` its cluster comes on demand."""
    if not target.port.app.is_http:
        return [listener.tcp("out", target.cluster, affinity=target.affinity, ask=ask)]
    ways = route.caller_routes(target.cluster, affinity=target.affinity)
    hosts = [virtual_host(target, ways)]
    if aliases := [name for name in dict.fromkeys(target.aliases) if name not in target.domains]:
        hosts.append(route.virtual_host("aliases", aliases, route.renamed(ways, target.domains[0])))
    routes = route.configuration(target.cluster, [*hosts, stranger()])
    return [listener.http("out", routes, ask=ask, replies=replies())]


def parts(target: Target, placement: Sequence[Sequence[endpoint.Host]], *, checked: bool = True) -> Iterator[Part]:
    """Its cluster and its endpoints; `checked`: see Checks."""
    yield Part(names.CLUSTER_TYPE, target.cluster, target, lambda: target_cluster(target))
    yield Part(
        names.ENDPOINT_TYPE,
        target.endpoints,
        (placement, checked),
        lambda: endpoint.assignment(target.endpoints, placement, checked=checked),
    )


def listener_part(name: str, ip: str, port: int, target: Target, *, ask: bool = False) -> Part:
    """A listener on `ip`:`port` that leads to the target alone; `ask`: see target_filters."""
    return Part(
        names.LISTENER_TYPE,
        name,
        (ip, port, replace(target, remotes=())),  # who serves it is nothing to the listener
        lambda: listener.listener(name, ip, port, [listener.chain("out", target_filters(target, ask=ask))]),
    )


def virtual_host(target: Target, routes: Sequence[Route]) -> VirtualHost:
    """The service's virtual host: exactly its names."""
    return route.virtual_host(str(target.service), target.domains, routes)


def stranger() -> VirtualHost:
    """What is told to requests for any other name: the far gateway would refuse them, so the near end does, too."""
    return route.virtual_host("*", ["*"], [route.answer(421, STRANGER)])


def replies() -> tuple[listener.Reply, ...]:
    """What callers read when no answer could be had."""
    return (
        listener.Reply(flag="UH", text="503: no cluster has a ready endpoint of this service"),
        listener.Reply(flag="NC", text="503: the service is not, or not any more, imported here"),
        listener.Reply(flag="UF", text="503: no endpoint of this service could be connected to"),
    )
