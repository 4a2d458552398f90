"""How a pod resolves names, and the same with the sidecar in front. Pure.

Kubelet makes resolv.conf of `dnsPolicy` and `dnsConfig`. A nameserver of ours can only stand there, and only first of
all; so kubelet's part is done here (dnsPolicy None), and whom it would have named is asked by the sidecar.

Nobody else is named beside the sidecar: resolvers differ in whether they ask the second one only when the first is
silent (glibc) or both at once and believe the first answer (musl), which could then be that there is no such name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.injector.options import ClusterDns

NDOTS = {"name": "ndots", "value": "5"}
"""As kubelet has it for pods of the cluster's DNS."""
MOST_SEARCHES = 32
"""As the API server takes them."""

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """`servers`: who answered the pod. `searches` and `options` are the pod's own, or those that kubelet gives it."""

    servers: tuple[str, ...]
    searches: tuple[str, ...]
    options: tuple[Object, ...]

    def at(self, address: str) -> dict[str, Any]:
        """The dnsConfig that resolves as before, but by `address`."""
        made: dict[str, Any] = {"nameservers": [address]}
        if self.searches:
            made["searches"] = list(self.searches)
        if self.options:
            made["options"] = [dict(option) for option in self.options]
        return made


def resolution(spec: Object, namespace: str, dns: ClusterDns) -> Resolution:
    """What the pod would have had.

    With dnsPolicy Default that is its node's resolv.conf, which nobody knows before the pod has a node. The cluster's
    DNS stands for it: it asks the nodes' servers for all that is not of the cluster.
    """
    policy = spec.get("dnsPolicy") or "ClusterFirst"
    config = spec.get("dnsConfig") or {}
    own, searches = _texts(config, "nameservers"), _texts(config, "searches")
    options = tuple(config.get("options") or ())
    if policy == "None":
        return Resolution(servers=own, searches=searches, options=options)
    if policy == "Default":
        return Resolution(
            servers=_distinct(dns.servers, own), searches=_searches(dns.searches, searches), options=options
        )
    # ClusterFirst; ClusterFirstWithHostNet means the same where the pod has a network of its own.
    cluster = (f"{namespace}.svc.{dns.domain}", f"svc.{dns.domain}", dns.domain)
    return Resolution(
        servers=_distinct(dns.servers, own),
        searches=_searches((*cluster, *dns.searches), searches),
        options=_merged((NDOTS,), options),
    )


def _texts(config: Object, key: str) -> tuple[str, ...]:
    return tuple(str(one) for one in config.get(key) or ())


def _distinct(*parts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one for part in parts for one in part))


def _searches(*parts: Iterable[str]) -> tuple[str, ...]:
    return _distinct(*parts)[:MOST_SEARCHES]


def _merged(first: Iterable[Object], then: Iterable[Object]) -> tuple[Object, ...]:
    """Of one name the last counts, as kubelet has it."""
    return tuple({option.get("name"): option for option in (*first, *then)}.values())
