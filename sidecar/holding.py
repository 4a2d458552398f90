"""What a name in use turns into: the uses that Envoy is configured for, and the records that DNS answers. Pure.

Arrive: an import, its virtual addresses (None: not pinned; otherwise by the cluster that the name pins) and the clashes
of the loopback way. Leaves: a Holding; sidecar.agent brings it into the table and to Envoy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from federation.dns.answer import NameRecords
from federation.model.service import Import
from sidecar import names
from sidecar.build.outbound import Use


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """`uses`: what Envoy serves. `records`: what DNS answers, by name. `via`: why it is led through the gateway."""

    uses: tuple[Use, ...] = ()
    records: Mapping[str, NameRecords] = field(default_factory=dict)
    via: str = ""


NOTHING = Holding()


def hold(
    imp: Import, addresses: Mapping[str | None, str], *, suffix: str, clashes: Mapping[str | None, str] | None = None
) -> Holding:
    """The holding of `imp`, for the virtual addresses that were allocated and without those of which `clashes` tells.

    A clash leads the name through the gateway: its records then carry the ClusterSetIP. A pinned name has no such other
    way; only its `_why` remains.
    """
    uses: list[Use] = []
    records: dict[str, NameRecords] = {}
    via: list[str] = []
    for cluster, address in sorted(addresses.items(), key=lambda item: item[0] or ""):
        if cluster is not None and all(b.cluster != cluster for b in imp.backends):
            continue
        clash = (clashes or {}).get(cluster, "")
        if clash:
            via.append(clash)
            reach = imp.ips if cluster is None else ()
            records |= names.records(imp, reach, suffix=suffix, cluster=cluster, note=_note(clash, reach))
        else:
            uses.append(Use(name=imp.name, vip=address, pinned=cluster))
            records |= names.records(imp, (address,), suffix=suffix, cluster=cluster)
    return Holding(uses=tuple(uses), records=records, via="; ".join(via))


def _note(clash: str, reach: tuple[str, ...]) -> str:
    way = f"so it is led through the gateway at {', '.join(reach)}" if reach else "and there is no other way to it"
    return f"port_clash: {clash}, {way}"


def is_http(imp: Import) -> bool:
    """Whether any port is HTTP: such services have virtual addresses of their own range in the redirect way."""
    return any(p.app.is_http for p in imp.ports)
