from __future__ import annotations

from typing import Any

import pytest
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager as Manager,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import ON_DOWNSTREAM_TLS_HANDSHAKE, TcpProxy
from envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2 import HeaderMutation
from google.protobuf import json_format
from xds.type.v3.typed_struct_pb2 import TypedStruct

from federation.envoy import listener, route


def manager(**options: Any) -> Any:
    found = Manager()
    listener.http("s", "routes", **options).typed_config.Unpack(found)
    return found


def early(found: Any) -> list[str]:
    """What is done to headers before anything is decided: -prefix or +header."""
    done = []
    for extension in found.early_header_mutation_extensions:
        mutation = HeaderMutation()
        extension.typed_config.Unpack(mutation)
        done += [
            f"+{m.append.header.key}" if m.HasField("append") else f"-{m.remove_on_match.key_matcher.prefix}"
            for m in mutation.mutations
        ]
    return done


def state(found: Any) -> dict[str, list[tuple[str, str]]]:
    typed = TypedStruct()
    found.typed_config.Unpack(typed)
    return {
        when: [(s["object_key"], s["format_string"]["text_format_source"]["inline_string"]) for s in objects]
        for when, objects in json_format.MessageToDict(typed.value).items()
    }


@pytest.mark.parametrize(
    ("options", "codec", "xfcc", "mutations"),
    [
        ({}, Manager.AUTO, Manager.SANITIZE, []),
        (
            {"on_demand": listener.ASK_FOR_DESTINATION},
            Manager.AUTO,
            Manager.SANITIZE,
            ["-x-envoy-", "-x-isthmus-", f"+{route.CLUSTER_HEADER}"],
        ),
        ({"gateway": True}, Manager.HTTP2, Manager.SANITIZE_SET, ["-x-envoy-", "-x-isthmus-"]),
        ({"gateway": True, "http1": True}, Manager.AUTO, Manager.SANITIZE_SET, ["-x-envoy-", "-x-isthmus-"]),
    ],
)
def test_which_headers_are_believed(options: dict[str, bool], codec: int, xfcc: int, mutations: list[str]) -> None:
    found = manager(**options)
    assert (found.codec_type, found.forward_client_cert_details) == (codec, xfcc)
    assert early(found) == mutations
    gateway = "gateway" in options
    assert found.skip_xff_append is not gateway
    assert found.set_current_client_cert_details.uri is gateway
    names = [f.name.rpartition(".")[2] for f in found.http_filters]
    assert names == (["on_demand", "router"] if "on_demand" in options else ["router"])
    (nobody,) = found.internal_address_config.cidr_ranges  # an empty list would mean private addresses
    assert (nobody.address_prefix, nobody.prefix_len.value) == ("255.255.255.255", 32)


@pytest.mark.parametrize(
    ("more", "status", "headers"),
    [({}, 0, []), ({"status": 421}, 421, []), ({"not_forwarded": True}, 0, [route.NOT_FORWARDED])],
)
def test_what_envoy_says_by_itself_is_replaced(more: dict[str, Any], status: int, headers: list[str]) -> None:
    found = manager(replies=[listener.Reply(flag="UH", text="nothing is ready", **more)])
    (mapper,) = found.local_reply_config.mappers
    assert list(mapper.filter.response_flag_filter.flags) == ["UH"]
    assert mapper.body.inline_string == "isthmus: nothing is ready\n"
    assert mapper.status_code.value == status
    assert [h.header.key for h in mapper.headers_to_add] == headers


def test_the_caller_is_known_before_its_cluster_is_named() -> None:
    wait, proxy = listener.tcp_of_caller("s")
    assert state(wait) == {
        "on_downstream_tls_handshake": [
            (
                "envoy.tcp_proxy.cluster",
                "in-tcp/%CEL(connection.uri_san_peer_certificate.split('/')[2])%|%REQUESTED_SERVER_NAME%",
            )
        ]
    }
    found = TcpProxy()
    proxy.typed_config.Unpack(found)
    assert found.cluster == "in-tcp"
    assert found.upstream_connect_mode == ON_DOWNSTREAM_TLS_HANDSHAKE
    assert not found.HasField("on_demand")


def test_a_redirected_connection_names_its_cluster_at_once() -> None:
    name, proxy = listener.tcp_to_destination("s")
    assert state(name) == {"on_new_connection": [("envoy.tcp_proxy.cluster", "vip/%DOWNSTREAM_LOCAL_ADDRESS%")]}
    found = TcpProxy()
    proxy.typed_config.Unpack(found)
    assert found.HasField("on_demand")


@pytest.mark.parametrize(
    ("inspect", "original", "filters"),
    [(False, False, []), (True, False, ["tls_inspector"]), (True, True, ["original_dst", "tls_inspector"])],
)
def test_a_listener_looks_only_at_what_it_needs(inspect: bool, original: bool, filters: list[str]) -> None:
    made = listener.listener("out/x", "127.0.0.1", 80, [], inspect_tls=inspect, original_destination=original)
    assert [f.name.rpartition(".")[2] for f in made.listener_filters] == filters
    assert made.per_connection_buffer_limit_bytes.value == 32 * 1024
    assert made.stat_prefix == "out"


def test_a_callers_word_on_its_callers_is_kept_where_routes_judge_it() -> None:
    found = manager(gateway=True, forwards=True)
    assert found.forward_client_cert_details == Manager.APPEND_FORWARD
    assert found.set_current_client_cert_details.uri
    assert early(found) == ["-x-envoy-", "-x-isthmus-"]


def test_nothing_is_connected_to_before_the_caller_is_known() -> None:
    found = TcpProxy()
    listener.tcp("in-tcp", "w", after_handshake=True).typed_config.Unpack(found)
    assert (found.cluster, found.upstream_connect_mode) == ("w", ON_DOWNSTREAM_TLS_HANDSHAKE)
    assert found.max_early_data_bytes.value == 0
    listener.tcp("out", "w").typed_config.Unpack(found)
    assert found.upstream_connect_mode != ON_DOWNSTREAM_TLS_HANDSHAKE


def test_a_chain_is_for_one_alpn() -> None:
    made = listener.chain("c", [], alpn="h2")
    assert list(made.filter_chain_match.application_protocols) == ["h2"]
    assert made.filter_chain_match.transport_protocol == "tls"
    assert not made.filter_chain_match.server_names
    assert list(listener.chain("c", [], alpn="h2", sni="p80.a").filter_chain_match.server_names) == ["p80.a"]
    assert not listener.chain("c", []).HasField("filter_chain_match")
