"""Claims from stores: what is built anew, what is carried into the cache, what is wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from discovery.kube import cache
from discovery.kube.claims import Claims, places, pod_ranges
from discovery.kube.types import HeldSlice, Node, NodeDecoder, Service, ServiceDecoder, ServiceExport, SliceDecoder
from federation.errors import CorruptState
from federation.model.ids import ServiceName
from federation.model.service import Locality

HOME, ECHO, KEY = Locality("home", "home-1"), ServiceName("shop", "echo"), ("shop", "echo")


def meta(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "namespace": "shop", "resourceVersion": "7", "uid": "u", **more}


def service(name: str = "echo", **more: Any) -> Service:
    spec = {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}], "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"]}
    annotations = {"last-applied": "x" * 1000}
    return ServiceDecoder().decode(
        msgspec.json.encode({"metadata": meta(name, annotations=annotations, **more), "spec": spec})
    )


def export(name: str = "echo", created: str = "2026-01-02T03:04:05Z", **more: Any) -> ServiceExport:
    return msgspec.json.decode(
        msgspec.json.encode({"metadata": meta(name, creationTimestamp=created, **more)}), type=ServiceExport
    )


def slice_(address: str, name: str = "echo-1", of: str = "echo", family: str = "IPv4", **more: Any) -> HeldSlice:
    given = {
        "metadata": meta(name, labels={"kubernetes.io/service-name": of, "other": "x"}),
        "addressType": family,
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}, **more}],
    }
    return SliceDecoder().decode(msgspec.json.encode(given))


def node(name: str, region: str, zone: str) -> Node:
    labels = {"topology.kubernetes.io/region": region, "topology.kubernetes.io/zone": zone}
    return NodeDecoder().decode(msgspec.json.encode({"metadata": {"name": name, "labels": labels}}))


def made(*slices: HeldSlice) -> Claims:
    claims = Claims(locality=HOME)
    claims.services.put(service())
    claims.exports.put(export())
    for one in slices:
        claims.slices.put(one)
    build(claims)
    return claims


def build(claims: Claims) -> frozenset[ServiceName]:
    return claims.build(claims.take_dirty())


def addresses(claims: Claims) -> list[str]:
    return [e.address for e in claims.claims[ECHO].endpoints]


def test_only_what_changed_is_built() -> None:
    claims = made(slice_("10.0.0.1"))
    claims.services.put(service("other"))
    claims.slices.put(slice_("10.0.0.9", name="other-1", of="other"))
    assert not claims.dirty, "nobody exports it"
    assert set(claims.names) == {ECHO, ServiceName("shop", "other")}
    claims.slices.put(slice_("10.0.0.2", name="echo-2"))
    assert build(claims) == {ECHO}
    assert addresses(claims) == ["10.0.0.1", "10.0.0.2"]
    before = claims.claims[ECHO]
    claims.slices.put(slice_("10.0.0.2", name="echo-2"))
    assert build(claims) == frozenset(), "nothing differs"
    claims.services.put(service(generation=3))
    build(claims)
    assert claims.claims[ECHO] is before


def test_endpoints_that_stay_are_the_same_objects() -> None:
    claims = made(slice_("10.0.0.1"), slice_("10.0.0.2", name="echo-2"))
    stays = claims.claims[ECHO].endpoints[0]
    claims.slices.put(slice_("10.0.0.3", name="echo-2"))
    build(claims)
    assert addresses(claims) == ["10.0.0.1", "10.0.0.3"]
    assert claims.claims[ECHO].endpoints[0] is stays


def test_a_slice_that_changes_hands() -> None:
    claims = made(slice_("10.0.0.1"))
    claims.slices.put(slice_("10.0.0.1", of="other"))
    build(claims)
    assert addresses(claims) == []
    claims.slices.put(slice_("10.0.0.1"))
    build(claims)
    assert addresses(claims) == ["10.0.0.1"]
    claims.slices.delete("shop", "echo-1")
    build(claims)
    assert addresses(claims) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (slice_("example.com", family="FQDN"), "addressType"),
        (slice_("224.0.0.1"), "cannot be an endpoint"),
        (slice_("0.0.0.0"), "cannot be an endpoint"),
        (slice_("10.0.0.300"), "no IP address"),
        (slice_("::1%eth0", family="IPv6"), "IPv6"),
        (slice_("ff02::1", family="IPv6"), "cannot be an endpoint"),
        (slice_("::1"), "no IPv4"),
    ],
)
def test_a_slice_that_is_wrong_is_left_out_and_the_others_count(given: HeldSlice, said: str) -> None:
    claims = made(slice_("10.0.0.1", name="echo-2"), given)
    assert addresses(claims) == ["10.0.0.1"]
    (problem,) = claims.problems
    assert problem.code == "endpoints_refused"
    assert said in problem.detail


@pytest.mark.parametrize(
    ("created", "expected"),
    [
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05.000006Z", datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
        ("2199-01-01T00:00:00Z", datetime(2199, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59Z", None),
    ],
)
def test_a_clock_that_is_wrong_loses_conflicts_and_no_more(created: str, expected: datetime | None) -> None:
    claims = made(slice_("10.0.0.1"))
    claims.exports.put(export(created=created))
    build(claims)
    at = claims.claims[ECHO].exported_at_ns
    if expected is None:
        assert at == (1 << 63) - 1, "what a record can carry"
    else:
        assert at == int(expected.timestamp()) * 10**9 + expected.microsecond * 1000
    assert not claims.problems


def test_a_node_that_comes_later_moves_those_that_waited() -> None:
    claims = made(slice_("10.0.0.1", nodeName="n1"), slice_("10.0.0.2", name="echo-2", nodeName="n1", zone="own"))
    assert [e.locality for e in claims.claims[ECHO].endpoints] == [HOME, Locality("home", "own")]
    claims.nodes.put(node("n2", "r", "z"))
    assert not claims.dirty
    claims.nodes.put(node("n1", "r", "z"))
    build(claims)
    assert [e.locality for e in claims.claims[ECHO].endpoints] == [Locality("r", "z"), Locality("r", "own")]
    claims.nodes.delete("", "n1")
    assert not claims.dirty, "its endpoints go, too"


def test_the_cache_gives_back_what_was_there() -> None:
    claims = made(slice_("10.0.0.1", nodeName="n1"))
    claims.nodes.put(node("n1", "r", "z"))
    build(claims)
    parts = claims.parts(KEY)
    assert parts is not None
    data = cache.encode({"shop/echo": cache.encode_export(cache.Exported(*parts))}, places(claims.nodes.objects))
    loaded, again = cache.decode(data), Claims(locality=HOME)
    again.nodes.replace(loaded.placed(), "")
    for one in loaded.exports.values():
        again.exports.put(one.export)
        again.services.put(one.service or service())
        for held in one.slices:
            again.slices.put(held)
    build(again)
    assert dict(again.claims) == dict(claims.claims)
    assert again.exports.objects == claims.exports.objects
    assert claims.services.objects[KEY].metadata.annotations is None, "what is not used is not held"


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x80", b"{}", msgspec.msgpack.encode({"version": 2, "nodes": {}, "exports": {}})]
)
def test_a_cache_of_another_version_is_damaged(data: bytes) -> None:
    with pytest.raises(CorruptState):
        cache.decode(data)


def test_the_ranges_of_pods_are_those_of_all_nodes():
    def holding(name: str, *ranges: str) -> Node:
        spec = {"podCIDR": ranges[0], "podCIDRs": ranges} if ranges else {}
        return NodeDecoder().decode(msgspec.json.encode({"metadata": {"name": name}, "spec": spec}))

    nodes = [
        holding("a", "10.1.0.0/24", "fd00::/64"),
        holding("b", "10.1.1.0/24"),
        holding("c"),
        node("d", "eu", "eu-1"),
    ]
    assert pod_ranges(nodes) == ("10.1.0.0/23", "fd00::/64")
    assert pod_ranges([]) == ()
