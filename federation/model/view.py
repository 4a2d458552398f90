"""The immutable, merged catalog of one consumer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from federation.model.cluster import Peer
from federation.model.ids import ServiceName
from federation.model.service import Export, Import


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What one gateway or sidecar knows: the input of the pure functions that build its Envoy's configuration."""

    cluster: str = ""
    imports: Mapping[ServiceName, Import] = field(default_factory=dict)
    exports: Mapping[ServiceName, Export] = field(default_factory=dict)
    peers: Mapping[str, Peer] = field(default_factory=dict)

    @property
    def own(self) -> Peer | None:
        """The consumer's own cluster."""
        return self.peers.get(self.cluster)
