"""What goes over one delta stream, as far as it matters: requests, responses, and what the client refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from federation.xds import wire
from federation.xds.snapshot import Resource, TypeUrl


@dataclass(frozen=True, slots=True, kw_only=True)
class Nack:
    """A resource that the client refuses in this version."""

    kind: TypeUrl
    name: str
    version: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The parts of a DeltaDiscoveryRequest that matter."""

    kind: TypeUrl
    subscribe: Sequence[str] = ()
    unsubscribe: Sequence[str] = ()
    initial_versions: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What is to be written to the stream next."""

    kind: TypeUrl
    nonce: str
    put: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()
    generation: int = 0

    def encode(self) -> bytes:
        """The DeltaDiscoveryResponse."""
        return wire.response(
            kind=self.kind,
            nonce=self.nonce,
            put=self.put,
            removed=self.removed,
            system_version=str(self.generation),
        )
