"""Topologies by name and from files: what `--topology` and `--kind` of the harness, and the mark of a test, mean.

Arrives: a name, a number or a YAML file (docs/harness.md). Leaves: a `Topology` in which every name is a name.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Literal

import msgspec

from clusters.topology import EAST, ECHO, EDGE, KV, WEST, ClusterSpec, NodeSpec, Offer, Topology
from federation import settings
from federation.errors import InvalidInput, InvalidSettings
from federation.model.ids import parse_domain, parse_label, parse_port
from federation.model.service import Locality

FEDERATION = "kind.isthmus"
MOST = 16
"""Clusters of one topology."""
MOST_WORKERS = 8

_NAT = replace(EDGE, nodes=NodeSpec(nat=True))

NAMED: Mapping[str, Topology] = {
    one.name: one
    for one in (
        Topology.full_mesh(FEDERATION, EAST, WEST, name="two-kind", overlap=True),
        Topology.full_mesh(FEDERATION, EAST, WEST, EDGE, name="three-kind"),
        Topology.full_mesh(FEDERATION, EAST, _NAT, name="nat-kind"),
    )
}
"""What has a name: two clusters of one region with the same ranges, which whatever passes a gateway does not mind; a
third far away; one behind NAT, with ranges of its own, so that the two can be made one flat network."""


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Offer(_Strict, frozen=True, kw_only=True):
    name: str
    port: int
    app: Literal["http", "tcp"] = "http"


class _Cluster(_Strict, frozen=True, kw_only=True):
    name: str
    region: str = ""
    zone: str = ""
    offers: list[_Offer] | None = None
    consul: bool = False
    workers: int = 0
    pods: str = ""
    services: str = ""
    nat: bool = False


class _File(_Strict, frozen=True, kw_only=True):
    clusters: list[_Cluster]
    name: str = ""
    federation: str = FEDERATION
    links: Literal["all"] | list[tuple[str, str]] = "all"
    registry: str = ""
    overlap: bool = False
    flat: bool = False


def find(text: str) -> Topology:
    """The topology of that name, or the one in the file of that path.

    Raises InvalidInput, InvalidName or InvalidSettings with one line that names the key.
    """
    if text in NAMED:
        return NAMED[text]
    path = Path(text)
    if not path.exists() and "/" not in text and path.suffix not in (".yaml", ".yml"):
        raise InvalidInput(
            f"there is no topology {text!r}, and no file of that name",
            hint=f"give a file, or one of {', '.join(NAMED)}",
            code="no_topology",
        )
    return load(path)


def load(path: Path) -> Topology:
    """Read a file; its name is the topology's unless it has a `name`. Raises InvalidInput and what is one."""
    file = settings.load(path, _File)
    try:
        return check(_topology(file, file.name or path.stem.lower()))
    except InvalidSettings:
        raise
    except InvalidInput as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint, code=error.error_code) from error


def numbered(count: int, *, overlap: bool = False) -> Topology:
    """`count` clusters, all linked: east, west, edge, then c4, c5 and so on. Raises InvalidInput."""
    if not 1 <= count <= MOST:
        raise InvalidInput(f"{count} clusters are out of range", hint=f"give 1 to {MOST}", code="invalid_topology")
    others = (ClusterSpec(name=f"c{n}", locality=Locality(f"r{n}", f"r{n}-1")) for n in range(4, count + 1))
    clusters = [EAST, WEST, EDGE, *others][:count]
    name = f"kind{count}-overlap" if overlap else f"kind{count}"
    return Topology.full_mesh(FEDERATION, *clusters, name=name, overlap=overlap)


def check(topology: Topology) -> Topology:
    """`topology` if all of it can be meant; raises InvalidInput (`invalid_topology`) or InvalidName."""
    parse_label(topology.name, what="topology")
    parse_domain(topology.federation, what="federation")
    if not 1 <= len(topology.clusters) <= MOST:
        raise _invalid(f"{len(topology.clusters)} clusters", f"give 1 to {MOST}")
    for spec in topology.clusters:
        _check_cluster(spec)
    for name, count in Counter(topology.names).items():
        if count > 1:
            raise _invalid(f"{count} clusters are named {name}", "each cluster needs a name of its own")
    _check_links(topology)
    if topology.registry and topology.registry not in topology.names:
        raise _invalid(f"registry: there is no cluster {topology.registry}", f"one of {', '.join(topology.names)}")
    home = next(spec for spec in topology.clusters if spec.name == topology.home)
    if home.nodes.nat and len(topology.clusters) > 1:
        raise _invalid(
            f"the registry's cluster {home.name} is behind NAT: no other could reach it",
            "name another cluster as `registry`",
        )
    if topology.flat and topology.overlap:
        raise _invalid("flat and overlap exclude each other", "Pods with the same addresses cannot reach each other")
    return topology


def _check_cluster(spec: ClusterSpec) -> None:
    parse_label(spec.name, what="cluster")
    where = f"cluster {spec.name}"
    for key, text in (("pods", spec.nodes.pods), ("services", spec.nodes.services)):
        if text:
            parse_range(text, what=f"{where}: {key}")
    if not 0 <= spec.nodes.workers <= MOST_WORKERS:
        raise _invalid(f"{where}: workers is {spec.nodes.workers}", f"give 0 to {MOST_WORKERS}")
    for name, count in Counter(offer.name for offer in spec.offers).items():
        if count > 1:
            raise _invalid(f"{where}: {name} is offered {count} times", "each offer needs a name of its own")
    for offer in spec.offers:
        parse_label(offer.name, what=f"{where}: offer")
        parse_port(offer.port, what=f"{where}: {offer.name}: port")


def parse_range(text: str, *, what: str) -> ipaddress.IPv4Network:
    """The network that `text` is, written by its first address; raises InvalidInput naming `what`."""
    try:
        found = ipaddress.ip_network(text)
    except ValueError:
        raise _invalid(f"{what}: {text!r} is no network", "write it like 10.10.0.0/16") from None
    if not isinstance(found, ipaddress.IPv4Network):
        raise _invalid(f"{what}: {text} is of IPv6", "the harness gives its clusters IPv4 networks")
    return found


def _check_links(topology: Topology) -> None:
    seen: set[frozenset[str]] = set()
    for a, b in topology.links:
        for name in (a, b):
            if name not in topology.names:
                raise _invalid(f"link {a} - {b}: there is no cluster {name}", f"one of {', '.join(topology.names)}")
        if a == b:
            raise _invalid(f"link {a} - {b}: a cluster is not linked with itself", "name two clusters")
        if frozenset((a, b)) in seen:
            raise _invalid(f"link {a} - {b} is there twice", "take one out")
        seen.add(frozenset((a, b)))


def _topology(file: _File, name: str) -> Topology:
    clusters = tuple(map(_cluster, file.clusters))
    names = [spec.name for spec in clusters]
    return Topology(
        federation=file.federation,
        clusters=clusters,
        links=tuple(combinations(names, 2)) if file.links == "all" else tuple(file.links),
        name=name,
        registry=file.registry,
        overlap=file.overlap,
        flat=file.flat,
    )


def _cluster(one: _Cluster) -> ClusterSpec:
    offers = (ECHO, KV) if one.offers is None else tuple(Offer(o.name, o.port, o.app) for o in one.offers)
    return ClusterSpec(
        name=one.name,
        locality=Locality(one.region, one.zone),
        offers=offers,
        consul=one.consul,
        nodes=NodeSpec(workers=one.workers, pods=one.pods, services=one.services, nat=one.nat),
    )


def _invalid(message: str, hint: str) -> InvalidInput:
    return InvalidInput(message, hint=hint, code="invalid_topology")
