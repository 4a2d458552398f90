"""Sets of endpoints, by priority."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from envoy.config.core.v3.address_pb2 import Address, SocketAddress
from envoy.config.core.v3.base_pb2 import Metadata
from envoy.config.core.v3.health_check_pb2 import HealthStatus
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from federation.envoy.message import number

TLS_MATCH = "envoy.transport_socket_match"
"""Metadata namespace by which a host chooses its transport socket."""
TLS_KEY = "cluster"
PLAIN = "@local"
"""What local endpoints say that have no identity; no cluster can have this name."""


class Host(Protocol):
    """One address; `cluster` names the cluster whose gateway it is, and is empty for a local endpoint.

    That one is sent plain text, unless it proves an `identity`.
    """

    @property
    def address(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def weight(self) -> int: ...
    @property
    def cluster(self) -> str: ...
    @property
    def identity(self) -> str: ...


def assignment(name: str, placement: Sequence[Sequence[Host]], *, checked: bool = True) -> ClusterLoadAssignment:
    """The EDS resource `name`: one group per priority. `checked`: whether the cluster's checks apply to gateways."""
    return ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[
            LocalityLbEndpoints(priority=priority, lb_endpoints=[_endpoint(host, checked=checked) for host in hosts])
            for priority, hosts in enumerate(placement)
        ],
    )


def address(ip: str, port: int) -> Address:
    """A TCP address."""
    return Address(socket_address=SocketAddress(address=ip, port_value=port))


def _endpoint(host: Host, *, checked: bool) -> LbEndpoint:
    made = LbEndpoint(
        endpoint=Endpoint(address=address(host.address, host.port)), load_balancing_weight=number(host.weight)
    )
    made.metadata.CopyFrom(_metadata(host.identity or host.cluster or PLAIN))
    if not host.cluster or not checked:
        # Readiness of local endpoints comes with the report; the checks of the cluster are for gateways.
        made.endpoint.health_check_config.disable_active_health_check = True
    if not host.cluster:
        made.health_status = HealthStatus.HEALTHY
    return made


def _metadata(cluster: str) -> Metadata:
    metadata = Metadata()
    metadata.filter_metadata[TLS_MATCH].fields[TLS_KEY].string_value = cluster
    return metadata
