from __future__ import annotations

from typing import Any

import pytest

from federation.envoy import route
from federation.envoy.route import Binding

SNI = "p80.echo.shop.svc.west.test"
IDEMPOTENT = {
    "connect-failure",
    "refused-stream",
    "reset-before-request",
    "retriable-headers",
    "reset",
    "gateway-error",
}
OTHERS = {"connect-failure", "refused-stream", "reset-before-request", "retriable-headers"}


def conditions(found: Any) -> dict[str, str]:
    return {f.key: f.string_match.exact or f"{f.string_match.prefix}…" for f in found.match.filter_state}


def retried_on(found: Any) -> set[str]:
    return set(found.route.retry_policy.retry_on.split(","))


def test_only_idempotent_requests_are_repeated_once_a_workload_may_have_seen_them() -> None:
    first, rest = route.caller_routes("out", bound=Binding("k", "v"))
    (method,) = first.match.headers
    assert (method.name, method.string_match.safe_regex.regex) == (":method", "GET|HEAD|OPTIONS")
    assert not rest.match.headers
    assert (retried_on(first), retried_on(rest)) == (IDEMPOTENT, OTHERS)
    for found in (first, rest):
        assert conditions(found) == {"k": "v"}
        assert found.route.cluster == "out"
        assert found.route.timeout.ToMilliseconds() == 0
        policy = found.route.retry_policy
        assert policy.num_retries.value == 3
        assert [h.name for h in policy.retriable_headers] == [route.NOT_FORWARDED]
        assert policy.retry_priority.name == "envoy.retry_priorities.previous_priorities"
        assert [p.name for p in policy.retry_host_predicate] == ["envoy.retry_host_predicates.previous_hosts"]


@pytest.mark.parametrize(("affinity", "hashes"), [(False, 0), (True, 1)])
def test_affinity_hashes_the_callers_address(affinity: bool, hashes: int) -> None:
    for found in route.caller_routes("out", affinity=affinity):
        assert len(found.route.hash_policy) == hashes


def test_on_demand_goes_to_what_the_header_names() -> None:
    for found in route.on_demand_routes():
        assert found.route.WhichOneof("cluster_specifier") == "cluster_header"
        assert found.route.cluster_header == route.CLUSTER_HEADER


def test_a_gateway_tries_other_endpoints_of_its_cluster_and_repeats_nothing_that_was_seen() -> None:
    (exported,) = route.exported_routes()
    assert exported.route.cluster_header == route.CLUSTER_HEADER
    assert retried_on(exported) == OTHERS
    assert not exported.route.retry_policy.HasField("retry_priority")
    assert [h.name for h in exported.route.retry_policy.retriable_headers] == [route.NOT_FORWARDED]


def test_only_the_own_gateway_tells_a_workload_whom_it_calls_for() -> None:
    told, verified = route.workload_routes("w", gateway=Binding("isthmus.identity", "spiffe://a/gateway"))
    assert conditions(told) == {"isthmus.identity": "spiffe://a/gateway"}
    assert not told.request_headers_to_add
    assert not conditions(verified)
    (header,) = verified.request_headers_to_add
    assert header.header.key == route.CLIENT == "x-forwarded-client-cert"
    assert header.append_action == header.OVERWRITE_IF_EXISTS_OR_ADD
    for found in (told, verified):
        assert found.route.cluster == "w"
        assert retried_on(found) == OTHERS - {"retriable-headers"}


def test_a_check_is_answered_once() -> None:
    (check,) = route.health_routes()
    assert check.route.cluster_header == route.CLUSTER_HEADER
    assert not check.route.HasField("retry_policy")


def test_what_envoys_say_to_each_other_reaches_no_workload() -> None:
    made = route.configuration("r", [])
    assert set(made.request_headers_to_remove) == {"x-envoy-external-address", route.CLUSTER_HEADER}
    assert made.ignore_port_in_host_matching


def test_a_refusal_says_who_speaks() -> None:
    found = route.answer(421, "no such name")
    assert (found.direct_response.status, found.direct_response.body.inline_string) == (421, "isthmus: no such name\n")
    assert not found.match.filter_state
