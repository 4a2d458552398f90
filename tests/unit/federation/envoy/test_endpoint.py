from __future__ import annotations

from typing import Any

import pytest
from envoy.config.core.v3.health_check_pb2 import HealthStatus

from federation.envoy import endpoint
from federation.policy.locality import Host

LOCAL, REMOTE = Host("10.0.0.1", 8080), Host("192.0.2.1", 15443, weight=300, cluster="west")
DB = "spiffe://here.test/ns/shop/sa/db"
PROVEN = Host("10.0.0.2", 15006, identity=DB)


def only(host: Host, *, checked: bool) -> Any:
    ((found,),) = (g.lb_endpoints for g in endpoint.assignment("e", ((host,),), checked=checked).endpoints)
    return found


@pytest.mark.parametrize(
    ("host", "checked", "exempt", "status", "key"),
    [
        (LOCAL, True, True, HealthStatus.HEALTHY, "@local"),
        (LOCAL, False, True, HealthStatus.HEALTHY, "@local"),
        (PROVEN, True, True, HealthStatus.HEALTHY, DB),
        (PROVEN, False, True, HealthStatus.HEALTHY, DB),
        (REMOTE, True, False, HealthStatus.UNKNOWN, "west"),
        (REMOTE, False, True, HealthStatus.UNKNOWN, "west"),
    ],
)
def test_who_is_checked_and_which_socket_is_chosen(
    host: Host, checked: bool, exempt: bool, status: int, key: str
) -> None:
    found = only(host, checked=checked)
    assert found.endpoint.health_check_config.disable_active_health_check is exempt
    assert found.health_status == status
    assert found.metadata.filter_metadata[endpoint.TLS_MATCH].fields[endpoint.TLS_KEY].string_value == key
    assert found.load_balancing_weight.value == host.weight


def test_priorities_are_the_order_of_the_placement() -> None:
    found = endpoint.assignment("e", ((LOCAL,), (REMOTE,)))
    assert [(g.priority, len(g.lb_endpoints)) for g in found.endpoints] == [(0, 1), (1, 1)]
    assert not endpoint.assignment("e", ()).endpoints


def test_ipv6() -> None:
    found = endpoint.address("2001:db8::1", 80).socket_address
    assert (found.address, found.port_value) == ("2001:db8::1", 80)
