"""What a name in use turns into: the uses that Envoy is configured for, and the records that DNS answers. Pure.

Arrive: an import, its virtual addresses (None: not pinned; otherwise by the cluster that the name pins) and the clashes
of the loopback way. Leaves: a Holding; sidecar.agent brings it into the table and to Envoy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from federation.dns import names
from federation.dns.answer import NameRecords
from federation.model.service import Import
from sidecar.build.outbound import Use


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """`uses`: what Envoy serves. `records`: what DNS answers, by name. `clash`: what is not served here, and why.

    `via`: whether it is led through the gateway.
    """

    uses: tuple[Use, ...] = ()
    records: Mapping[str, NameRecords] = field(default_factory=dict)
    clash: str = ""
    via: bool = False


NOTHING = Holding()


def hold(
    imp: Import, addresses: Mapping[str | None, str], *, suffix: str, clashes: Mapping[str | None, str] | None = None
) -> Holding:
    """The holding of `imp`, for the virtual addresses that were allocated and without those of which `clashes` tells.

    A clash leads the name through the gateway: its records then carry the ClusterSetIP. A pinned name has no such other
    way: only its `_why` remains, so that the name itself exists without an address (NODATA).
    """
    uses: list[Use] = []
    records: dict[str, NameRecords] = {}
    told: list[str] = []
    via = False
    for cluster, address in sorted(addresses.items(), key=lambda item: item[0] or ""):
        if cluster is not None and all(b.cluster != cluster for b in imp.backends):
            continue
        clash = (clashes or {}).get(cluster, "")
        if clash:
            reach = imp.ips if cluster is None else ()
            via |= cluster is None
            text = _text(clash, reach)
            told.append(text if cluster is None else f"by {cluster}'s name: {text}")
            records |= names.records(imp, reach, suffix=suffix, cluster=cluster, note=f"port_clash: {text}")
        else:
            uses.append(Use(name=imp.name, vip=address, pinned=cluster))
            records |= names.records(imp, (address,), suffix=suffix, cluster=cluster)
    return Holding(uses=tuple(uses), records=records, clash="; ".join(told), via=via)


def _text(clash: str, reach: tuple[str, ...]) -> str:
    way = f"so it is led through the gateway at {', '.join(reach)}" if reach else "and there is no other way to it"
    return f"{clash}, {way}"


def is_http(imp: Import) -> bool:
    """Whether any port is HTTP: such services have virtual addresses of their own range in the redirect way."""
    return any(p.app.is_http for p in imp.ports)
