"""Which exported port a server name means: an exact table, without a catch-all (reliability: SNI confusion)."""

from __future__ import annotations

from federation.envoy.names import parse_server_name
from federation.model.service import Export, Port, Protocol
from federation.model.view import View


def exported_port(view: View, sni: str) -> tuple[Export, Port] | None:
    """The export and port that `sni` names at a gateway of this cluster; None where there is no such."""
    parsed = parse_server_name(sni)
    if parsed is None or view.own is None or parsed.trust_domain != view.own.trust_domain:
        return None
    export = view.exports.get(parsed.name)
    if export is None:
        return None
    for port in export.ports:
        if port.port == parsed.port and port.protocol is Protocol.TCP:
            return export, port
    return None
