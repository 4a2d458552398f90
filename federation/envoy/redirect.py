"""The one listener of a sidecar that redirected connections arrive at.

Where a connection was made to decides everything: addresses of the opaque range, and opaque ports of services that
have others, go through TCP on demand; the rest is HTTP, bound to the names of the service that owns the address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.matching.common_inputs.network.v3.network_inputs_pb2 import (
    DestinationIPInput,
    DestinationPortInput,
)
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue
from xds.core.v3.cidr_pb2 import CidrRange
from xds.core.v3.extension_pb2 import TypedExtensionConfig
from xds.type.matcher.v3.ip_pb2 import IPMatcher
from xds.type.matcher.v3.matcher_pb2 import Matcher

from federation.envoy import listener, names, outbound, route
from federation.envoy.message import pack
from federation.envoy.outbound import Target

_HTTP = "http"
_TCP = "tcp"


@dataclass(frozen=True, slots=True)
class Bound:
    """A target behind a virtual address."""

    vip: str
    target: Target

    @property
    def destination(self) -> str:
        return names.host_port(self.vip, self.target.port.port)


@dataclass(frozen=True, slots=True)
class Fragment:
    """What one use adds to the routes, serialised: with hundreds of names in use, only the new one is made."""

    hosts: bytes
    refusals: bytes
    mixed: tuple[tuple[str, int], ...]
    """Its opaque ports (address, port) in the HTTP range."""


def fragment(bound: Sequence[Bound]) -> Fragment:
    """The part of `bound`, which are all targets under their names."""
    http = [b for b in bound if b.target.port.app.is_http]
    refused = [route.answer(421, outbound.STRANGER, bound=_binding(b)) for b in http]
    return Fragment(
        RouteConfiguration(virtual_hosts=_hosts(http)).SerializeToString(deterministic=True),
        VirtualHost(routes=refused).SerializeToString(deterministic=True),
        mixed(bound),
    )


def routes(fragments: Iterable[Fragment]) -> RouteConfiguration:
    """The route configuration `outbound`: per service its names, and per port the destination that it is bound to.

    A destination that is not known yet is asked for; a known one under a foreign name is refused.
    """
    fragments = tuple(fragments)
    made = route.configuration(names.OUTBOUND, ())
    # Protocol buffers: messages put end to end are their fields put end to end.
    made.MergeFromString(b"".join(f.hosts for f in fragments))
    rest = route.virtual_host("*", ["*"], ())
    rest.MergeFromString(b"".join(f.refusals for f in fragments))
    rest.routes.extend(route.on_demand_routes())
    made.virtual_hosts.append(rest)
    return made


def outbound_listener(
    ip: str, port: int, *, http_range: str, tcp_range: str, mixed: Iterable[tuple[str, int]]
) -> Listener:
    """The listener; `mixed` are the opaque ports (address, port) in the HTTP range."""
    made = listener.listener(
        names.OUTBOUND,
        ip,
        port,
        [
            listener.chain(
                _HTTP,
                [
                    listener.connection_state(at_once=[(names.STATE_DESTINATION, "%DOWNSTREAM_LOCAL_ADDRESS%")]),
                    listener.http(
                        "out", names.OUTBOUND, on_demand=listener.ASK_FOR_DESTINATION, replies=outbound.replies()
                    ),
                ],
            ),
            listener.chain(_TCP, listener.tcp_to_destination("out")),
        ],
        original_destination=True,
    )
    made.filter_chain_matcher.CopyFrom(_by_destination(http_range, tcp_range, mixed))
    return made


def mixed(bound: Iterable[Bound]) -> tuple[tuple[str, int], ...]:
    """The opaque ports of services that have HTTP ports, too."""
    bound = tuple(bound)
    http = {b.vip for b in bound if b.target.port.app.is_http}
    return tuple(sorted((b.vip, b.target.port.port) for b in bound if b.vip in http and not b.target.port.app.is_http))


def _hosts(http: Sequence[Bound]) -> Iterator[VirtualHost]:
    by_names: dict[tuple[str, ...], list[Bound]] = {}
    for b in http:
        by_names.setdefault(b.target.domains, []).append(b)
    for domains, members in by_names.items():
        ways = [
            way
            for b in members
            for way in route.caller_routes(b.target.cluster, bound=_binding(b), affinity=b.target.affinity)
        ]
        yield route.virtual_host(domains[0], domains, [*ways, route.answer(421, outbound.STRANGER)])


def _binding(b: Bound) -> route.Binding:
    return route.Binding(names.STATE_DESTINATION, b.destination)


def _by_destination(http_range: str, tcp_range: str, mixed: Iterable[tuple[str, int]]) -> Matcher:
    ports: dict[str, list[int]] = {}
    for ip, port in mixed:
        ports.setdefault(ip, []).append(port)
    ranges = IPMatcher()
    _add(ranges, http_range, _go(_HTTP))
    _add(ranges, tcp_range, _go(_TCP))
    for ip, opaque in sorted(ports.items()):
        by_port = Matcher()
        by_port.matcher_tree.input.CopyFrom(_extension("port", DestinationPortInput()))
        for port in opaque:
            by_port.matcher_tree.exact_match_map.map[str(port)].CopyFrom(_go(_TCP))
        by_port.on_no_match.CopyFrom(_go(_HTTP))
        _add(ranges, f"{ip}/{128 if ':' in ip else 32}", Matcher.OnMatch(matcher=by_port))
    made = Matcher()
    made.matcher_tree.input.CopyFrom(_extension("ip", DestinationIPInput()))
    made.matcher_tree.custom_match.CopyFrom(_extension("envoy.matching.custom_matchers.ip", ranges))
    return made


def _add(ranges: IPMatcher, cidr: str, then: Matcher.OnMatch) -> None:
    prefix, _, length = cidr.partition("/")
    entry = CidrRange(address_prefix=prefix)
    entry.prefix_len.value = int(length)
    ranges.range_matchers.add(ranges=[entry], on_match=then)


def _go(chain: str) -> Matcher.OnMatch:
    return Matcher.OnMatch(action=_extension(chain, StringValue(value=chain)))


def _extension(name: str, message: Message) -> TypedExtensionConfig:
    return TypedExtensionConfig(name=name, typed_config=pack(message))
