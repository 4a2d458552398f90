"""Which services have connections now, from the text of Envoy's /clusters. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from federation.envoy.names import outbound_cluster, vip_cluster
from federation.model.ids import ServiceName
from sidecar.build.outbound import Use

_ACTIVE = ("cx_active", "rq_active")


def busy_services(clusters: bytes, uses: Iterable[Use]) -> set[ServiceName]:
    """The services of `uses` with a connection or request under way.

    Lines of /clusters: `<cluster>::<host>::<counter>::<value>`. A service's clusters differ in their port only.
    """
    prefixes = {}
    for use in uses:
        prefixes[outbound_cluster(use.name, 0, use.pinned).split("/0", 1)[0]] = use.name
        prefixes[vip_cluster(use.vip, 1).rpartition(":")[0]] = use.name
    busy: set[ServiceName] = set()
    for line in clusters.decode(errors="replace").splitlines():
        parts = line.split("::")
        if len(parts) < 4 or parts[-2] not in _ACTIVE or parts[-1] == "0":
            continue
        name = parts[0]
        stem = name.rpartition(":")[0] if name.startswith("vip/") else "/".join(name.split("/")[:3])
        if stem in prefixes:
            busy.add(prefixes[stem])
    return busy
