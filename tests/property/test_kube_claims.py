"""What is built of a change alone is what is built of everything at once, after any history."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from discovery.kube.claims import Claims
from discovery.kube.types import NodeDecoder, ServiceDecoder, ServiceExport, SliceDecoder
from federation.model.service import Locality

HOME = Locality("home", "home-1")


def _name_of(port: Any) -> str:
    return str(port["name"])


def _fields(required: dict[str, Any], optional: dict[str, Any] | None = None) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional or {})


_endpoint = _fields(
    {
        "addresses": st.sampled_from([["10.0.0.1"], ["10.0.0.2"], ["10.0.0.3", "10.0.0.4"]]),
        "conditions": _fields(
            {}, optional={"ready": st.booleans(), "serving": st.booleans(), "terminating": st.booleans()}
        ),
    },
    optional={"hostname": st.sampled_from(["a", "b"]), "zone": st.just("z"), "nodeName": st.sampled_from(["n1", "n2"])},
)
_slice = st.tuples(
    st.just("slice"),
    st.sampled_from(["s1", "s2"]),
    _fields(
        {
            "addressType": st.sampled_from(["IPv4", "IPv4", "IPv4", "FQDN"]),
            "endpoints": st.lists(_endpoint, max_size=3),
            "ports": st.lists(
                st.sampled_from([{"name": n, "port": p} for n in ("http", "dns") for p in (8080, 9090)]),
                max_size=2,
                unique_by=_name_of,
            ),
        }
    ),
)
_service = st.tuples(
    st.just("service"),
    st.just("echo"),
    _fields(
        {
            "clusterIP": st.sampled_from(["None", "10.1.1.1"]),
            "ports": st.lists(
                st.sampled_from(
                    [
                        {"name": "http", "port": 80},
                        {"name": "dns", "port": 53, "protocol": "UDP"},
                        {"name": "sctp", "port": 7, "protocol": "SCTP"},
                    ]
                ),
                max_size=3,
                unique_by=_name_of,
            ),
        },
        optional={"publishNotReadyAddresses": st.booleans(), "ipFamilies": st.just(["IPv4"])},
    ),
)
_export = st.tuples(st.just("export"), st.just("echo"), st.sampled_from(["", "west", "no port:x"]))
_node = st.tuples(st.just("node"), st.sampled_from(["n1", "n2"]), st.sampled_from(["r1a", "r1b"]))
_gone = st.tuples(
    st.just("gone"), st.sampled_from(["echo", "s1", "s2"]), st.sampled_from(["slice", "service", "export"])
)


def put(claims: Claims, what: str, name: str, value: Any, version: int) -> None:
    metadata: dict[str, Any] = {"name": name, "namespace": "shop", "resourceVersion": str(version)}
    if what == "slice":
        metadata["labels"] = {"kubernetes.io/service-name": "echo"}
        claims.slices.put(SliceDecoder().decode(msgspec.json.encode({"metadata": metadata, **value})))
    elif what == "service":
        claims.services.put(ServiceDecoder().decode(msgspec.json.encode({"metadata": metadata, "spec": value})))
    elif what == "export":
        metadata["annotations"] = {"isthmus.io/consumers": value} if value else {}
        data = msgspec.json.encode({"metadata": metadata})
        claims.exports.put(msgspec.json.decode(data, type=ServiceExport))
    elif what == "node":
        metadata |= {"namespace": "", "labels": {"topology.kubernetes.io/zone": value}}
        claims.nodes.put(NodeDecoder().decode(msgspec.json.encode({"metadata": metadata})))
    elif value == "slice":
        claims.slices.delete("shop", name)
    elif value == "service":
        claims.services.delete("shop", name)
    else:
        claims.exports.delete("shop", name)


@given(st.lists(st.one_of(_slice, _slice, _slice, _service, _export, _node, _gone), max_size=25))
def test_a_claim_built_step_by_step_is_the_one_built_at_once(history: list[tuple[str, str, Any]]) -> None:
    steps = Claims(locality=HOME)
    for version, (what, name, value) in enumerate([("service", "echo", {}), ("export", "echo", ""), *history], 1):
        put(steps, what, name, value, version)
        steps.build(steps.take_dirty())
    once = Claims(locality=HOME)
    once.nodes.replace(steps.nodes.objects.values(), "")
    once.services.replace(steps.services.objects.values(), "")
    once.exports.replace(steps.exports.objects.values(), "")
    once.slices.replace(steps.slices.objects.values(), "")
    once.build(once.take_dirty())
    assert dict(steps.claims) == dict(once.claims)
    assert steps.problems == once.problems
