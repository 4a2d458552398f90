from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from envoy.extensions.resource_monitors.downstream_connections.v3 import downstream_connections_pb2

from federation.envoy.bootstrap import ADS_CLUSTER, STATS, bootstrap
from federation.envoy.process import find_envoy


def example(directory: Path) -> Any:
    return bootstrap(
        node_id="gateway-1",
        cluster="east",
        ads_path=directory / "ads.sock",
        admin_path=directory / "admin.sock",
        max_connections=123,
        stats=["cluster.out/", "server.live"],
        runtime={"some.key": True},
        metadata={"isthmus": "test"},
        zone="z",
        region="r",
    )


def test_what_it_says() -> None:
    message = example(Path("/run/x"))
    assert message.node.id == "gateway-1"
    assert message.node.locality.zone == "z"
    assert message.node.metadata["isthmus"] == "test"
    assert message.admin.address.pipe.path == "/run/x/admin.sock"
    assert message.admin.address.pipe.mode == 0o600
    ads = message.dynamic_resources.ads_config
    assert ads.ApiType.Name(ads.api_type) == "DELTA_GRPC"
    assert ads.grpc_services[0].envoy_grpc.cluster_name == ADS_CLUSTER == message.static_resources.clusters[0].name
    limits = downstream_connections_pb2.DownstreamConnectionsConfig()
    assert message.overload_manager.resource_monitors[1].typed_config.Unpack(limits)
    assert limits.max_active_downstream_connections == 123
    triggers = {a.name: a.triggers[0].threshold.value for a in message.overload_manager.actions}
    assert triggers == {
        "envoy.overload_actions.shrink_heap": 0.95,
        "envoy.overload_actions.stop_accepting_requests": 0.98,
    }
    kept = [p.prefix for p in message.stats_config.stats_matcher.inclusion_list.patterns if p.prefix]
    assert kept == sorted({*STATS, "cluster.out/"})
    assert message.layered_runtime.layers[0].static_layer["some.key"] is True


def test_it_is_the_same_each_time(tmp_path: Path) -> None:
    assert example(tmp_path).SerializeToString(deterministic=True) == example(tmp_path).SerializeToString(
        deterministic=True
    )


@pytest.mark.integration
def test_envoy_accepts_it(tmp_path: Path) -> None:
    path = tmp_path / "bootstrap.pb"
    path.write_bytes(example(tmp_path).SerializeToString())
    done = subprocess.run(
        [find_envoy(), "--mode", "validate", "-c", path, "--disable-hot-restart", "--concurrency", "1"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"warning" not in done.stderr
    assert b"critical" not in done.stderr
