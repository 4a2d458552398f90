"""What a federation of the harness consists of: clusters with their place, and the links between them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from federation.model.service import Locality


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """One cluster: its name and where it stands."""

    name: str
    locality: Locality


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Clusters and links of one federation; `federation` is its domain."""

    federation: str
    clusters: tuple[ClusterSpec, ...]
    links: tuple[tuple[str, str], ...]

    @property
    def names(self) -> list[str]:
        return [spec.name for spec in self.clusters]

    @classmethod
    def full_mesh(cls, federation: str, *clusters: ClusterSpec) -> Topology:
        """Every cluster linked with every other."""
        names = [c.name for c in clusters]
        return cls(federation=federation, clusters=clusters, links=tuple(combinations(names, 2)))


DEMO = Topology.full_mesh(
    "demo.isthmus",
    ClusterSpec(name="east", locality=Locality("eu", "eu-1")),
    ClusterSpec(name="west", locality=Locality("eu", "eu-2")),
    ClusterSpec(name="edge", locality=Locality("us", "us-1")),
)
"""The three clusters of the demo: west is in east's region and so the first to take over; edge is far away."""
