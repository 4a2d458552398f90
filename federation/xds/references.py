"""What a resource refers to: found by walking the message, whatever extension it stands in.

Arrives: a cluster, listener, route … message. Leaves: the names of the other resources that Envoy will ask for (EDS,
RDS, SDS) or look up (clusters) because of it. `consistency` proves that they exist; `delta` waits for Envoy to ask.

Fields that cannot lead to a reference are skipped by a plan made once per message type, so a walk costs some 10 µs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pool, message_factory

_PREFIX = "type.googleapis.com/"
CLUSTER = f"{_PREFIX}envoy.config.cluster.v3.Cluster"
ENDPOINT = f"{_PREFIX}envoy.config.endpoint.v3.ClusterLoadAssignment"
ROUTE = f"{_PREFIX}envoy.config.route.v3.RouteConfiguration"
SECRET = f"{_PREFIX}envoy.extensions.transport_sockets.tls.v3.Secret"


@dataclass(frozen=True, slots=True)
class Reference:
    """The type URL and the name of a resource that another one needs."""

    kind: str
    name: str


def references(message: Any) -> frozenset[Reference]:
    """Every resource that `message` names and that comes over ADS; an Any of an unknown type is passed over."""
    return frozenset(_walk(message))


def _over_ads(source: Any) -> bool:
    return source.WhichOneof("config_source_specifier") in ("ads", "self")


def _of_cluster(cluster: Any) -> Iterator[Reference]:
    eds = cluster.eds_cluster_config
    if cluster.type == 3 and _over_ads(eds.eds_config):  # 3 is EDS
        yield Reference(ENDPOINT, eds.service_name or cluster.name)


def _of_secret_config(config: Any) -> Iterator[Reference]:
    if config.HasField("sds_config") and _over_ads(config.sds_config):
        yield Reference(SECRET, config.name)


def _of_rds(rds: Any) -> Iterator[Reference]:
    if _over_ads(rds.config_source):
        yield Reference(ROUTE, rds.route_config_name)


def _of_tcp_proxy(proxy: Any) -> Iterator[Reference]:
    # With on-demand discovery the cluster may come from filter state, and what stands here is a fallback.
    if proxy.cluster and not proxy.HasField("on_demand"):
        yield Reference(CLUSTER, proxy.cluster)
    for weighted in proxy.weighted_clusters.clusters:
        yield Reference(CLUSTER, weighted.name)


def _of_route_action(action: Any) -> Iterator[Reference]:
    if action.cluster:
        yield Reference(CLUSTER, action.cluster)
    for weighted in action.weighted_clusters.clusters:
        if weighted.name:
            yield Reference(CLUSTER, weighted.name)
    for mirror in action.request_mirror_policies:
        if mirror.cluster:
            yield Reference(CLUSTER, mirror.cluster)


def _of_clusters(config: Any) -> Iterator[Reference]:
    for name in config.clusters:
        yield Reference(CLUSTER, name)


_FOUND: dict[str, Callable[[Any], Iterator[Reference]]] = {
    "envoy.config.cluster.v3.Cluster": _of_cluster,
    "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig": _of_secret_config,
    "envoy.extensions.filters.network.http_connection_manager.v3.Rds": _of_rds,
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy": _of_tcp_proxy,
    "envoy.config.route.v3.RouteAction": _of_route_action,
    "envoy.extensions.clusters.aggregate.v3.ClusterConfig": _of_clusters,
}
_ANY = "google.protobuf.Any"
_HOST = "envoy.config.route.v3.VirtualHost"
_ROUTE = "envoy.config.route.v3.Route"
_REMEMBERED_BYTES = 16 * 1024

_worth: dict[str, bool] = {}
_plans: dict[str, tuple[tuple[str, bool], ...]] = {}


def _walk(message: Any) -> Iterator[Reference]:
    name = message.DESCRIPTOR.full_name
    if name == _ANY:
        descriptor = _descriptor(message.type_url)
        if descriptor is not None and _is_worth(descriptor, set()):
            inner = message_factory.GetMessageClass(descriptor)()
            inner.ParseFromString(message.value)
            yield from _walk(inner)
        return
    if name == _HOST and message.ByteSize() <= _REMEMBERED_BYTES:
        yield from _of_host(message.SerializeToString(deterministic=True))
        return
    if name == _ROUTE and message.HasField("direct_response") and not message.typed_per_filter_config:
        return
    yield from _walk_fields(message)


@functools.lru_cache(maxsize=2048)
def _of_host(body: bytes) -> tuple[Reference, ...]:
    """Of a virtual host. Hundreds stand together in one route configuration, and one changes at a time."""
    host = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(_HOST))()
    host.ParseFromString(body)
    return tuple(_walk_fields(host))


def _walk_fields(message: Any) -> Iterator[Reference]:
    found = _FOUND.get(message.DESCRIPTOR.full_name)
    if found is not None:
        yield from found(message)
    for field, repeated in _plan(message.DESCRIPTOR):
        if repeated:
            value = getattr(message, field)
            for item in value.values() if hasattr(value, "values") else value:
                yield from _walk(item)
        elif message.HasField(field):
            yield from _walk(getattr(message, field))


@functools.cache
def _descriptor(url: str) -> Any | None:
    """Of the type that an Any holds; None for an unknown one."""
    try:
        return descriptor_pool.Default().FindMessageTypeByName(url.rpartition("/")[2])
    except KeyError:
        return None


def _plan(descriptor: Any) -> tuple[tuple[str, bool], ...]:
    """The fields of a message type that can lead to a reference, and whether each is repeated."""
    plan = _plans.get(descriptor.full_name)
    if plan is None:
        plan = tuple((f.name, f.is_repeated) for f in descriptor.fields if _leads(f))
        _plans[descriptor.full_name] = plan
    return plan


def _leads(field: Any) -> bool:
    target = field.message_type
    if target is None:
        return False
    if target.GetOptions().map_entry:
        target = target.fields_by_name["value"].message_type
        return target is not None and _is_worth(target, set())
    return _is_worth(target, set())


def _is_worth(descriptor: Any, visiting: set[str]) -> bool:
    """Whether a message of this type can hold a reference somewhere below."""
    name = descriptor.full_name
    if name == _ANY or name in _FOUND:
        return True
    known = _worth.get(name)
    if known is not None:
        return known
    if name in visiting:
        return False
    visiting.add(name)
    worth = any(f.message_type is not None and _is_worth(f.message_type, visiting) for f in descriptor.fields)
    if worth or len(visiting) == 1:  # a "no" inside a cycle is not final
        _worth[name] = worth
    visiting.discard(name)
    return worth
