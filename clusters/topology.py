"""What a federation of the harness consists of: clusters with their place and their services, and their links."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

from federation.model.service import Locality


@dataclass(frozen=True, slots=True)
class Offer:
    """A service that a cluster exports, with one copy; `app`: what answers ("http", "tcp")."""

    name: str
    port: int
    app: str


ECHO, KV = Offer("echo", 8080, "http"), Offer("kv", 9000, "tcp")
STOCK = Offer("stock", 8080, "http")
"""What the datacenter of the demo offers, and the farthest of its other clusters, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """What a cluster of containers has beside its control plane; the other grounds have no nodes."""

    workers: int = 0
    pods: str = ""
    """CIDR of its Pods; empty: one is picked (see clusters.kind.ranges)."""
    services: str = ""
    """CIDR of its Services; empty: one is picked."""
    nat: bool = False
    """It is behind NAT: it opens connections to others, and nobody outside of it opens one to its nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """One cluster: its name, where it stands, what it offers, whether Consul describes it, and its nodes."""

    name: str
    locality: Locality
    offers: tuple[Offer, ...] = (ECHO, KV)
    consul: bool = False
    nodes: NodeSpec = NodeSpec()


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Clusters and links of one federation; `federation` is its domain, `name` what clusters of containers go by."""

    federation: str
    clusters: tuple[ClusterSpec, ...]
    links: tuple[tuple[str, str], ...]
    name: str = ""
    registry: str = ""
    """The cluster in which the registry runs, where it runs in one; empty: the first."""
    overlap: bool = False
    """Clusters that do not say their ranges all have the same."""
    flat: bool = False
    """Pods reach the Pods of other clusters without a gateway."""

    @property
    def names(self) -> list[str]:
        return [spec.name for spec in self.clusters]

    @property
    def home(self) -> str:
        """The cluster with the registry."""
        return self.registry or self.clusters[0].name

    @property
    def datacenters(self) -> list[str]:
        """The clusters that Consul describes."""
        return [spec.name for spec in self.clusters if spec.consul]

    @classmethod
    def full_mesh(cls, federation: str, *clusters: ClusterSpec, name: str = "", overlap: bool = False) -> Topology:
        """Every cluster linked with every other."""
        names = [c.name for c in clusters]
        links = tuple(combinations(names, 2))
        return cls(federation=federation, clusters=clusters, links=links, name=name, overlap=overlap)


EAST = ClusterSpec(name="east", locality=Locality("eu", "eu-1"))
WEST = ClusterSpec(name="west", locality=Locality("eu", "eu-2"))
EDGE = ClusterSpec(name="edge", locality=Locality("us", "us-1"))
DC1 = ClusterSpec(name="dc1", locality=Locality("eu", "eu-3"), offers=(STOCK,), consul=True)

DEMO = Topology.full_mesh("demo.isthmus", EAST, WEST, EDGE)
"""The three clusters of the demo: west is in east's region and so the first to take over; edge is far away."""

DEMO_WITH_CONSUL = Topology.full_mesh("demo.isthmus", EAST, WEST, replace(EDGE, offers=(*EDGE.offers, STOCK)), DC1)
"""The same with a Consul datacenter in east's region, whose one service edge has, too."""
