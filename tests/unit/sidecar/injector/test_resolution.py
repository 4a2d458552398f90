from __future__ import annotations

from typing import Any

import pytest

from sidecar.injector.options import ClusterDns
from sidecar.injector.resolution import resolution

DNS = ClusterDns(servers=("10.96.0.10",), domain="cluster.local", searches=("corp.example",))
CLUSTER = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"]
NDOTS = {"name": "ndots", "value": "5"}


@pytest.mark.parametrize(
    ("spec", "servers", "config"),
    [
        ({}, ["10.96.0.10"], {"searches": CLUSTER, "options": [NDOTS]}),
        ({"dnsPolicy": "ClusterFirst"}, ["10.96.0.10"], {"searches": CLUSTER, "options": [NDOTS]}),
        ({"dnsPolicy": "ClusterFirstWithHostNet"}, ["10.96.0.10"], {"searches": CLUSTER, "options": [NDOTS]}),
        (
            {
                "dnsConfig": {
                    "nameservers": ["192.0.2.1", "10.96.0.10"],
                    "searches": ["own.example", "cluster.local"],
                    "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
                }
            },
            ["10.96.0.10", "192.0.2.1"],
            {"searches": [*CLUSTER, "own.example"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]},
        ),
        ({"dnsPolicy": "Default"}, ["10.96.0.10"], {"searches": ["corp.example"]}),
        (
            {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"], "searches": ["own.example"]}},
            ["192.0.2.1"],
            {"searches": ["own.example"]},
        ),
        ({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"]}}, ["192.0.2.1"], {}),
    ],
)
def test_a_pod_resolves_as_before_but_by_the_sidecar(
    spec: dict[str, Any], servers: list[str], config: dict[str, Any]
) -> None:
    found = resolution(spec, "shop", DNS)
    assert list(found.servers) == servers
    assert found.at("127.0.0.1") == {"nameservers": ["127.0.0.1"], **config}


def test_the_search_list_is_as_long_as_the_api_server_takes_it() -> None:
    spec = {"dnsConfig": {"searches": [f"s{number}.example" for number in range(32)]}}
    searches = resolution(spec, "shop", DNS).at("127.0.0.1")["searches"]
    assert len(searches) == 32
    assert searches[:4] == CLUSTER
