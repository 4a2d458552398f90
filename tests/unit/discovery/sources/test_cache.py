"""The cache of manifests: what was parsed comes back equal, and other bytes are told from it."""

from __future__ import annotations

import pytest

from discovery.sources import cache
from discovery.sources.parse import parse
from federation.errors import CorruptState

TEXT = b"""apiVersion: v1
kind: Service
metadata: {name: echo, namespace: shop, labels: {tier: front}}
spec:
  ports: [{name: http, port: 80, appProtocol: http, targetPort: web}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: echo-1, namespace: shop, labels: {kubernetes.io/service-name: echo}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}, zone: eu-1a}]
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: echo, namespace: shop, creationTimestamp: "2026-01-02T03:04:05Z"}
"""


def test_it_comes_back_equal() -> None:
    manifests = parse(TEXT).manifests
    whole = cache.CachedFile((1, 2, 3, 4, 5), 2, manifests)
    unsure = cache.CachedFile(None, 0, ())
    data = cache.encode(
        {"a.yaml": cache.encode_file(whole), "b.yaml": cache.encode_file(unsure)}, {"shop/echo": 1_700_000_000 * 10**9}
    )
    loaded = cache.decode(data)
    assert loaded.files == {"a.yaml": whole, "b.yaml": unsure}
    assert loaded.first_seen == {"shop/echo": 1_700_000_000 * 10**9}
    assert len(manifests) == 3


def test_nothing_is_a_cache_too() -> None:
    assert cache.decode(cache.encode({}, {})) == cache.Cache()


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80\x80", b"\x93\x01\x02\x03", b'{"files": {}}'])
def test_other_bytes_are_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptState):
        cache.decode(data)
    with pytest.raises(CorruptState):
        cache.decode(cache.encode({"a": cache.encode_file(cache.CachedFile(None, 0, ()))}, {})[:-1])
