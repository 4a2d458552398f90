"""Where a call may go, in order: the placement of an import's port. Pure; the next module is federation.envoy.outbound.

The own cluster's ready endpoints come first, then the gateways of other clusters: in the same zone, in the same
region, elsewhere. A cluster that has nothing ready, or does not offer the port, is left out. Every gateway counts once,
with what its cluster's ready endpoints weigh shared out by the gateways' weights; those at one address are one.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from federation.model.cluster import Gateway, Peer
from federation.model.service import Backend, Endpoint, Import, Locality

_SCALE = 100
"""Weights are what the ready endpoints weigh together, times 100, so that few endpoints can be shared out between
several gateways."""
_MOST = 2**32 - 1
"""What the weights of a priority add up to: Envoy does it in 32 bits."""

_OWN_ZONE, _OWN_CLUSTER, _SAME_ZONE, _SAME_REGION, _ELSEWHERE = range(5)
_KEEPS_TO_ZONE = frozenset({"PreferClose", "PreferSameZone", "PreferSameNode"})


@dataclass(frozen=True, slots=True)
class Host:
    """An address that calls are sent to: a gateway of `cluster`, or (empty) an endpoint that is reached directly.

    An endpoint that proves `identity` is reached by mutual TLS, one without by plain text.
    """

    address: str
    port: int
    weight: int = 1
    cluster: str = ""
    identity: str = ""


Placement = tuple[tuple[Host, ...], ...]
"""Hosts by priority, the first one preferred."""


def place(
    service: Import,
    port: int,
    *,
    peers: Mapping[str, Peer],
    locality: Locality,
    pinned: str | None = None,
) -> Placement:
    """The placement of `service`:`port` for a caller in `locality`; `pinned`: that cluster only."""
    tiers: dict[int, list[Host]] = {}
    for backend in service.backends:
        if port not in backend.ports or (pinned is not None and backend.cluster != pinned):
            continue
        if backend.local:
            own = peers.get(backend.cluster)
            _place_local(backend, port, own, locality, service.traffic_distribution, tiers)
        elif (peer := peers.get(backend.cluster)) is not None:
            _place_remote(backend, peer, locality, tiers)
    return _distinct(tiers)


def ready_hosts(endpoints: Iterable[Endpoint], port: int, *, own: Peer | None = None) -> tuple[Host, ...]:
    """The endpoints that are ready, are not terminating and have the service port `port`; every address once.

    `own`: the cluster that they are in.
    """
    placement = _distinct({_OWN_CLUSTER: [_host(e, port) for e in endpoints if _usable(e, port, own)]})
    return placement[0] if placement else ()


def _place_local(
    backend: Backend, port: int, own: Peer | None, locality: Locality, distribution: str, tiers: dict[int, list[Host]]
) -> None:
    keeps_to_zone = distribution in _KEEPS_TO_ZONE and locality.zone != ""
    for endpoint in backend.endpoints:
        if not _usable(endpoint, port, own):
            continue
        near = keeps_to_zone and endpoint.locality == locality
        tier = _OWN_ZONE if near else _OWN_CLUSTER
        tiers.setdefault(tier, []).append(_host(endpoint, port))


def _place_remote(backend: Backend, peer: Peer, locality: Locality, tiers: dict[int, list[Host]]) -> None:
    weight = backend.weight
    gateways = [g for g in peer.gateways if _is_ip(g.address)]
    if not backend.ready or not gateways:
        return
    gateways = _doors([g for g in gateways if not g.draining] or gateways)
    by_tier: dict[int, list[Gateway]] = {}
    for gateway in gateways:
        by_tier.setdefault(_tier(gateway, peer, locality), []).append(gateway)
    for tier, members in by_tier.items():
        total = sum(g.weight for g in members)
        tiers.setdefault(tier, []).extend(
            Host(g.address, g.port, max(1, weight * _SCALE * g.weight // total), peer.cluster) for g in members
        )


def _doors(gateways: Iterable[Gateway]) -> list[Gateway]:
    """Every address once: those behind one load balancer are one gateway of all their weight, where they all are."""
    doors: dict[tuple[str, int], Gateway] = {}
    for gateway in gateways:
        at = (gateway.address, gateway.port)
        known = doors.get(at)
        if known is None:
            doors[at] = gateway
        else:
            weight, locality = known.weight + gateway.weight, _common(known.locality, gateway.locality)
            doors[at] = replace(known, weight=weight, locality=locality)
    return list(doors.values())


def _common(a: Locality, b: Locality) -> Locality:
    """The zone or the region of both; of no place where they have none in common."""
    if a.region != b.region:
        return Locality()
    return a if a.zone == b.zone else Locality(a.region)


def _tier(gateway: Gateway, peer: Peer, locality: Locality) -> int:
    where = gateway.locality if gateway.locality.region or gateway.locality.zone else peer.locality
    if not locality.region or where.region != locality.region:
        return _ELSEWHERE
    return _SAME_ZONE if locality.zone and where.zone == locality.zone else _SAME_REGION


def _distinct(tiers: Mapping[int, list[Host]]) -> Placement:
    """Priorities without gaps, every address once: Envoy drops the second host of an address in one cluster."""
    seen: set[tuple[str, int]] = set()
    placement: list[tuple[Host, ...]] = []
    for tier in sorted(tiers):
        hosts: list[Host] = []
        for host in sorted(tiers[tier], key=_by_address):
            if (host.address, host.port) not in seen:
                seen.add((host.address, host.port))
                hosts.append(host)
        if (total := sum(host.weight for host in hosts)) > _MOST:
            hosts = [replace(host, weight=max(1, host.weight * _MOST // (total + len(hosts)))) for host in hosts]
        if hosts:
            placement.append(tuple(hosts))
    return tuple(placement)


def _host(endpoint: Endpoint, port: int) -> Host:
    return Host(endpoint.address, endpoint.ports[port], weight=endpoint.weight, identity=endpoint.identity)


def _usable(endpoint: Endpoint, port: int, own: Peer | None) -> bool:
    return (
        endpoint.ready
        and not endpoint.terminating
        and port in endpoint.ports
        and _is_ip(endpoint.address)
        and (not endpoint.identity or (own is not None and own.vouches_for(endpoint.identity)))
    )


def _by_address(host: Host) -> tuple[str, str, int, bool, str]:
    """By address; of two that share one, who proves an identity goes before who does not."""
    return host.cluster, host.address, host.port, not host.identity, host.identity


@functools.lru_cache(maxsize=65536)
def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True
