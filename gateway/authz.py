"""Who is admitted to what: the decision that the existence of Envoy's clusters carries.

Default deny: an exported port admits the clusters that a grant names, and no others; the own cluster needs one, too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from federation.model.cluster import Peer
from federation.model.service import Export, Port
from federation.model.view import View
from gateway.sni import exported_port


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a caller is admitted, why, and to what."""

    allowed: bool
    reason: str
    export: Export | None = None
    port: Port | None = None


def granted_domains(export: Export, port: int, peers: Mapping[str, Peer]) -> tuple[str, ...]:
    """The trust domains whose workloads are admitted to `port`, sorted."""
    clusters = {g.consumer for g in export.grants if not g.ports or port in g.ports}
    return tuple(sorted({peers[c].trust_domain for c in clusters if c in peers}))


def admitted(view: View, sni: str, trust_domain: str) -> Decision:
    """Whether callers with a verified identity in `trust_domain` may use what `sni` names."""
    found = exported_port(view, sni)
    if found is None:
        return Decision(False, "not_exported")
    export, port = found
    if trust_domain not in granted_domains(export, port.port, view.peers):
        return Decision(False, "no_grant", export, port)
    return Decision(True, "granted", export, port)


def host_of(authority: str) -> tuple[str, str]:
    """(host in lower case, port as it is written or "") of a Host or :authority; a colon can only begin the port."""
    host, _, port = authority.partition(":")
    return host.lower(), port


def is_name(authority: str, names: Collection[str]) -> bool:
    """Whether a request for `authority` means one of `names`; case and port do not matter."""
    host, port = host_of(authority)
    return host in names and (not port or (port.isascii() and port.isdigit() and len(port) <= 5))
