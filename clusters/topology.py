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
class ClusterSpec:
    """One cluster: its name, where it stands, what it offers, and whether Consul describes it."""

    name: str
    locality: Locality
    offers: tuple[Offer, ...] = (ECHO, KV)
    consul: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Clusters and links of one federation; `federation` is its domain."""

    federation: str
    clusters: tuple[ClusterSpec, ...]
    links: tuple[tuple[str, str], ...]

    @property
    def names(self) -> list[str]:
        return [spec.name for spec in self.clusters]

    @property
    def datacenters(self) -> list[str]:
        """The clusters that Consul describes."""
        return [spec.name for spec in self.clusters if spec.consul]

    @classmethod
    def full_mesh(cls, federation: str, *clusters: ClusterSpec) -> Topology:
        """Every cluster linked with every other."""
        names = [c.name for c in clusters]
        return cls(federation=federation, clusters=clusters, links=tuple(combinations(names, 2)))


EAST = ClusterSpec(name="east", locality=Locality("eu", "eu-1"))
WEST = ClusterSpec(name="west", locality=Locality("eu", "eu-2"))
EDGE = ClusterSpec(name="edge", locality=Locality("us", "us-1"))
DC1 = ClusterSpec(name="dc1", locality=Locality("eu", "eu-3"), offers=(STOCK,), consul=True)

DEMO = Topology.full_mesh("demo.isthmus", EAST, WEST, EDGE)
"""The three clusters of the demo: west is in east's region and so the first to take over; edge is far away."""

DEMO_WITH_CONSUL = Topology.full_mesh("demo.isthmus", EAST, WEST, replace(EDGE, offers=(*EDGE.offers, STOCK)), DC1)
"""The same with a Consul datacenter in east's region, whose one service edge has, too."""
