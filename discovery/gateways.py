"""Where peers reach the gateways of this cluster, if at all. Pure.

A gateway says its address itself; or `service`, where only the cluster knows it: what stands before the gateways, a
load balancer, is told by their Service (discovery.kube.gateway_service). Or it has none: nobody outside reaches it, and
workloads of its cluster call out through it all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from federation.model.cluster import VIA_SERVICE, Gateway, Problem

NO_INBOUND = "no_inbound"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What stands before the gateways. `ports`: what a gateway listens on → where it is reached; `reason`: why there
    is no address."""

    addresses: tuple[str, ...] = ()
    ports: Mapping[int, int]
    only_port: int = 0
    """Where every gateway is reached whose port is none of `ports`; 0: there are several, or none."""
    reason: str = ""

    def port(self, listening: int) -> int:
        """Where a gateway is reached that listens there; 0: nowhere."""
        return self.ports.get(listening, self.only_port)


def located(gateways: Mapping[str, Gateway], reach: Reach | None, before: Mapping[str, Gateway]) -> dict[str, Gateway]:
    """The gateways with the addresses that peers are told; empty for those that nobody outside reaches.

    Those that say `service` share its addresses out by name. `reach` None: the Service was not read yet, and who was
    reached `before` still is.
    """
    found, number = {}, 0
    for name, gateway in sorted(gateways.items()):
        if gateway.address == VIA_SERVICE:
            gateway, number = _before_service(gateway, reach, before.get(name), number), number + 1
        found[name] = gateway
    return found


def _before_service(gateway: Gateway, reach: Reach | None, before: Gateway | None, number: int) -> Gateway:
    if reach is None:
        known = before is not None and before.address not in ("", VIA_SERVICE)
        return replace(gateway, address=before.address, port=before.port) if known and before else nowhere(gateway)
    port = reach.port(gateway.port)
    if not reach.addresses or not port:
        return nowhere(gateway)
    return replace(gateway, address=reach.addresses[number % len(reach.addresses)], port=port)


def nowhere(gateway: Gateway) -> Gateway:
    """As one that peers do not reach."""
    return replace(gateway, address="")


def outbound_only(gateways: Iterable[Gateway]) -> bool:
    """Whether there are gateways and none that others reach: a cluster that calls, and is not called."""
    all_of_them = tuple(gateways)
    return bool(all_of_them) and not any(g.address for g in all_of_them)


def problems(
    said: Mapping[str, Gateway],
    gateways: Mapping[str, Gateway],
    *,
    exports: bool,
    service: str,
    reach: Reach | None,
) -> list[Problem]:
    """What keeps others from calling what is exported here. `said`: before they were `located`; `service`: the
    gateways' Service, empty where the settings name none."""
    found = []
    if why := _not_before(said, service, reach):
        found.append(Problem("gateway_service", service or "kubernetes.gateway_service", why))
    if exports and outbound_only(gateways.values()):
        detail = "no gateway of this cluster can be reached from outside: others see what it exports and cannot call it"
        found.append(Problem(NO_INBOUND, "gateways", detail))
    return found


def _not_before(said: Mapping[str, Gateway], service: str, reach: Reach | None) -> str:
    """Why the Service does not lead to the gateways that count on it; empty when it does, or none counts on it."""
    listening = {gateway.port for gateway in said.values() if gateway.address == VIA_SERVICE}
    if not listening:
        return ""
    if not service:
        return f"gateways have the address `{VIA_SERVICE}`, and no Service is named: set it in the agent's settings"
    if reach is None:
        return ""
    if not reach.addresses:
        return reach.reason
    missing = sorted(port for port in listening if not reach.port(port))
    return f"none of its ports leads to port {missing[0]} of the gateways" if missing else ""
