"""Which addresses the Pods and Services of each cluster have: what its topology says, and picked where it does not."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

from clusters.topology import Topology
from clusters.topologyfile import parse_range
from federation.errors import InvalidInput

SHARED_PODS, SHARED_SERVICES = IPv4Network("10.244.0.0/16"), IPv4Network("10.96.0.0/16")
"""What clusters have that share their ranges on request: kind's own defaults."""
_PODS = tuple(IPv4Network(f"10.{n}.0.0/16") for n in range(130, 194))
_SERVICES = tuple(IPv4Network(f"10.{n}.0.0/16") for n in range(32, 96))
_NODE = 24
"""Prefix of what kubeadm gives to one node."""
_LEAST_SERVICES = 12
"""Prefix of the largest network of Services that an API server takes."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """Of one cluster."""

    pods: IPv4Network
    services: IPv4Network


def assign(topology: Topology, *, taken: Iterable[IPv4Network] = ()) -> Mapping[str, Ranges]:
    """Ranges by cluster, the same for the same topology. `taken`: networks of this machine that nobody may have.

    Raises InvalidInput: `cidr_overlap` where networks exclude each other, `invalid_topology` for one that is too small.
    """
    taken = tuple(taken)
    stated: list[IPv4Network] = []
    for spec in topology.clusters:
        nodes, where = spec.nodes, f"cluster {spec.name}"
        if nodes.pods:
            stated.append(_pods(parse_range(nodes.pods, what=f"{where}: pods"), nodes.workers, where))
        if nodes.services:
            stated.append(_services(parse_range(nodes.services, what=f"{where}: services"), where))
    pods, services = _free(_PODS, (*stated, *taken)), _free(_SERVICES, (*stated, *taken))
    shared = (SHARED_PODS, SHARED_SERVICES) if topology.overlap else (None, None)
    found: dict[str, Ranges] = {}
    for spec in topology.clusters:
        ranges = found[spec.name] = Ranges(
            IPv4Network(spec.nodes.pods) if spec.nodes.pods else shared[0] or next(pods),
            IPv4Network(spec.nodes.services) if spec.nodes.services else shared[1] or next(services),
        )
        _check(f"cluster {spec.name}", ranges, taken)
    if topology.flat:
        _check_flat(found)
    return found


def _free(candidates: tuple[IPv4Network, ...], used: tuple[IPv4Network, ...]) -> Iterator[IPv4Network]:
    yield from (one for one in candidates if not any(one.overlaps(other) for other in used))
    raise _overlap(f"no network of {candidates[0]} to {candidates[-1]} is left")


def _pods(pods: IPv4Network, workers: int, where: str) -> IPv4Network:
    room = 1 << (_NODE - pods.prefixlen) if pods.prefixlen <= _NODE else 0
    if room < 1 + workers:
        raise InvalidInput(
            f"{where}: pods {pods} is too small for {1 + workers} nodes",
            hint=f"each node takes a /{_NODE} of it",
            code="invalid_topology",
        )
    return pods


def _services(services: IPv4Network, where: str) -> IPv4Network:
    if not _LEAST_SERVICES <= services.prefixlen <= _NODE:
        raise InvalidInput(
            f"{where}: services {services} has a prefix out of range",
            hint=f"give one of /{_LEAST_SERVICES} to /{_NODE}",
            code="invalid_topology",
        )
    return services


def _check(where: str, ranges: Ranges, taken: Iterable[IPv4Network]) -> None:
    pods, services = ranges.pods, ranges.services
    if pods.overlaps(services):
        raise _overlap(f"{where}: its pods {pods} overlap with its services {services}")
    for other in taken:
        for one in (pods, services):
            if one.overlaps(other):
                raise _overlap(f"{where}: {one} overlaps with the network {other} of its nodes")


def _check_flat(found: Mapping[str, Ranges]) -> None:
    """In one flat network no address of a Pod may be another's, and none a Service's where the Pod is called from."""
    names = list(found)
    for index, a in enumerate(names):
        for b in names[index + 1 :]:
            for x, y in ((found[a].pods, found[b].pods), (found[a].pods, found[b].services)):
                if x.overlaps(y):
                    raise _overlap(f"flat: pods {x} of {a} overlap with {y} of {b}")
            if found[b].pods.overlaps(found[a].services):
                raise _overlap(f"flat: pods {found[b].pods} of {b} overlap with {found[a].services} of {a}")


def _overlap(message: str) -> InvalidInput:
    return InvalidInput(
        message, hint="give networks that are apart, or leave them out: then they are", code="cidr_overlap"
    )


def networks(texts: Iterable[str]) -> list[IPv4Network]:
    """Those of `texts` that are networks of IPv4."""
    return [n for n in map(ipaddress.ip_network, texts) if isinstance(n, IPv4Network)]
