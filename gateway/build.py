"""A gateway's Envoy: view → resources. Pure, and incremental where it is asked to be.

What comes in is the view (federation.model.view) and the clusters that Envoy asked for; what leaves goes to
federation.xds by way of gateway.agent. Inbound, a cluster's name holds who calls, the connection's server name and the
request's authority: it leads to the endpoints when they agree with each other and with a grant, and to a refusal
otherwise. Nothing is held for an export that nobody uses. Outbound: gateway.egress.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from google.protobuf.message import Message

from federation.envoy import cluster, endpoint, listener, names, outbound, tls
from federation.envoy.cluster import Answer
from federation.envoy.ledger import Changes, Ledger, Part, settled
from federation.envoy.names import Inbound, InboundKind
from federation.model.cluster import Peer
from federation.model.ids import ServiceName
from federation.model.service import Export, Port
from federation.model.view import View
from federation.policy import routes
from federation.policy.locality import ready_hosts
from gateway import inbound
from gateway.authz import admitted, host_of, is_name
from gateway.called import Called
from gateway.egress import Egress

ODD_NAMES = 8
"""Ways to write an authority (another port, upper case) that are served for a caller's trust domain and server name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """What is fixed for a gateway. Peers reach it at `address`:`port`; workloads of its cluster at `egress_address`, on
    `most_listeners` ports at most."""

    cluster: str
    trust_domain: str
    suffix: str = "global"
    address: str
    port: int
    identity: tls.Identity
    egress_address: str = "127.0.0.1"
    most_listeners: int = 65_535


class Builder:
    """Keeps track of what it built: an update costs what changed. One per Envoy.

    `called` tells which imports are called from here; `finish`: see Ledger.
    """

    def __init__(
        self,
        config: GatewayConfig,
        *,
        called: Called | None = None,
        finish: Callable[[str, Message], Any] | None = None,
    ) -> None:
        self._config = config
        self._ledger = Ledger(finish)
        self.egress = Egress(
            self._ledger,
            called if called is not None else Called(),
            address=config.egress_address,
            suffix=config.suffix,
            most_listeners=config.most_listeners,
        )
        self._peers: dict[str, Peer] = {}
        self._asked: frozenset[str] = frozenset()
        self._silent: frozenset[str] = frozenset()
        self._named: dict[ServiceName | None, dict[str, Inbound]] = {}  # what was asked for, by the service it means
        self._moved: dict[str, bool] = {}
        self._odd: dict[tuple[str, str], set[str]] = {}

    def update(
        self,
        view: View,
        *,
        asked: frozenset[str],
        silent: frozenset[str] = frozenset(),
        changed: Collection[ServiceName] | None = None,
        identity: tls.Identity | None = None,
    ) -> Changes:
        """Bring the resources up to date and return what differs.

        `asked` are the clusters "in-…" that Envoy asked for (the same object if none are new): each comes to exist, and
        says by what it is whether its caller is admitted; but those that are `silent` only while they are served.
        `changed` names the services whose export or import may differ from the last update (None: any may). `identity`
        replaces the one of the configuration (renewal).
        """
        ledger, view = self._ledger, outbound.believed(view)
        ledger.keep_secrets(identity or self._config.identity, view.peers.values())
        turned, self._silent = silent ^ self._silent if silent is not self._silent else (), silent
        everything, regrouped = view.peers != self._peers, _domains(view.peers) != _domains(self._peers)
        if everything:
            self._peers = dict(view.peers)
        for name in list(self._named) if regrouped or changed is None else changed:
            for cluster_name, named in self._named.get(name, {}).items():
                self._update_named(view, cluster_name, named)
        for cluster_name in sorted(turned):
            meant = names.parse_inbound_cluster(cluster_name)
            if meant is not None and cluster_name in self._named.get(_service(meant), ()):
                self._update_named(view, cluster_name, meant)
        self.egress.update(view, changed, everything=everything)
        if asked is not self._asked:
            self._follow(view, asked)
        ledger.write("inbound", self._inbound_parts())
        return ledger.take()

    def take_moved(self) -> dict[str, bool]:
        """What was asked for and came to be served (or is not any more) since this was last called."""
        moved, self._moved = self._moved, {}
        return moved

    def _follow(self, view: View, asked: frozenset[str]) -> None:
        """Envoy asks for these, and for no others any more."""
        added = asked - self._asked
        if len(asked) - len(added) != len(self._asked):  # another look at all of them only where some are gone
            for gone in sorted(self._asked - asked):
                self._forget(gone)
        for new in sorted(added):
            named = names.parse_inbound_cluster(new)
            if named is not None:
                self._named.setdefault(_service(named), {})[new] = named
                self._update_named(view, new, named)
        self._asked = asked

    def _forget(self, cluster_name: str) -> None:
        named = names.parse_inbound_cluster(cluster_name)
        if named is None:
            return
        self._ledger.drop(cluster_name)
        self._moved.pop(cluster_name, None)
        self._is_odd(cluster_name, named, served=False)
        service = _service(named)
        del self._named[service][cluster_name]
        if not self._named[service]:
            del self._named[service]

    def _update_named(self, view: View, name: str, named: Inbound) -> None:
        """`name` stands for the local endpoints of an exported port, or for an answer by Envoy itself.

        A refusal is a cluster, too: once xDS has refused a name, Envoy asks no more, and each request waits until its
        time is up. That is what happens to silent ones.
        """
        decided = self._decide(view, name, named)
        if isinstance(decided, Answer):
            self._moved[name] = decided is Answer.READY
            if name in self._silent and not self._moved[name]:
                self._ledger.drop(name)
                return
            made = partial(cluster.answering_cluster, name, decided)
            self._ledger.write(name, [Part(names.CLUSTER_TYPE, name, decided, made)])
            return
        self._moved[name] = True
        export, port = decided
        hosts = ready_hosts(export.endpoints, port.port, own=view.own)
        remotes = outbound.own_remotes(export.endpoints, port.port, view.own)
        endpoints = names.inbound_endpoints(export.name, port.port, tls=bool(remotes))
        placement = (hosts,) if hosts else ()
        local = partial(
            cluster.local_cluster, name, export.name, port.port, port.app, endpoints=endpoints, remotes=remotes
        )
        self._ledger.write(
            name,
            [
                Part(names.CLUSTER_TYPE, name, (endpoints, port.app, remotes), local),
                Part(names.ENDPOINT_TYPE, endpoints, hosts, partial(endpoint.assignment, endpoints, placement)),
            ],
        )

    def _decide(self, view: View, name: str, named: Inbound) -> tuple[Export, Port] | Answer:
        decision = admitted(view, named.sni, named.trust_domain)
        export, port = decision.export, decision.port
        if export is None or port is None:
            return Answer.MISDIRECTED
        if named.kind is InboundKind.HEALTH:
            return Answer.READY if decision.allowed else Answer.FORBIDDEN
        if port.app.is_http != (named.kind is InboundKind.HTTP):
            return Answer.MISDIRECTED  # HTTP goes through the header rules, or not at all
        if named.kind is InboundKind.HTTP and not is_name(
            named.authority, routes.exported_names(export.name, self._config.cluster, suffix=self._config.suffix)
        ):
            return Answer.MISDIRECTED
        if not decision.allowed:
            return Answer.FORBIDDEN
        return Answer.MISDIRECTED if self._is_odd(name, named, served=True) else (export, port)

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


def _domains(peers: Mapping[str, Peer]) -> dict[str, str]:
    return {name: peer.trust_domain if peer.verifiable else "" for name, peer in peers.items()}


def _service(named: Inbound) -> ServiceName | None:
    """The service that a name means, exported or not; None where it means none."""
    parsed = names.parse_server_name(named.sni)
    return parsed.name if parsed is not None else None


def build(view: View, config: GatewayConfig, *, asked: Collection[str]) -> dict[str, list[tuple[str, Message]]]:
    """All resources of a gateway's Envoy: type URL → [(name, message)], sorted."""
    called, frozen = Called(), frozenset(asked)
    called.ask(asked)
    builder = Builder(config, called=called)
    return settled(lambda: builder.update(view, asked=frozen))
