"""A gateway's Envoy: view → resources. Pure, and incremental where it is asked to be.

What comes in is the view (federation.model.view) and the clusters that Envoy asked for; what leaves goes to
federation.xds by way of gateway.agent. Inbound, a cluster's name holds who calls, the connection's server name and the
request's authority: it is made when they agree with each other and with a grant, so that nothing is held for an export
that nobody uses. Outbound ("egress") the same code runs as in a sidecar (federation.envoy.outbound).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from google.protobuf.message import Message

from federation.envoy import cluster, endpoint, listener, names, outbound, tls
from federation.envoy.ledger import Changes, Ledger, Part, settled
from federation.envoy.names import Inbound, InboundKind
from federation.model.cluster import Peer
from federation.model.ids import ServiceName
from federation.model.service import Import, Locality
from federation.model.view import View
from federation.policy import routes
from federation.policy.locality import place, ready_hosts
from gateway import inbound
from gateway.authz import admitted, host_of, is_name

ODD_NAMES = 8
"""Ways to write an authority (another port, upper case) that are served for a caller's trust domain and server name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """What is fixed for a gateway. Peers reach it at `address`:`port`; workloads of its cluster at `egress_address`."""

    cluster: str
    trust_domain: str
    suffix: str = "global"
    address: str
    port: int
    identity: tls.Identity
    egress_address: str = "127.0.0.1"


class Builder:
    """Keeps track of what it built: an update costs what changed. One per Envoy. `finish`: see Ledger."""

    def __init__(self, config: GatewayConfig, *, finish: Callable[[str, Message], Any] | None = None) -> None:
        self._config = config
        self._ledger = Ledger(finish)
        self._imports: dict[ServiceName, Import] = {}
        self._peers: dict[str, Peer] = {}
        self._asked: Collection[str] = frozenset()
        self._named: dict[ServiceName, dict[str, Inbound]] = {}  # what was asked for, by the service that it means
        self._odd: dict[tuple[str, str], set[str]] = {}

    def update(
        self,
        view: View,
        *,
        asked: Collection[str],
        changed: Collection[ServiceName] | None = None,
        identity: tls.Identity | None = None,
    ) -> Changes:
        """Bring the resources up to date and return what differs.

        `asked` are the clusters "in-…" that Envoy asked for (the same object, if none are new): those that are admitted
        come to exist. `changed` names the services whose export or import may differ from the last update (None: any
        may). `identity` replaces the one of the configuration (renewal).
        """
        ledger, view = self._ledger, outbound.believed(view)
        ledger.keep_secrets(identity or self._config.identity, view.peers.values())
        everything = view.peers != self._peers
        if everything:
            self._peers = dict(view.peers)
        if everything or changed is None:
            changed = {*self._named, *self._imports, *view.imports}
        for name in changed:
            for cluster_name, named in self._named.get(name, {}).items():
                self._update_named(view, cluster_name, named)
            self._update_import(view, name, force=everything)
        for owner in ledger.checks.take_due():
            if isinstance(owner, ServiceName):
                self._update_import(view, owner, force=True)
        if asked is not self._asked:
            self._follow(view, asked)
        ledger.write("inbound", self._inbound_parts())
        return ledger.take()

    def _follow(self, view: View, asked: Collection[str]) -> None:
        """Envoy asks for these, and for no others any more."""
        for gone in sorted(set(self._asked).difference(asked)):
            self._forget(gone)
        for new in sorted(set(asked).difference(self._asked)):
            named = names.parse_inbound_cluster(new)
            service = _service(named)
            if named is not None and service is not None:
                self._named.setdefault(service, {})[new] = named
                self._update_named(view, new, named)
        self._asked = asked

    def _forget(self, cluster_name: str) -> None:
        named = names.parse_inbound_cluster(cluster_name)
        service = _service(named)
        if named is None or service is None:
            return
        self._ledger.drop(cluster_name)
        self._is_odd(cluster_name, named, served=False)
        del self._named[service][cluster_name]
        if not self._named[service]:
            del self._named[service]

    def _update_named(self, view: View, cluster_name: str, named: Inbound) -> None:
        parts = tuple(self._named_parts(view, cluster_name, named))
        if parts:
            self._ledger.write(cluster_name, parts)
        else:
            self._ledger.drop(cluster_name)

    def _named_parts(self, view: View, name: str, named: Inbound) -> Iterator[Part]:
        """What `name` stands for: the local endpoints, an answer by Envoy itself, or nothing."""
        config = self._config
        decision = admitted(view, named.sni, named.trust_domain)
        if decision.service is None or decision.port is None:
            return  # not exported
        if named.kind is not InboundKind.HEALTH and decision.port.app.is_http != (named.kind is InboundKind.HTTP):
            return  # HTTP goes through the header rules, or not at all
        if named.kind is InboundKind.HTTP and not is_name(
            named.authority, routes.exported_names(decision.service, config.cluster, suffix=config.suffix)
        ):
            return
        if self._is_odd(name, named, served=decision.allowed):
            return
        if named.kind is InboundKind.HEALTH or not decision.allowed:
            if named.kind is not InboundKind.TCP:
                forbidden = not decision.allowed
                yield Part(
                    names.CLUSTER_TYPE,
                    name,
                    forbidden,
                    partial(cluster.answering_cluster, name, forbidden=forbidden),
                )
            return
        port = decision.port
        endpoints = names.inbound_endpoints(decision.service, port.port)
        yield Part(
            names.CLUSTER_TYPE,
            name,
            (endpoints, port.app),
            partial(cluster.local_cluster, name, port.app, endpoints=endpoints),
        )
        hosts = ready_hosts(view.exports[decision.service].endpoints, port.port)
        placement = (hosts,) if hosts else ()
        yield Part(names.ENDPOINT_TYPE, endpoints, hosts, partial(endpoint.assignment, endpoints, placement))

    def _is_odd(self, name: str, named: Inbound, *, served: bool) -> bool:
        """Whether the authority is written in too odd a way to be `served`: each way costs a cluster, and there are any
        number of them. As it stands in the name of the service, alone or with the service's port, is always well."""
        host, _ = host_of(named.authority)
        if named.authority in (host, f"{host}:{named.sni[1:].partition('.')[0]}"):
            return False
        key = (named.trust_domain, named.sni)
        known = self._odd.get(key, set())
        if not served:
            known.discard(name)
            if not known:
                self._odd.pop(key, None)
            return True
        if name not in known and len(known) >= ODD_NAMES:
            return True
        self._odd.setdefault(key, known).add(name)
        return False

    def _inbound_parts(self) -> Iterator[Part]:
        config = self._config
        yield Part(
            names.LISTENER_TYPE,
            names.INBOUND,
            config,
            lambda: inbound.inbound_listener(
                config.address, config.port, cluster=config.cluster, zones=routes.zones(suffix=config.suffix)
            ),
        )
        yield Part(names.LISTENER_TYPE, names.INBOUND_TCP, (), lambda: listener.tcp_to_exported(names.INBOUND_TCP))
        yield Part(names.CLUSTER_TYPE, names.INBOUND_TCP, (), lambda: cluster.internal_cluster(names.INBOUND_TCP))

    def _update_import(self, view: View, name: ServiceName, *, force: bool) -> None:
        service = view.imports.get(name)
        if service is self._imports.get(name) and not force:
            return
        if service is None:
            self._imports.pop(name, None)
            self._ledger.drop(name)
        else:
            self._imports[name] = service
            self._ledger.write(name, self._egress_parts(view, service))

    def _egress_parts(self, view: View, service: Import) -> Iterator[Part]:
        config = self._config
        locality = view.own.locality if view.own is not None else Locality()
        for port in outbound.tcp_ports(service):
            at = service.gateway_ports.get(port.port)
            if at is None:
                continue
            own = names.outbound_cluster(service.name, port.port)
            target = outbound.Target(
                service=service.name,
                port=port,
                domains=routes.names(service.name, suffix=config.suffix, pinned=None),
                remotes=outbound.remotes(service, port.port, view.peers, None),
                affinity=service.session_affinity == "ClientIP",
                cluster=own,
                endpoints=own,
            )
            placement = place(service, port.port, peers=view.peers, locality=locality)
            checked = self._ledger.checks.begun(service.name, own, placement)
            yield from outbound.parts(target, placement, checked=checked)
            yield outbound.listener_part(
                names.egress_listener(service.name, port.port), config.egress_address, at, target
            )


def _service(named: Inbound | None) -> ServiceName | None:
    """The service that a name means, exported or not; None where it means none."""
    parsed = names.parse_server_name(named.sni) if named is not None else None
    return parsed.name if parsed is not None else None


def build(view: View, config: GatewayConfig, *, asked: Collection[str]) -> dict[str, list[tuple[str, Message]]]:
    """All resources of a gateway's Envoy: type URL → [(name, message)], sorted."""
    builder = Builder(config)
    return settled(lambda: builder.update(view, asked=asked))
