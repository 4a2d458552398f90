"""Who is admitted to what: the reference that Envoy's configuration is tested against, and the decision for TCP.

Default deny: an exported port admits the clusters that a grant names, and no others; the own cluster needs one, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from federation.errors import InvalidName
from federation.model.cluster import Peer
from federation.model.ids import ServiceName, SpiffeId
from federation.model.service import Export, Port
from federation.model.view import View
from gateway.sni import exported_port


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a caller is admitted, why, and to what."""

    allowed: bool
    reason: str
    service: ServiceName | None = None
    port: Port | None = None


def granted_domains(export: Export, port: int, peers: Mapping[str, Peer]) -> tuple[str, ...]:
    """The trust domains whose workloads are admitted to `port`, sorted."""
    clusters = {g.consumer for g in export.grants if not g.ports or port in g.ports}
    return tuple(sorted({peers[c].trust_domain for c in clusters if c in peers}))


def admitted(view: View, sni: str, uri: str) -> Decision:
    """Whether the caller with the verified URI SAN `uri` may use what `sni` names."""
    found = exported_port(view, sni)
    if found is None:
        return Decision(False, "not_exported")
    export, port = found
    try:
        caller = SpiffeId.parse(uri)
    except InvalidName:
        return Decision(False, "no_identity", export.name, port)
    if caller.trust_domain not in granted_domains(export, port.port, view.peers):
        return Decision(False, "no_grant", export.name, port)
    return Decision(True, "granted", export.name, port)
