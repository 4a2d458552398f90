"""What `fedctl get` makes of what it was told."""

from __future__ import annotations

from federation.cli.get import _endpoints
from federation.model.ids import ServiceName
from federation.model.service import Backend, Endpoint, Import, Locality, Readiness


def test_endpoints_are_local_copies_one_by_one_and_others_by_zone() -> None:
    vm = "spiffe://east.test/ns/shop/sa/vm"
    endpoints = (
        Endpoint(address="10.0.0.1", ports={80: 8080}, locality=Locality("eu", "eu-1")),
        Endpoint(address="10.0.0.2", ports={80: 15006}, identity=vm),
        Endpoint(address="10.0.0.3", ports={80: 8080}, terminating=True),
    )
    imported = Import(
        name=ServiceName("shop", "echo"),
        backends=(
            Backend(cluster="east", local=True, endpoints=endpoints),
            Backend(cluster="west", stale=True, readiness=(Readiness(Locality("us", "us-1"), 3),)),
        ),
    )
    sources = {"shop/echo": {"10.0.0.1": "kubernetes", "10.0.0.2": "vm v-1"}, "shop/other": {"10.0.0.3": "files"}}
    keys = ("cluster", "stale", "source", "zone", "address", "ready", "identity")
    assert [tuple(row[key] for key in keys) for row in _endpoints("east", imported, sources)] == [
        ("east", False, "kubernetes", "eu-1", "10.0.0.1", 1, ""),
        ("east", False, "vm v-1", "", "10.0.0.2", 1, vm),
        ("east", False, "", "", "10.0.0.3", 0, ""),
        ("west", True, "", "us-1", "gateway", 3, ""),
    ]
