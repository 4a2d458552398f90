"""A real Envoy beside an ADS server, and the resources that the tests give it."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import config_source_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from google.protobuf import any_pb2

from clusters.waiting import DEADLINE, until
from federation.envoy.bootstrap import ADS_CLUSTER, bootstrap
from federation.envoy.process import EnvoyProcess
from federation.xds.server import AdsServer
from federation.xds.snapshot import Resource

ADS = config_source_pb2.ConfigSource(ads={}, resource_api_version="V3")


def _any(message: object) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)  # type: ignore[arg-type]
    return packed


def _socket_address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


@dataclass
class Make:
    """Makes resources."""

    def cluster(self, name: str, *, connect_timeout: float = 1.0, broken: bool = False) -> Resource:
        message = cluster_pb2.Cluster(name=name, type="EDS", eds_cluster_config={"eds_config": ADS})
        message.connect_timeout.FromMilliseconds(0 if broken else int(connect_timeout * 1000))
        return Resource.of(name, message)

    def endpoint(self, name: str, *ports: int) -> Resource:
        endpoints = [{"endpoint": {"address": _socket_address(port)}} for port in ports]
        return Resource.of(
            name, endpoint_pb2.ClusterLoadAssignment(cluster_name=name, endpoints=[{"lb_endpoints": endpoints}])
        )

    def listener(self, name: str, port: int, cluster: str) -> Resource:
        proxy = tcp_proxy_pb2.TcpProxy(stat_prefix="t", cluster=cluster)
        filters = [{"name": "envoy.filters.network.tcp_proxy", "typed_config": _any(proxy)}]
        return Resource.of(
            name, listener_pb2.Listener(name=name, address=_socket_address(port), filter_chains=[{"filters": filters}])
        )

    def on_demand_listener(self, name: str, port: int) -> Resource:
        """Names the cluster after the address that was dialled and asks for it."""
        state = set_filter_state_pb2.Config(
            on_new_connection=[
                {
                    "object_key": "envoy.tcp_proxy.cluster",
                    "format_string": {"text_format_source": {"inline_string": "vip/%DOWNSTREAM_LOCAL_ADDRESS%"}},
                }
            ]
        )
        proxy = tcp_proxy_pb2.TcpProxy(stat_prefix="t", cluster="none", on_demand={"odcds_config": ADS})
        proxy.on_demand.timeout.FromSeconds(5)
        filters = [
            {"name": "envoy.filters.network.set_filter_state", "typed_config": _any(state)},
            {"name": "envoy.filters.network.tcp_proxy", "typed_config": _any(proxy)},
        ]
        return Resource.of(
            name, listener_pb2.Listener(name=name, address=_socket_address(port), filter_chains=[{"filters": filters}])
        )


@pytest.fixture
def make() -> Make:
    return Make()


@dataclass
class Pair:
    """An ADS server and its Envoy."""

    ads: AdsServer
    envoy: EnvoyProcess
    demanded: list[str] = field(default_factory=list)

    async def acked(self, generation: int, *, seconds: float = DEADLINE) -> None:
        async with asyncio.timeout(seconds):
            version = self.ads.acked.version
            while self.ads.acked.value < generation:
                version, _ = await self.ads.acked.newer(version)


@pytest.fixture(name="until")
def _until() -> Callable[..., Awaitable[None]]:
    return until


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    with tempfile.TemporaryDirectory(prefix="isthmus-") as name:  # tmp_path can be too long for a UNIX socket
        directory = Path(name)
        demanded: list[str] = []
        ads = AdsServer(
            directory / "ads.sock",
            demand=lambda kind, names: demanded.extend(sorted(names)),
            static=[ADS_CLUSTER],
            hold=5.0,
        )
        await ads.start()
        message = bootstrap(
            node_id="test", cluster="test", ads_path=ads.path, admin_path=directory / "admin.sock", stats=["cluster."]
        )
        envoy = EnvoyProcess(message, directory, drain_seconds=1)
        running = asyncio.create_task(envoy.run(), name="envoy")
        try:
            yield Pair(ads, envoy, demanded)
        finally:
            await envoy.stop()
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            await ads.close()


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """A TCP server that sends back what it reads; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1024):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
def say() -> Callable[[int], Awaitable[bytes]]:
    """Opens a connection to a port, says something and returns what came back; empty when it was closed."""

    async def call(port: int, text: bytes = b"hello") -> bytes:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return b""
        try:
            writer.write(text)
            async with asyncio.timeout(10):
                return await reader.read(1024)
        except OSError:
            return b""
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    return call
