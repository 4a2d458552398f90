"""One service in two worlds: copies on a VM that Consul knows, and pods that another cluster's API server knows.

The datacenter has access control, and the agent that reads it does so through a network that can be cut. The VM is a
network of its own. Nothing here is bound to an event loop.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path

import yaml

from clusters import manifests
from clusters.consulground import EXPORT, WithConsul
from clusters.faultproxy import FaultProxy
from clusters.ground import Ground
from clusters.namespace import NetworkNamespace
from clusters.network import free_port
from clusters.processes import HTTP_PORT, NAMESPACE, ProcessFederation
from clusters.program import Program
from clusters.waiting import START, until
from federation.aio.files import write_atomic

NAME = "dc1"
READER = """
node_prefix "" { policy = "read" }
service_prefix "" { policy = "read" }
session_prefix "" { policy = "write" }
key_prefix "isthmus/" { policy = "write" }
"""
"""What the agent may do: the policy of docs/consul.md."""
WAIT = 2.0
"""Of the agent's blocking queries (s): one that waits does not hear that its token was revoked."""
RESYNC = 5.0
"""Of its agent: what servers lack that were restored is gone sooner than elsewhere."""
NODE = "vm"
_FAILED = 4
"""Of serf's states of a member."""
_COPY_PORT, _HEALTH_PORT = 7000, 7100


class GuardedDatacenter(WithConsul):
    """`base`, and the datacenter `NAME` with its servers at the outer end of the VM's cable."""

    def __init__(
        self, base: Ground, directory: Path, space: NetworkNamespace, *, namespace: str = NAMESPACE, servers: int = 1
    ) -> None:
        """`namespace`: what its services have in the federation."""
        super().__init__(
            base, directory, [NAME], namespace=namespace, servers=servers, acl=True, addresses=repeat(space.outside)
        )
        self.datacenter = self.datacenters[NAME]
        site = self.datacenter.sites["s1"]
        self.network = FaultProxy((site.address, site.http), port=free_port())
        """Between the agent and Consul; whoever made this enters it."""
        self._token_file, self._accessor = directory / "agent.token", ""

    async def start(self) -> None:
        await super().start()
        await self.issue()

    async def issue(self) -> None:
        """Write a new token for the agent to its file."""
        async with self.datacenter.connect() as client:
            made = await client.token(READER, name=f"isthmus-{time.monotonic_ns()}")
        self._accessor = made["AccessorID"]
        write_atomic(self._token_file, made["SecretID"].encode())

    def lead_to(self, server: str) -> None:
        """What the agent connects to from now on, as a load balancer would."""
        site = self.datacenter.sites[server]
        self.network.upstream = (site.address, site.http)
        self.network.cut()

    async def revoke(self) -> None:
        """Delete the token that was issued last."""
        async with self.datacenter.connect() as client:
            await client.revoke(self._accessor)

    def tell(self, cluster: str, settings: Path, *, dns: str) -> None:
        super().tell(cluster, settings, dns=dns)
        if cluster == NAME:
            tree = yaml.safe_load(settings.read_text())
            address = f"http://{self.network.address}"
            tree["consul"] |= {"address": address, "token_file": str(self._token_file), "wait": WAIT, "resync": RESYNC}
            write_atomic(settings, yaml.safe_dump(tree, sort_keys=False).encode())


class ConsulVm:
    """A VM: a client agent of Consul, two copies of a program, and for each a page by which Consul checks it."""

    def __init__(
        self, space: NetworkNamespace, ground: GuardedDatacenter, service: str, logs: Path, *, port: int = HTTP_PORT
    ) -> None:
        """`port`: of the service, as other clusters that offer it have it."""
        self._space, self._datacenter, self._service, self._logs = space, ground.datacenter, service, logs
        self._port = port
        self._token = ""
        self._copies = [self._program(NODE, _COPY_PORT + number) for number in (1, 2)]
        self._pages = [self._program("page", _HEALTH_PORT + number) for number in (1, 2)]

    def _program(self, answer: str, port: int) -> Program:
        return _echo(answer, self._space.inside, port, self._logs / f"vm-{port}.log", self._space.wrap)

    async def start(self) -> None:
        """Switch it on; whoever owns it gets a token that may write its service and nothing else."""
        await self._datacenter.add_node(NODE, address=self._space.inside, wrap=self._space.wrap)
        async with self._datacenter.connect() as client:
            rules = f'service "{self._service}" {{ policy = "write" }}'
            self._token = (await client.token(rules, name="owner"))["SecretID"]
        for program in (*self._copies, *self._pages):
            program.start()

    async def register(self, number: int) -> None:
        """`consul services register` of copy 1 or 2, on the VM."""
        service = {
            "id": f"{self._service}-{number}",
            "name": self._service,
            # Named as in the Service of the pods: clusters that offer the same service have to agree on that.
            "ports": [{"name": "http", "port": _COPY_PORT + number, "default": True}],
            "meta": {**EXPORT, "isthmus-protocol": "http", "isthmus-service-port": str(self._port)},
            "checks": [{"http": f"http://{self._space.inside}:{_HEALTH_PORT + number}/", "interval": "1s"}],
        }
        file = self._logs / f"{self._service}-{number}.json"
        file.write_text(json.dumps({"service": service}))
        await self._consul("services", "register", str(file))

    async def deregister(self, number: int) -> None:
        """`consul services deregister` of a copy, which goes on running."""
        await self._consul("services", "deregister", f"-id={self._service}-{number}")

    async def _consul(self, *words: str) -> None:
        await self._datacenter.command(*words, at=NODE, token=self._token)

    def fail(self, number: int) -> None:
        """Make the check of a copy critical, which itself goes on answering."""
        self._pages[number - 1].kill()

    def pass_again(self, number: int) -> None:
        """Undo `fail`."""
        self._pages[number - 1].start()

    def cut(self) -> None:
        """Pull its cable: nobody is told."""
        self._space.cut()

    def mend(self) -> None:
        """Undo `cut`. Others see it within seconds; what is registered on it, its Consul tells up to 30 s later."""
        self._space.mend()

    def kill(self) -> None:
        """SIGKILL of all that runs on it."""
        self._datacenter.kill(NODE)
        for program in (*self._copies, *self._pages):
            program.kill()

    async def misses(self, server: str) -> None:
        """Wait until its Consul knows that a server is gone: it tells all that runs on it when one comes."""

        async def failed() -> bool:
            async with self._datacenter.connect(NODE) as client:
                members = await client.get("/v1/agent/members")
            return any(one["Name"] == server and one["Status"] == _FAILED for one in members)

        await until(failed, seconds=START, what=f"{server} to be missed by {NODE}")

    async def restart(self) -> None:
        """Switch it on again after `kill`."""
        for program in (*self._copies, *self._pages):
            program.start()
        await self._datacenter.restart(NODE)

    def stop(self) -> None:
        """End its programs; its Consul ends with the datacenter."""
        for program in (*self._copies, *self._pages):
            program.end()


class Pods:
    """Two copies in a cluster on an API server, each at an address of its own, which the EndpointSlice calls ready."""

    def __init__(self, federation: ProcessFederation, cluster: str, service: str) -> None:
        self._federation, self._cluster, self._service = federation, cluster, service
        place = federation.places[cluster]
        network, self._port = place.address.rpartition(".")[0], place.http_port
        self._addresses = [f"{network}.{number}" for number in (201, 202)]
        logs = federation.directory / "logs"
        self._programs = [_echo("pods", one, self._port, logs / f"pod-{one}.log") for one in self._addresses]

    def start(self) -> None:
        """Start both; nobody has been told of them yet."""
        for program in self._programs:
            program.start()

    async def ready(self, number: int) -> None:
        """Let the API server say, of an exported Service, that so many of them are ready."""
        copies = [
            manifests.Copy(address=address, port=self._port, ready=i < number)
            for i, address in enumerate(self._addresses)
        ]
        await self._federation.ground.write(
            self._cluster,
            manifests.service(NAMESPACE, self._service, port=HTTP_PORT, app="http"),
            manifests.export(NAMESPACE, self._service),
            manifests.slice_(NAMESPACE, self._service, app="http", copies=copies),
        )

    def kill(self) -> None:
        """SIGKILL of both."""
        for program in self._programs:
            program.kill()

    def stop(self) -> None:
        """End them."""
        for program in self._programs:
            program.end()


def _echo(answer: str, address: str, port: int, log: Path, wrap: Sequence[str] = ()) -> Program:
    """A program that answers HTTP with `answer`."""
    where = (f"--cluster={answer}", f"--address={address}", f"--port={port}")
    return Program(f"{answer}-{port}", [*wrap, sys.executable, "-m", "clusters.workloads", "http", *where], log)
