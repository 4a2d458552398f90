"""The way out for workloads without a sidecar: a listener per port of an import, and a cluster where somebody calls.

The listener is all that an import costs as long as nobody calls it. Envoy asks for its cluster with the first
connection (gateway.called); it then is what a sidecar has (federation.envoy.outbound).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from federation.envoy import names, outbound
from federation.envoy.ledger import Ledger, Part
from federation.model.ids import ServiceName
from federation.model.service import Import, Locality
from federation.model.view import View
from federation.policy import routes
from federation.policy.locality import place
from gateway.called import Called, Line


class Egress:
    """Writes the resources of imports into a ledger; those beyond `most_listeners` are left out."""

    def __init__(self, ledger: Ledger, called: Called, *, address: str, suffix: str, most_listeners: int) -> None:
        self._ledger, self._called = ledger, called
        self._address, self._suffix, self._most = address, suffix, most_listeners
        self._imports: dict[ServiceName, Import] = {}
        self._lines: dict[ServiceName, tuple[Line, ...]] = {}
        self._listening = 0
        self.left_out: set[ServiceName] = set()
        """Imports that have no listener, because there are too many."""

    @property
    def listening(self) -> int:
        """The number of listeners."""
        return self._listening

    def update(self, view: View, changed: Collection[ServiceName] | None, *, everything: bool) -> None:
        """`changed` imports may differ (None: any may); `everything`: what they depend on has changed, too."""
        before = self._listening
        looked_at = {*self._imports, *view.imports} if everything or changed is None else changed
        for name in looked_at:
            if everything or view.imports.get(name) is not self._imports.get(name):
                self._update(view, name)
        due = {owner.service for owner in self._ledger.checks.take_due() if isinstance(owner, Line)}
        for name in self._called.take_moved() | due:
            self._update(view, name)
        if self.left_out and self._listening < before:
            for name in sorted(self.left_out):
                self._update(view, name)

    def _update(self, view: View, name: ServiceName) -> None:
        service = view.imports.get(name)
        if service is None:
            self._imports.pop(name, None)
            self.left_out.discard(name)
        else:
            self._imports[name] = service
        targets = self._targets(view, service) if service is not None else {}
        old = self._lines.pop(name, ())
        others = self._listening - len(old)
        if others + len(targets) > self._most:
            self.left_out.add(name)
            targets = {}
        elif service is not None:
            self.left_out.discard(name)
        self._listening = others + len(targets)
        self._called.keep(name, {line.port for line in targets})
        for line in old:
            if line not in targets:
                self._ledger.drop(line)
        if service is None or not targets:
            self._ledger.drop(name)
            return
        self._lines[name] = tuple(targets)
        self._ledger.write(name, [self._listener(service, line, target) for line, target in targets.items()])
        for line, target in targets.items():
            if self._called.clusters(line):
                self._ledger.write(line, self._cluster_parts(view, service, line, target))
            else:
                self._ledger.drop(line)

    def _targets(self, view: View, service: Import) -> dict[Line, outbound.Target]:
        made = {}
        for port in outbound.tcp_ports(service):
            if port.port not in service.gateway_ports:
                continue
            line = Line(service.name, port.port)
            remotes = outbound.remotes(service, port.port, view.peers, None)
            made[line] = outbound.Target(
                service=service.name,
                port=port,
                domains=routes.names(service.name, suffix=self._suffix, pinned=None),
                remotes=remotes,
                affinity=service.session_affinity == "ClientIP",
                cluster=self._called.cluster(line),
                endpoints=names.outbound_endpoints(service.name, port.port, tls=bool(remotes)),
                aliases=service.aliases,
            )
        return made

    def _listener(self, service: Import, line: Line, target: outbound.Target) -> Part:
        name, at = names.egress_listener(line.service, line.port), service.gateway_ports[line.port]
        return outbound.listener_part(name, self._address, at, target, ask=True)

    def _cluster_parts(self, view: View, service: Import, line: Line, target: outbound.Target) -> Iterator[Part]:
        locality = view.own.locality if view.own is not None else Locality()
        placement = place(service, line.port, peers=view.peers, locality=locality)
        checks = self._ledger.checks
        if self._called.in_use(line):
            checked = checks.begun(line, target.endpoints, placement)
        else:
            checks.forget(line)  # only the last connections of a replaced listener are left
            checked = False
        for cluster in self._called.clusters(line):
            yield from outbound.parts(replace(target, cluster=cluster), placement, checked=checked)
