from __future__ import annotations

import pytest
from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2

from federation.errors import InvalidInput
from federation.xds.snapshot import InconsistentSnapshot, Resource, Snapshot, TypeUrl

ADS = {"eds_config": {"ads": {}, "resource_api_version": "V3"}}


def cluster(name: str, *, seconds: int = 1, service: str = "") -> Resource:
    message = cluster_pb2.Cluster(name=name, type="EDS", eds_cluster_config={**ADS, "service_name": service})
    message.connect_timeout.FromSeconds(seconds)
    return Resource.of(name, message)


def endpoint(name: str) -> Resource:
    return Resource.of(name, endpoint_pb2.ClusterLoadAssignment(cluster_name=name))


def test_the_version_is_the_content() -> None:
    assert cluster("a").version == cluster("a").version != cluster("a", seconds=2).version
    assert cluster_pb2.Cluster.FromString(cluster("a").body).name == "a"


def test_what_did_not_change_is_the_same_object() -> None:
    first = cluster("a")
    message = cluster_pb2.Cluster.FromString(first.body)
    assert Resource.of("a", message, previous=first) is first
    message.connect_timeout.FromSeconds(9)
    assert Resource.of("a", message, previous=first).version != first.version


@pytest.mark.parametrize("name", ["b", ""])
def test_a_name_must_be_the_messages_own(name: str) -> None:
    with pytest.raises(InvalidInput, match="calls itself"):
        Resource.of(name, cluster_pb2.Cluster(name="a" if name else ""))


def test_other_messages_are_no_resources() -> None:
    with pytest.raises(InvalidInput, match="no resource"):
        Resource.of("x", bootstrap_pb2.Bootstrap())


def test_a_name_stands_once() -> None:
    with pytest.raises(InconsistentSnapshot, match="'a' stands twice"):
        Snapshot.of({TypeUrl.CLUSTER: [cluster("a"), cluster("a", seconds=2)]})
    with pytest.raises(InvalidInput, match="is a cluster, not a listener"):
        Snapshot.of({TypeUrl.LISTENER: [cluster("a")]})


def test_a_changed_cluster_changes_its_endpoints_version() -> None:
    one = Snapshot.of({TypeUrl.CLUSTER: [cluster("a"), cluster("b")], TypeUrl.ENDPOINT: [endpoint("a"), endpoint("b")]})
    two = one.with_(TypeUrl.CLUSTER, put=[cluster("a", seconds=2)])
    assert two.get(TypeUrl.ENDPOINT, "b") is one.get(TypeUrl.ENDPOINT, "b")
    old, new = one.get(TypeUrl.ENDPOINT, "a"), two.get(TypeUrl.ENDPOINT, "a")
    assert old is not None
    assert new is not None
    assert old.version != new.version
    assert old.content == new.content
    # … in whatever order the two are given, and for whoever uses them.
    three = Snapshot.of({TypeUrl.ENDPOINT: [endpoint("b"), endpoint("a")], TypeUrl.CLUSTER: []})
    three = three.with_(TypeUrl.CLUSTER, put=[cluster("b"), cluster("a", seconds=2)])
    assert three.digest == two.digest != one.digest
    shared = Snapshot.of({TypeUrl.CLUSTER: [cluster("x", service="s"), cluster("y", service="s")]})
    shared = shared.with_(TypeUrl.ENDPOINT, put=[endpoint("s")])
    changed = shared.with_(TypeUrl.CLUSTER, remove=["x"])
    assert shared.get(TypeUrl.ENDPOINT, "s") != changed.get(TypeUrl.ENDPOINT, "s")


def test_a_snapshot_is_left_as_it_was() -> None:
    one = Snapshot.of({TypeUrl.CLUSTER: [cluster("a")]})
    before = one.digest
    two = one.with_(TypeUrl.CLUSTER, put=[cluster("b")], remove=["a", "never there"])
    assert (one.digest, one.names(TypeUrl.CLUSTER)) == (before, {"a"})
    assert two.names(TypeUrl.CLUSTER) == {"b"}
    assert two.get(TypeUrl.CLUSTER, "a") is None


def test_what_a_build_function_returns() -> None:
    def built(seconds: int) -> dict[str, list[tuple[str, object]]]:
        a, b = cluster_pb2.Cluster(name="a", type="EDS", eds_cluster_config=ADS), cluster_pb2.Cluster(name="b")
        b.connect_timeout.FromSeconds(seconds)
        return {
            TypeUrl.CLUSTER.value: [("a", a), ("b", b)],
            TypeUrl.ENDPOINT.value: [("a", endpoint_pb2.ClusterLoadAssignment(cluster_name="a"))],
        }

    one = Snapshot.built(built(1))
    two = Snapshot.built(built(2), previous=one)
    assert two.get(TypeUrl.CLUSTER, "a") is one.get(TypeUrl.CLUSTER, "a")
    assert two.get(TypeUrl.CLUSTER, "b") != one.get(TypeUrl.CLUSTER, "b")
    assert Snapshot.built(built(1), previous=two).digest == one.digest
    with pytest.raises(InvalidInput, match="no resource type"):
        Snapshot.built({"type.googleapis.com/other": []})


def test_types_have_short_names() -> None:
    assert [kind.label for kind in TypeUrl] == ["secret", "cluster", "endpoint", "listener", "route"]
