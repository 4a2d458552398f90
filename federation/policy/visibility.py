"""Who may see which record, and call which port: pure, from links, link grants and a service's own grants.

Default deny: without a link nothing is seen. A link without grants shows everything that both sides export; with
grants, only what some grant names, in either direction. A service's grants narrow that further; an empty list means
every linked cluster. Used by the registry for every record of every stream, and by agents to admit callers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from federation.model.cluster import Link, LinkGrant
from federation.model.ids import REGISTRY_ORIGIN, ServiceName
from federation.model.record import Key, Kind
from federation.model.service import Grant

ALL_PORTS: frozenset[int] | None = None
"""What `allowed_ports` returns for "every port"; an empty set is "none"."""


@dataclass(frozen=True, slots=True)
class Links:
    """The links of one consumer by the far end's name."""

    consumer: str
    by_peer: Mapping[str, Link] = field(default_factory=lambda: MappingProxyType({}))
    network: str | None = None
    """The network that the consumer is on; empty: none of its own; None: it has not said so yet."""

    @classmethod
    def of(cls, consumer: str, links: Iterable[Link], *, network: str | None = None) -> Links:
        """Those of `links` that have `consumer` at one end."""
        mine = {link.other(consumer): link for link in links if consumer in (link.a, link.b)}
        return cls(consumer, MappingProxyType(mine), network)


def is_visible(key: Key, grants: tuple[Grant, ...], links: Links, *, network: str = "") -> bool:
    """Whether the consumer of `links` may see the record.

    `grants` are those of a SERVICE's or ENDPOINTS' payload, else empty; `network` that of ENDPOINTS. A consumer that
    has not reported since the registry began sees ENDPOINTS of any network: what it had is not taken from it
    meanwhile, and which network it is on is its own word anyhow.
    """
    if key.origin == REGISTRY_ORIGIN:
        return key.kind is Kind.LINK and links.consumer in key.name.split("/")
    link = links.by_peer.get(key.origin)
    if link is None:
        return False
    if key.kind is Kind.ENDPOINTS and (not network or links.network not in (None, network)):
        return False
    if key.kind in (Kind.SERVICE, Kind.ENDPOINTS):
        if not link.grants and not grants:
            return True
        namespace, _, name = key.name.partition("/")
        return allowed_ports(ServiceName(namespace, name), grants, link, consumer=links.consumer) != frozenset()
    return key.kind in (Kind.CLUSTER, Kind.GATEWAY)


def allowed_ports(
    service: ServiceName, grants: tuple[Grant, ...], link: Link, *, consumer: str
) -> frozenset[int] | None:
    """The ports of a service at the far end of `link` that `consumer` may see and call; ALL_PORTS for every one."""
    by_service = _union(g.ports for g in grants if g.consumer in ("*", consumer)) if grants else ALL_PORTS
    by_link = _union(g.ports for g in link.grants if _covers(g, service, link, consumer)) if link.grants else ALL_PORTS
    if by_service is None or by_link is None:
        return by_link if by_service is None else by_service
    return by_service & by_link


def _covers(grant: LinkGrant, service: ServiceName, link: Link, consumer: str) -> bool:
    return (
        grant.consumer == consumer
        and grant.origin == link.other(consumer)
        and grant.namespace in ("*", service.namespace)
        and grant.service in ("*", service.name)
    )


def _union(lists: Iterable[tuple[int, ...]]) -> frozenset[int] | None:
    """Ports of any of the lists; an empty list means all, no list at all means none."""
    ports: set[int] = set()
    for numbers in lists:
        if not numbers:
            return ALL_PORTS
        ports.update(numbers)
    return frozenset(ports)
