"""A gateway as it runs in a Pod: a real process with its Envoy, its token, its Service, and no file of the agent's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusters.children import start_child
from clusters.network import free_port
from clusters.waiting import ANSWER, DEADLINE, START, until
from discovery.kube.settings import KubernetesSettings
from discovery.pods.identity import AUDIENCE
from discovery.settings import PodsSettings
from federation.errors import AlreadyExists
from federation.model.ids import SYSTEM_NAMESPACE, ServiceName
from federation.model.record import Kind
from federation.proto.v1 import records_pb2
from federation.trust.pem import armour

pytestmark = pytest.mark.integration

NAME = "isthmus-gateway-7d4b9c5f6d-x2k8p"
SERVICE = "isthmus-gateway"


class Gateway:
    """The process; `folder` is what is mounted into its Pod."""

    def __init__(self, folder: Path, settings: dict[str, Any], *told: str) -> None:
        self.folder, self.log, self.state = folder, folder / "log", folder / "state"
        (folder / "gateway.yaml").write_text(yaml.safe_dump({**settings, "state_directory": str(self.state)}))
        command = [sys.executable, "-m", "gateway", "--settings", str(folder / "gateway.yaml")]
        self.process = start_child(command + [word for one in told for word in ("--set", one)], self.log)

    def http(self, path: str) -> tuple[int, str]:
        """What its metrics server says; (0, "") while there is none."""
        try:
            port = json.loads((self.state / "ports.json").read_text())["metrics"]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=ANSWER) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    async def answers(self, path: str, status: int, text: str = "") -> None:
        async def good() -> bool:
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            found = await asyncio.to_thread(self.http, path)
            return found[0] == status and text in found[1]

        await until(good, seconds=START, what=f"{path} {status} {text}")

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: UNIX sockets are in it."""
    made = Path(tempfile.mkdtemp(prefix="ip-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def token(kube_clusters: Any, folder: Path) -> AsyncIterator[Path]:
    """What the kubelet gives to a Pod of the service account `gateway`."""
    metadata = {"name": "gateway", "namespace": SYSTEM_NAMESPACE}
    containers = [{"name": "gateway", "image": "none"}]
    spec = {"serviceAccountName": "gateway", "automountServiceAccountToken": False, "containers": containers}
    async with kube_clusters[0].connect() as client:
        with contextlib.suppress(AlreadyExists):
            await client.create_namespace(SYSTEM_NAMESPACE)
        with contextlib.suppress(AlreadyExists):
            await client.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        await client.create({"apiVersion": "v1", "kind": "Pod", "metadata": {**metadata, "name": NAME}, "spec": spec})
        path = folder / "token"
        path.write_text(await client.token(SYSTEM_NAMESPACE, "gateway", audiences=[AUDIENCE], pod=NAME))
        yield path
        await client.delete("v1", "Pod", NAME, SYSTEM_NAMESPACE)


class Backend:
    """An HTTP workload that takes its time for /slow, until `finish` is set."""

    def __init__(self) -> None:
        self.port, self.busy, self.finish = 0, asyncio.Event(), asyncio.Event()


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    made = Backend()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            if b"/slow" in await reader.readuntil(b"\r\n\r\n"):
                made.busy.set()
                await made.finish.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\neast")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


async def test_a_gateway_in_a_pod(
    kube_clusters: Any,
    kube_namespace: str,
    federation: Any,
    manifest: Any,
    token: Path,
    backend: Backend,
    folder: Path,
) -> None:
    running = await federation.cluster("east", start=False)
    text = manifest("echo", "127.0.0.1").replace("namespace: shop", f"namespace: {kube_namespace}")
    running.write("echo.yaml", text.replace("port: 8080}", f"port: {backend.port}}}"))
    kubernetes = KubernetesSettings(
        kubeconfig=str(kube_clusters[0].kubeconfig),
        confirm=0.2,
        namespace=kube_namespace,
        gateway_service=SERVICE,
    )
    changes = {
        "kubernetes": kubernetes,
        "pods": PodsSettings(listen=f"127.0.0.1:{free_port()}"),
        # Long: what is withdrawn in this test is withdrawn because somebody said so.
        "gateway_lease": 300.0,
    }
    agent = await running.start(**changes)
    (folder / "root.pem").write_bytes(armour(agent.bundle.roots))
    settings = {
        "port": 31443,
        "bind": "127.0.0.1",
        "bind_port": free_port(),
        "agent": {"enrolment": [changes["pods"].listen], "anchors": "root.pem", "service_account_token": str(token)},
        "drain_seconds": 60,  # it ends as soon as nothing runs
    }
    told = (f"name={NAME}", "address=service", "egress_bind=127.0.0.1", "metrics.host=0.0.0.0")
    gateway = Gateway(folder, settings, *told)
    try:
        # It proves itself by its token, and is ready when its Envoy has the ports open.
        await gateway.answers("/readyz", 200)
        assert agent.doors.pod_calls == (1, 0)
        await until(lambda: NAME in agent.consumers.gateways.value)
        # Its address is what its Service says, once there is one, and follows it.
        await until(lambda: "gateway_service" in running.codes())
        assert agent.report.records.names(Kind.GATEWAY) == set()
        await _served_at(kube_clusters[0], kube_namespace, agent)
        assert "gateway_service" not in running.codes()
        # A workload without a sidecar calls through it.
        name = ServiceName(kube_namespace, "echo")
        await until(lambda: name in agent.view.imports and agent.view.imports[name].gateway_ports, seconds=START)
        port = agent.view.imports[name].gateway_ports[80]
        host = f"echo.{kube_namespace}.global"
        await until(lambda: _serves(port, host), seconds=START)
        # The agent is away: the process lives, is ready, and serves.
        await running.stop()
        await gateway.answers("/metrics", 200, "isthmus_watch_connected 0.0")
        await gateway.answers("/healthz", 200)
        await gateway.answers("/readyz", 200)
        assert await _serves(port, host)
        # It is back: the gateway was never lost to the peers, though its Service has yet to be read.
        agent = await running.start(**changes)
        assert agent.consumers.gateways.value[NAME].address == "198.51.100.8"
        await until(lambda: [c.connected for c in agent.consumers.all] == [True])
        # The Pod ends: peers hear of it. It is ready as long as it serves, for nodes that have no other.
        slow = asyncio.create_task(asyncio.to_thread(_get, port, host, "/slow"), name="slow")
        await asyncio.wait_for(backend.busy.wait(), ANSWER)
        gateway.process.send_signal(signal.SIGTERM)
        await until(lambda: agent.consumers.gateways.value[NAME].draining)
        await gateway.answers("/readyz", 200)
        assert await _serves(port, host)
        backend.finish.set()
        assert await slow == "east"
        assert await asyncio.to_thread(gateway.process.wait, DEADLINE) == 0
        await until(lambda: NAME not in agent.consumers.gateways.value)
        assert agent.report.records.names(Kind.GATEWAY) == set()
    except BaseException:
        print(gateway.log.read_text()[-20_000:])
        raise
    finally:
        gateway.end()


async def _served_at(cluster: Any, namespace: str, agent: Any) -> None:
    metadata = {"name": SERVICE, "namespace": namespace}
    spec = {"type": "LoadBalancer", "ports": [{"port": 443, "targetPort": 31443}]}

    def address() -> tuple[str, int]:
        found = agent.consumers.gateways.value[NAME]
        return found.address, found.port

    async with cluster.connect() as client:
        await client.create({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
        for ip in ("198.51.100.7", "198.51.100.8"):
            status = {"status": {"loadBalancer": {"ingress": [{"ip": ip}]}}}
            await client.patch("v1", "Service", SERVICE, namespace, merge=status, subresource="status")
            await until(lambda ip=ip: address() == (ip, 443))
        await until(lambda: agent.report.records.names(Kind.GATEWAY) == {NAME})


async def _serves(port: int, host: str) -> bool:
    return await asyncio.to_thread(_get, port, host) == "east"


def _get(port: int, host: str, path: str = "/") -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"host": host})
    try:
        with urllib.request.urlopen(request, timeout=ANSWER) as reply:  # noqa: S310 - our own loopback URL
            return str(reply.read().decode())
    except OSError:
        return ""


async def test_a_cluster_that_nobody_reaches_says_so(sides: Any, federation: Any) -> None:
    """Behind NAT: its gateway is for its own workloads; what it exports is seen, and honest about it."""
    east, west = sides["east"], sides["west"]
    inside = records_pb2.Gateway(name="gw-1", address="", port=15443, weight=1, egress="10.1.0.1")
    east.edge.presence.gateway.CopyFrom(inside)
    east.edge.client.announce()
    agent = east.running.agent
    await until(lambda: agent.consumers.gateways.value["gw-1"].address == "")
    await until(lambda: not west.running.agent.view.neighbours["east"].gateways)
    # It exports nothing: nothing is wrong with it.
    assert "no_inbound" not in east.running.codes()
    await until(lambda: _linked(federation, "live", ""))
    # It calls: what the others export has its way through the gateway.
    await west.service()
    await west.export()
    await until(east.ready)
    # It exports something: everybody who looks is told that nobody can call it.
    await east.service("db")
    await east.export("db")
    await until(lambda: _condition(east, ("False", "NoGateway")))
    await until(lambda: "no_inbound" in east.running.codes())
    await until(lambda: _linked(federation, "degraded", "no gateway of east can be reached from outside"))
    # It gets a way in: all of that is over.
    inside.address = "127.0.0.1"
    east.edge.presence.gateway.CopyFrom(inside)
    east.edge.client.announce()
    await until(lambda: _condition(east, ("True", "Exported")))
    await until(lambda: "no_inbound" not in east.running.codes())
    await until(lambda: _linked(federation, "live", ""))


async def _linked(federation: Any, state: str, detail: str) -> bool:
    async with federation.operator() as operator:
        (link,) = await operator.links()
    return bool((link.state, link.detail) == (state, detail))


async def _condition(side: Any, expected: tuple[str, str]) -> bool:
    return bool(await side.export_condition("Ready", "db") == expected)
