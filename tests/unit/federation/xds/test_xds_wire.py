from __future__ import annotations

from envoy.config.cluster.v3 import cluster_pb2
from envoy.service.discovery.v3 import discovery_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.xds import wire
from federation.xds.snapshot import Resource, TypeUrl

names = st.text(min_size=1, max_size=300)


@settings(max_examples=50)
@given(st.lists(st.tuples(names, st.binary(max_size=40_000)), max_size=4), st.lists(names, max_size=3), names)
def test_protobuf_reads_what_was_spliced(put: list[tuple[str, bytes]], removed: list[str], nonce: str) -> None:
    resources = [Resource(kind=TypeUrl.CLUSTER, name=n, version=f"v{n}", body=b) for n, b in put]
    raw = wire.response(kind=TypeUrl.CLUSTER, nonce=nonce, put=resources, removed=removed, system_version="7")
    expected = discovery_pb2.DeltaDiscoveryResponse(
        system_version_info="7", type_url=TypeUrl.CLUSTER.value, nonce=nonce, removed_resources=removed
    )
    for name, body in put:
        added = expected.resources.add(name=name, version=f"v{name}")
        added.resource.type_url = TypeUrl.CLUSTER.value
        added.resource.value = body
    assert discovery_pb2.DeltaDiscoveryResponse.FromString(raw) == expected


def test_a_resource_unpacks() -> None:
    resource = Resource.of("a", cluster_pb2.Cluster(name="a"))
    parsed = discovery_pb2.DeltaDiscoveryResponse.FromString(
        wire.response(kind=TypeUrl.CLUSTER, nonce="1", put=[resource], removed=[])
    )
    unpacked = cluster_pb2.Cluster()
    assert parsed.resources[0].resource.Unpack(unpacked)
    assert unpacked.name == "a"
    assert not parsed.system_version_info
