"""A sidecar's Envoy: view and names in use → resources. Pure, and incremental where it is asked to be.

What comes in is the view (federation.model.view) and the uses that DNS look-ups made (sidecar.demand); what leaves goes
to federation.xds by way of sidecar.agent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from google.protobuf.message import Message

from federation.envoy import names, outbound, redirect, tls
from federation.envoy.ledger import Changes, Ledger, Part, settled
from federation.model.cluster import Peer
from federation.model.ids import ServiceName
from federation.model.service import Import, Locality
from federation.model.view import View
from federation.policy import routes
from federation.policy.locality import place
from sidecar.build import inbound
from sidecar.build.inbound import Inbound, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A name in use with its virtual address; `pinned`: the cluster that a pinned name means."""

    name: ServiceName
    vip: str
    pinned: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarConfig:
    """What is fixed for a sidecar. `way` is how calls reach it."""

    way: Literal["loopback", "redirect"]
    cluster: str
    suffix: str = "global"
    identity: tls.Identity
    locality: Locality = Locality()
    outbound_address: str = "127.0.0.1"
    outbound_port: int = 15001
    http_range: str = "240.72.0.0/13"
    tcp_range: str = "240.64.0.0/13"
    inbound: Inbound | None = None


class Builder:
    """Keeps track of what it built: an update costs what changed. One per Envoy. `finish`: see Ledger."""

    def __init__(self, config: SidecarConfig, *, finish: Callable[[str, Message], Any] | None = None) -> None:
        self._config = config
        self._ledger = Ledger(finish)
        self._uses: dict[Use, Import] = {}
        self._peers: dict[str, Peer] = {}
        self._given: dict[ServiceName, tuple[Use, ...]] = {}
        self._bound: dict[Use, tuple[redirect.Bound, ...]] = {}
        self._fragments: dict[Use, redirect.Fragment] = {}
        self._bound_anew = True

    def update(
        self,
        view: View,
        uses: Mapping[ServiceName, Sequence[Use]],
        *,
        changed: Collection[ServiceName] | None = None,
        identity: tls.Identity | None = None,
        workloads: Sequence[Workload] = (),
    ) -> Changes:
        """Bring the resources up to date and return what differs.

        `uses` are all of them; `changed` names the services whose import or uses may differ from the last update (None:
        any may); `identity` replaces the one of the configuration (renewal). `workloads` are what is served to others,
        where the configuration says where.
        """
        ledger, config, view = self._ledger, self._config, outbound.believed(view)
        ledger.keep_secrets(identity or config.identity, view.peers.values())
        if view.peers != self._peers:
            self._peers = dict(view.peers)
            self._uses.clear()  # whom a service can be reached through is in every one of them
            changed = None
        due = ledger.checks.take_due()
        looked_at = (
            {*self._given, *uses} if changed is None else {*changed, *(u.name for u in due if isinstance(u, Use))}
        )
        for name in sorted(looked_at):
            self._take_uses(name, tuple(uses.get(name, ())))
            service = view.imports.get(name)
            for use in self._given.get(name, ()):
                if service is None:
                    self._drop(use)
                elif service is not self._uses.get(use) or use in due:
                    self._uses[use] = service
                    ledger.write(use, self._parts(view, use, service))
        if config.way == "redirect":
            self._write_redirect()
        if config.inbound is not None:
            ledger.write("inbound", self._inbound_parts(view, config.inbound, workloads))
        return ledger.take()

    def _inbound_parts(self, view: View, at: Inbound, workloads: Sequence[Workload]) -> Iterator[Part]:
        own = view.own
        if own is not None and own.verifiable:  # before, nobody could prove anything
            yield from inbound.parts(
                workloads,
                at,
                cluster_name=own.cluster,
                trust_domain=own.trust_domain,
                suffix=self._config.suffix,
            )

    def _take_uses(self, name: ServiceName, given: tuple[Use, ...]) -> None:
        for use in self._given.get(name, ()):
            if use not in given:
                self._drop(use)
        if given:
            self._given[name] = given
        else:
            self._given.pop(name, None)

    def _drop(self, use: Use) -> None:
        self._uses.pop(use, None)
        self._bind(use, ())
        self._ledger.drop(use)

    def _bind(self, use: Use, bound: tuple[redirect.Bound, ...]) -> None:
        if self._bound.get(use, ()) == bound:
            return
        self._bound_anew = True
        if bound:
            self._bound[use], self._fragments[use] = bound, redirect.fragment(bound)
        else:
            del self._bound[use], self._fragments[use]

    def _parts(self, view: View, use: Use, service: Import) -> Iterator[Part]:
        config = self._config
        made = tuple(targets(view, use, service, config))
        if config.way == "redirect":
            self._bind(use, tuple(redirect.Bound(use.vip, target) for target in made))
        for target in made:
            placement = place(service, target.port.port, peers=view.peers, locality=config.locality, pinned=use.pinned)
            checked = self._ledger.checks.begun(use, target.endpoints, placement)
            yield from outbound.parts(target, placement, checked=checked)
            if config.way == "loopback":
                yield outbound.listener_part(
                    names.outbound_listener(use.vip, target.port.port), use.vip, target.port.port, target
                )

    def _write_redirect(self) -> None:
        config = self._config
        if not self._bound_anew:
            return
        self._bound_anew = False
        fragments = tuple(self._fragments[use] for use in sorted(self._fragments, key=_order))
        mixed = tuple(sorted(port for f in fragments for port in f.mixed))
        self._ledger.write(
            "outbound",
            [
                Part(names.ROUTE_TYPE, names.OUTBOUND, fragments, lambda: redirect.routes(fragments)),
                Part(
                    names.LISTENER_TYPE,
                    names.OUTBOUND,
                    mixed,
                    lambda: redirect.outbound_listener(
                        config.outbound_address,
                        config.outbound_port,
                        http_range=config.http_range,
                        tcp_range=config.tcp_range,
                        mixed=mixed,
                    ),
                ),
            ],
        )


def _order(use: Use) -> tuple[ServiceName, str, str]:
    return use.name, use.pinned or "", use.vip


def by_service(uses: Iterable[Use]) -> dict[ServiceName, list[Use]]:
    """The uses of each service."""
    found: dict[ServiceName, list[Use]] = {}
    for use in uses:
        found.setdefault(use.name, []).append(use)
    return found


def build(view: View, uses: Collection[Use], config: SidecarConfig) -> dict[str, list[tuple[str, Message]]]:
    """All resources of a sidecar's Envoy: type URL → [(name, message)], sorted."""
    builder = Builder(config)
    given = by_service(uses)
    return settled(lambda: builder.update(view, given))


def targets(view: View, use: Use, service: Import, config: SidecarConfig) -> Iterator[outbound.Target]:
    """A use's ports."""
    domains = routes.names(use.name, suffix=config.suffix, pinned=use.pinned)
    for port in outbound.tcp_ports(service):
        remotes = outbound.remotes(service, port.port, view.peers, use.pinned)
        own = names.outbound_cluster(use.name, port.port, use.pinned)
        yield outbound.Target(
            service=use.name,
            port=port,
            domains=domains,
            remotes=remotes,
            affinity=service.session_affinity == "ClientIP",
            cluster=own if config.way == "loopback" else names.vip_cluster(use.vip, port.port),
            endpoints=names.outbound_endpoints(use.name, port.port, use.pinned, tls=bool(remotes)),
        )
