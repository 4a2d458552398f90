"""A gateway's Envoy: view → resources. Pure, and incremental where it is asked to be.

What comes in is the view (federation.model.view) and the TCP callers that Envoy asked about; what leaves goes to
federation.xds by way of gateway.agent. Inbound, a connection's server name, its caller and each request's authority
have to agree (gateway.inbound); outbound ("egress") the same code runs as in a sidecar (federation.envoy.outbound).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.message import Message

from federation.envoy import cluster, endpoint, listener, names, outbound, tls
from federation.envoy.ledger import Changes, Ledger, Part, settled
from federation.model.cluster import Peer
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Export, Import, Locality, Protocol
from federation.model.view import View
from federation.policy import routes
from federation.policy.locality import place, ready_hosts
from gateway import inbound
from gateway.authz import admitted, granted_domains


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
        self._exports: dict[ServiceName, Export] = {}
        self._imports: dict[ServiceName, Import] = {}
        self._peers: dict[str, Peer] = {}
        self._ports: dict[ServiceName, tuple[inbound.ExportedPort, ...]] = {}
        self._hosts: dict[ServiceName, tuple[bytes, bytes]] = {}  # virtual hosts, serialised
        self._generation = 0
        """Rises when the virtual hosts change."""

    def update(
        self,
        view: View,
        *,
        tcp_pairs: Collection[str],
        changed: Collection[ServiceName] | None = None,
        identity: tls.Identity | None = None,
    ) -> Changes:
        """Bring the resources up to date and return what differs.

        `tcp_pairs` are the clusters "in-tcp/…" that Envoy asked for: those that are admitted come to exist. `changed`
        names the services whose export or import may differ from the last update (None: any may). `identity` replaces
        the one of the configuration (renewal).
        """
        ledger, config, view = self._ledger, self._config, outbound.believed(view)
        ledger.keep_secrets(identity or config.identity, view.peers.values())
        everything = view.peers != self._peers
        if everything:
            self._peers = dict(view.peers)
        if everything or changed is None:
            changed = {*self._exports, *self._imports, *view.exports, *view.imports}
        for name in changed:
            self._update_export(view, name, force=everything)
            self._update_import(view, name, force=everything)
        for owner in ledger.checks.take_due():
            if isinstance(owner, ServiceName):
                self._update_import(view, owner, force=True)
        ledger.write("tcp", self._tcp_parts(view, tcp_pairs))
        ledger.write("inbound", self._inbound_parts())
        return ledger.take()

    def _update_export(self, view: View, name: ServiceName, *, force: bool) -> None:
        export = view.exports.get(name)
        if export is self._exports.get(name) and not force:
            return
        if export is None:
            self._exports.pop(name, None)
            self._ledger.drop(("export", name))
        else:
            self._exports[name] = export
            self._ledger.write(("export", name), self._export_parts(export))
        self._update_hosts(name, export)

    def _export_parts(self, export: Export) -> Iterator[Part]:
        for port in export.ports:
            if port.protocol is not Protocol.TCP:
                continue
            name, app = names.inbound_cluster(export.name, port.port), port.app
            if app.is_http:
                yield Part(names.CLUSTER_TYPE, name, app, partial(cluster.local_cluster, name, app, endpoints=name))
            hosts = ready_hosts(export.endpoints, port.port)
            placement = (hosts,) if hosts else ()
            yield Part(names.ENDPOINT_TYPE, name, hosts, partial(endpoint.assignment, name, placement))

    def _update_hosts(self, name: ServiceName, export: Export | None) -> None:
        config = self._config
        ports = (
            ()
            if export is None
            else tuple(
                inbound.ExportedPort(
                    service=name,
                    port=port.port,
                    http=port.app.is_http,
                    sni=names.server_name(name, port.port, config.trust_domain),
                    admits=granted_domains(export, port.port, self._peers),
                )
                for port in export.ports
                if port.protocol is Protocol.TCP
            )
        )
        if ports == self._ports.get(name, ()):
            return
        self._generation += 1
        self._ports[name] = ports
        self._hosts.pop(name, None)
        if ports:
            domains = routes.exported_names(name, config.cluster, suffix=config.suffix)
            self._hosts[name] = (
                inbound.request_host(name, domains, ports).SerializeToString(deterministic=True),
                inbound.health_host(name, domains, ports).SerializeToString(deterministic=True),
            )
        else:
            del self._ports[name]

    def _inbound_parts(self) -> Iterator[Part]:
        config = self._config
        for index, name in enumerate((names.INBOUND, names.HEALTH)):
            yield Part(
                names.ROUTE_TYPE,
                name,
                self._generation,
                partial(self._configuration, name, index),
            )
        yield Part(
            names.LISTENER_TYPE,
            names.INBOUND,
            config,
            lambda: inbound.inbound_listener(config.address, config.port, cluster=config.cluster),
        )

        yield Part(names.LISTENER_TYPE, names.INBOUND_TCP, (), lambda: listener.tcp_to_exported(names.INBOUND_TCP))
        yield Part(names.CLUSTER_TYPE, names.INBOUND_TCP, (), lambda: cluster.internal_cluster(names.INBOUND_TCP))

    def _configuration(self, name: str, index: int) -> RouteConfiguration:
        return inbound.configuration(name, (self._hosts[service][index] for service in sorted(self._hosts)))

    def _tcp_parts(self, view: View, pairs: Collection[str]) -> Iterator[Part]:
        for pair in pairs:
            parsed = names.parse_inbound_tcp_cluster(pair)
            if parsed is None:
                continue
            decision = admitted(view, *parsed)
            if not decision.allowed or decision.service is None or decision.port is None or decision.port.app.is_http:
                continue  # HTTP goes through the header rules, or not at all
            endpoints = names.inbound_cluster(decision.service, decision.port.port)
            yield Part(
                names.CLUSTER_TYPE,
                pair,
                endpoints,
                partial(cluster.local_cluster, pair, AppProtocol.OPAQUE, endpoints=endpoints),
            )

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


def build(view: View, config: GatewayConfig, *, tcp_pairs: Collection[str]) -> dict[str, list[tuple[str, Message]]]:
    """All resources of a gateway's Envoy: type URL → [(name, message)], sorted."""
    builder = Builder(config)
    return settled(lambda: builder.update(view, tcp_pairs=tcp_pairs))
