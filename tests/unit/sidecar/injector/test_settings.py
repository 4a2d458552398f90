from __future__ import annotations

import pytest

from federation.errors import InvalidSettings
from sidecar.injector.options import ClusterDns
from sidecar.injector.settings import DnsSettings, cluster_dns

POD = """\
search isthmus-system.svc.fleet.example svc.fleet.example fleet.example corp.example
nameserver 10.96.0.10
options ndots:5
"""


@pytest.mark.parametrize(
    ("given", "resolv_conf", "found"),
    [
        (
            DnsSettings(),
            POD,
            ClusterDns(servers=("10.96.0.10",), domain="fleet.example", searches=("corp.example",)),
        ),
        (
            DnsSettings(servers=("192.0.2.1",), domain="other.example", searches=("x.example",)),
            POD,
            ClusterDns(servers=("192.0.2.1",), domain="other.example", searches=("x.example",)),
        ),
        (DnsSettings(), "nameserver 192.0.2.1\n", ClusterDns(servers=("192.0.2.1",))),
        (DnsSettings(servers=("192.0.2.1",)), "", ClusterDns(servers=("192.0.2.1",))),
    ],
)
def test_how_pods_resolve_is_seen_in_a_pod(given: DnsSettings, resolv_conf: str, found: ClusterDns) -> None:
    assert cluster_dns(given, resolv_conf, namespace="isthmus-system") == found


def test_without_a_server_it_says_what_to_set() -> None:
    with pytest.raises(InvalidSettings, match=r"pods\.dns\.servers"):
        cluster_dns(DnsSettings(), "options ndots:5\n", namespace="isthmus-system")
