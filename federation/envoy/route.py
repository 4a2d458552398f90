"""Routes: which request goes to which cluster, what is tried again, and what is refused with which words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from envoy.config.core.v3.base_pb2 import DataSource, HeaderValue, HeaderValueOption
from envoy.config.route.v3.route_components_pb2 import (
    DirectResponseAction,
    HeaderMatcher,
    RetryPolicy,
    Route,
    RouteAction,
    RouteMatch,
    VirtualHost,
)
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from envoy.extensions.retry.priority.previous_priorities.v3.previous_priorities_config_pb2 import (
    PreviousPrioritiesConfig,
)
from envoy.type.matcher.v3.filter_state_pb2 import FilterStateMatcher
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from federation.envoy.message import flag, number, pack, seconds

NOT_FORWARDED = "x-isthmus-not-forwarded"
"""Response header of a gateway or a sidecar: the request reached no workload; any method may be tried elsewhere."""
CLUSTER_HEADER = "x-isthmus-cluster"
"""Request header between the parts of one Envoy; nobody else sees it, and nobody else can set it."""
CLIENT = "x-forwarded-client-cert"
"""Request header: whom the Envoys on the way have verified, each its own caller; the first one is where it began."""
_THE_CALLER = "By=%DOWNSTREAM_LOCAL_URI_SAN%;Hash=%DOWNSTREAM_PEER_FINGERPRINT_256%;URI=%DOWNSTREAM_PEER_URI_SAN%"
"""What Envoy itself says there of the caller."""

_IDEMPOTENT = "GET|HEAD|OPTIONS"
_NEVER_SENT = "connect-failure,refused-stream,reset-before-request"
_CALLER_NEVER_SENT = f"{_NEVER_SENT},retriable-headers"
_CALLER_MAY_REPEAT = f"{_CALLER_NEVER_SENT},reset,gateway-error"
_OTHER_PRIORITIES = RetryPolicy.RetryPriority(
    name="envoy.retry_priorities.previous_priorities", typed_config=pack(PreviousPrioritiesConfig(update_frequency=1))
)


@dataclass(frozen=True, slots=True)
class Binding:
    """A condition on the connection: the filter state object `key` is exactly `value`."""

    key: str
    value: str


def virtual_host(name: str, domains: Sequence[str], routes: Iterable[Route]) -> VirtualHost:
    """A virtual host that exists under exactly `domains`."""
    return VirtualHost(name=name, domains=domains, routes=routes)


def configuration(name: str, hosts: Iterable[VirtualHost]) -> RouteConfiguration:
    """A route configuration; ports in Host and :authority do not matter, and stay."""
    return RouteConfiguration(
        name=name,
        virtual_hosts=hosts,
        ignore_port_in_host_matching=True,
        # What Envoy and we ourselves set for the decisions before: no workload's business.
        request_headers_to_remove=["x-envoy-external-address", CLUSTER_HEADER],
        # References are checked before a snapshot is published; a refused cluster must not take its route along.
        validate_clusters=flag(False),
        max_direct_response_body_size_bytes=number(4096),
    )


def caller_routes(cluster: str, *, bound: Binding | None = None, affinity: bool = False) -> list[Route]:
    """What a caller's Envoy does with requests for a service: idempotent ones are tried again after any failure.

    The others only where it is certain that no workload has seen them.
    """
    idempotent = RouteMatch(prefix="/", headers=[_method(_IDEMPOTENT)])
    rest = RouteMatch(prefix="/")
    routes = []
    for match, retry_on in ((idempotent, _CALLER_MAY_REPEAT), (rest, _CALLER_NEVER_SENT)):
        _bind(match, bound)
        action = _action(retry_on, affinity=affinity)
        action.cluster = cluster
        routes.append(Route(match=match, route=action))
    return routes


def renamed(routes: Iterable[Route], host: str) -> list[Route]:
    """The same ways under another Host or :authority; what the caller said is in X-Forwarded-Host."""
    made = []
    for one in routes:
        copied = Route()
        copied.CopyFrom(one)
        copied.route.host_rewrite_literal = host
        copied.route.append_x_forwarded_host = True
        made.append(copied)
    return made


def on_demand_routes() -> list[Route]:
    """As `caller_routes`, to the cluster that CLUSTER_HEADER names; Envoy asks for it where it has it not."""
    routes = caller_routes("-", affinity=True)
    for route in routes:
        route.route.cluster_header = CLUSTER_HEADER
    return routes


def exported_routes() -> list[Route]:
    """A gateway's routes to exported ports: to the cluster that CLUSTER_HEADER names. Its existence is the decision."""
    action = RouteAction(
        cluster_header=CLUSTER_HEADER, timeout=seconds(0), retry_policy=_retry(_CALLER_NEVER_SENT, times=2)
    )
    # A sidecar that does not reach its workload says so; another endpoint may be had in this cluster.
    action.retry_policy.retriable_headers.append(_not_forwarded())
    return [Route(match=RouteMatch(prefix="/"), route=action)]


def workload_routes(cluster: str, *, gateway: Binding) -> list[Route]:
    """A sidecar's routes to its workload.

    A caller that is the `gateway` of the cluster tells whom it calls for: CLIENT then names both. Of all others it has
    what this Envoy verified, whatever they say.
    """
    action = RouteAction(cluster=cluster, timeout=seconds(0), retry_policy=_retry(_NEVER_SENT, times=2))
    told, verified = (Route(match=RouteMatch(prefix="/"), route=action) for _ in range(2))
    _bind(told.match, gateway)
    verified.request_headers_to_add.add(
        header=HeaderValue(key=CLIENT, value=_THE_CALLER), append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    )
    return [told, verified]


def health_routes() -> list[Route]:
    """To the cluster that CLUSTER_HEADER names, which has no endpoints: what Envoy says to that is the answer."""
    action = RouteAction(cluster_header=CLUSTER_HEADER, timeout=seconds(0))
    return [Route(match=RouteMatch(prefix="/"), route=action)]


def answer(status: int, text: str, *, bound: Binding | None = None) -> Route:
    """An answer by this Envoy itself."""
    match = RouteMatch(prefix="/")
    _bind(match, bound)
    return Route(
        match=match,
        direct_response=DirectResponseAction(status=status, body=DataSource(inline_string=f"isthmus: {text}\n")),
    )


def _bind(match: RouteMatch, bound: Binding | None) -> None:
    if bound is not None:
        match.filter_state.append(FilterStateMatcher(key=bound.key, string_match=StringMatcher(exact=bound.value)))


def _not_forwarded() -> HeaderMatcher:
    return HeaderMatcher(name=NOT_FORWARDED, present_match=True)


def _method(pattern: str) -> HeaderMatcher:
    return HeaderMatcher(name=":method", string_match=StringMatcher(safe_regex=RegexMatcher(regex=pattern)))


def _action(retry_on: str, *, affinity: bool) -> RouteAction:
    action = RouteAction(timeout=seconds(0), retry_policy=_retry(retry_on, times=3))
    # What only a caller meets: gateways that say that they did not forward, and other priorities.
    action.retry_policy.retriable_headers.append(_not_forwarded())
    action.retry_policy.retry_priority.CopyFrom(_OTHER_PRIORITIES)
    if affinity:
        policy = RouteAction.HashPolicy(
            connection_properties=RouteAction.HashPolicy.ConnectionProperties(source_ip=True)
        )
        action.hash_policy.append(policy)
    return action


def _retry(retry_on: str, *, times: int) -> RetryPolicy:
    return RetryPolicy(
        retry_on=retry_on,
        num_retries=number(times),
        retry_back_off=RetryPolicy.RetryBackOff(base_interval=seconds(0.005), max_interval=seconds(0.1)),
        retry_host_predicate=[
            RetryPolicy.RetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts", typed_config=pack(PreviousHostsPredicate())
            )
        ],
        host_selection_retry_max_attempts=5,
    )
