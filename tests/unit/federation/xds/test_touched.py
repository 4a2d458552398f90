"""What a snapshot may differ in is known without a comparison, and never less than a comparison finds."""

from __future__ import annotations

import random

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import config_source_pb2
from envoy.config.endpoint.v3 import endpoint_pb2

from federation.xds.snapshot import Resource, Snapshot, TypeUrl


def cluster(name, seconds):
    ads = config_source_pb2.ConfigSource(ads=config_source_pb2.AggregatedConfigSource())
    message = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.EDS)
    message.eds_cluster_config.eds_config.CopyFrom(ads)
    message.connect_timeout.seconds = seconds
    return Resource.of(name, message)


def endpoints(name, weight):
    message = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    message.endpoints.add().load_balancing_weight.value = weight
    return Resource.of(name, message)


def differing(old, new):
    return {
        (kind, name)
        for kind in TypeUrl
        for name in old.names(kind) | new.names(kind)
        if (a := old.get(kind, name)) is not (b := new.get(kind, name))
        and (a is None or b is None or a.version != b.version)
    }


def test_it_covers_every_difference():
    dice = random.Random(5)
    history = [Snapshot()]
    for _ in range(300):
        kind, make = dice.choice([(TypeUrl.CLUSTER, cluster), (TypeUrl.ENDPOINT, endpoints)])
        names = [f"c{n}" for n in dice.sample(range(12), 3)]
        put = [make(name, dice.randrange(1, 4)) for name in names[:2]]
        history.append(history[-1].with_(kind, put=put, remove=names[2:]))
        old = dice.choice(history[-10:])
        touched = history[-1].touched_since(old)
        assert touched is not None
        assert differing(old, history[-1]) <= {(kind, name) for kind, names in touched.items() for name in names}


def test_who_is_no_ancestor_is_compared():
    one = Snapshot().with_(TypeUrl.CLUSTER, put=[cluster("a", 1)])
    other = Snapshot().with_(TypeUrl.CLUSTER, put=[cluster("b", 1)])
    assert one.touched_since(other) is None
    assert one.touched_since(one) == {}
    far = one
    for n in range(40):
        far = far.with_(TypeUrl.CLUSTER, put=[cluster("a", n)])
    assert far.touched_since(one) is None
