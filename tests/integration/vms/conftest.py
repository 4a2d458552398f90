"""One cluster of real processes, and virtual machines: sidecars in folders of their own that know nothing of the agent
but what their bundle says."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import pytest
import yaml

from clusters.children import start_child
from clusters.namespace import NetworkNamespace
from clusters.network import free_port
from clusters.processes import ProcessFederation
from clusters.topology import ClusterSpec, Topology
from clusters.waiting import ANSWER, START, until
from federation.cli import main
from federation.model.service import Locality
from federation.trust.workload import Grant

NAME = "echo.shop.global"
LOOK_UP = """
import sys, dns.message, dns.query
reply = dns.query.udp(dns.message.make_query(sys.argv[2], "A"), "127.0.0.1", port=int(sys.argv[1]), timeout=15)
print(*[item.address for rrset in reply.answer for item in rrset])
"""


class Vm:
    """A machine that was invited: its folder holds its bundle, and nothing else is shared."""

    def __init__(self, name: str, folder: Path, virtual_range: str, *, process: str = "sidecar") -> None:
        self.name, self.folder, self.process = name, folder, process
        self.state, self.log = folder / "state", folder / "log"
        self._range = virtual_range
        self.space: NetworkNamespace | None = None
        """Where it runs; None: beside its agent."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> Path:
        return self.folder / f"{self.process}.yaml"

    def adjust(self, **changes: Any) -> None:
        """Change its settings, as a person would."""
        tree = yaml.safe_load(self.settings.read_text())
        for key, value in changes.items():
            tree[key] = {**tree[key], **value} if isinstance(value, dict) and isinstance(tree.get(key), dict) else value
        self.settings.write_text(yaml.safe_dump(tree))

    def start(self) -> None:
        more = {"range": self._range, "dns": {"port": 0}} if self.process == "sidecar" else {}
        self.adjust(log={"level": "debug", "json": True}, **more)
        (self.state / "ports.json").unlink(missing_ok=True)
        wrap = self.space.wrap if self.space is not None else []
        command = [*wrap, sys.executable, "-m", self.process, "--settings", str(self.settings)]
        self._process = start_child(command, self.log)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it and its Envoy."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def ports(self) -> dict[str, int]:
        try:
            found: dict[str, int] = json.loads((self.state / "ports.json").read_text())
        except OSError:
            return {}
        return found

    @property
    def grant(self) -> Grant:
        """The identity that it has kept."""
        found = Grant.load(self.state / "identity")
        assert found is not None
        return found

    def said(self, text: str) -> bool:
        """Whether its log has this."""
        return self.log.exists() and text in self.log.read_text(errors="replace")

    async def asked(self, path: str = "/metrics") -> str:
        """What its metrics server says."""
        port = self.ports().get("metrics")
        if port is None:
            return ""
        with contextlib.suppress(OSError):
            return await asyncio.to_thread(_get, f"http://127.0.0.1:{port}{path}")
        return ""

    async def connected(self) -> bool:
        """Whether its stream to the agent is open."""
        return "isthmus_watch_connected 1.0" in await self.asked()

    async def resolve(self, name: str = NAME) -> list[str]:
        """The addresses that its DNS gives."""
        port = self.ports().get("dns")
        if port is None:
            return []
        if self.space is not None:
            return (await asyncio.to_thread(self.space.python, LOOK_UP, str(port), name)).split()
        query = dns.message.make_query(name, "A")
        try:
            reply = await asyncio.to_thread(dns.query.udp, query, "127.0.0.1", port=port, timeout=ANSWER)
        except (OSError, dns.exception.DNSException):
            return []
        return [str(item) for rrset in reply.answer for item in rrset]

    async def resolves(self, name: str = NAME) -> None:
        await until(lambda: self.resolve(name), seconds=START)


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=ANSWER) as reply:  # noqa: S310 - our own loopback URL
        return str(reply.read().decode())


class Site:
    """The cluster `dc1`: a registry and an agent that lets machines in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        spec = ClusterSpec(name="dc1", locality=Locality("eu", "eu-1"))
        self.processes = ProcessFederation(Topology(federation="vm.isthmus", clusters=(spec,), links=()), root / "fed")
        self.place = self.processes.places["dc1"]
        self.address = f"{self.place.address}:{free_port(self.place.address)}"
        self.vms: list[Vm] = []

    async def start(self, **changes: Any) -> None:
        self.processes.init_registry()
        self.processes.start_registry()
        await self.processes.wait_ready("registry")
        self.place.manifests.mkdir(parents=True)
        await self.processes.write_manifests("dc1")
        await self.processes.join("dc1")
        self.adjust(vms={"listen": self.address}, **changes)
        self.processes.start_agent("dc1")
        await self.processes.wait_ready("dc1-agent")

    def adjust(self, **changes: Any) -> None:
        """Change the agent's settings; it reads them at its next start."""
        path = self.place.agent / "settings.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))

    def kill(self) -> None:
        """The agent, at once."""
        self.processes.kill("dc1-agent")

    async def restart(self) -> None:
        """The agent, after `kill`."""
        self.processes.restart("dc1-agent")
        await self.processes.wait_ready("dc1-agent")

    async def fedctl(self, *words: str) -> Any:
        """What `fedctl … -o json` prints; raises Refused with its code."""
        return json.loads(await asyncio.to_thread(self._fedctl, *words, "-o", "json"))

    async def printed(self, *words: str) -> str:
        """What `fedctl …` prints for people; raises Refused."""
        return await asyncio.to_thread(self._fedctl, *words)

    def _fedctl(self, *words: str) -> str:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main.run(["--home", str(self.root / "fed" / "home"), *words])
        if status:
            raise Refused(json.loads(err.getvalue())["error"])
        return out.getvalue()

    async def listed(self, name: str) -> dict[str, Any]:
        """The machine as `fedctl vm list` shows it; empty where it is not."""
        found = [vm for vm in await self.fedctl("vm", "list", "--cluster", "dc1") if vm["name"] == name]
        return found[0] if found else {}

    async def invite(self, name: str, *words: str) -> Vm:
        """`fedctl vm bootstrap`, and the files carried over."""
        folder = self.root / name
        state = ["--state", str(folder / "state")]
        given = ["--namespace", "shop", "--account", "web"] if "--account" not in words else []
        await self.fedctl("vm", "bootstrap", name, "--cluster", "dc1", *given, *state, "--to", str(folder), *words)
        known = [vm for vm in self.vms if vm.name == name]
        if known:
            return known[0]
        return self.machine(name, folder)

    def machine(self, name: str, folder: Path, *, process: str = "sidecar") -> Vm:
        """Whose files are in `folder`."""
        self.vms.append(Vm(name, folder, f"127.{200 + len(self.vms)}.0.0/16", process=process))
        return self.vms[-1]

    def copy(self, vm: Vm, folder: str) -> Vm:
        """Its bundle in another folder, as a thief or a person in a hurry would have it."""
        there = self.root / folder
        there.mkdir()
        for file in ("sidecar.yaml", "join.token", "anchors.pem"):
            shutil.copy(vm.folder / file, there / file)
        made = self.machine(vm.name, there)
        made.adjust(state_directory=str(there / "state"))
        return made

    async def is_joined(self, name: str) -> bool:
        return (await self.listed(name)).get("state") == "joined"

    def stop(self) -> None:
        for vm in self.vms:
            vm.stop()
        self.processes.stop()


class Refused(Exception):
    """fedctl refused; `code` is stable."""

    def __init__(self, error: dict[str, str]) -> None:
        super().__init__(error["message"])
        self.code, self.hint = error["code"], error["hint"]


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """One for all tests: each has machines of its own, and leaves the agent as it was."""
    root = Path(tempfile.mkdtemp(prefix="vms-"))  # sockets need short paths
    made = Site(root)
    try:
        asyncio.run(made.start())
        yield made
    finally:
        made.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(autouse=True)
def machines_end(site: Site) -> Iterator[None]:
    yield
    for vm in site.vms:
        vm.stop()


@pytest.fixture
async def settled(site: Site) -> AsyncIterator[Site]:
    """The agent may be stopped and given other settings: afterwards it is as it was."""
    path = site.place.agent / "settings.yaml"
    before = path.read_text()
    yield site
    path.write_text(before)
    if site.processes.running["dc1-agent"].alive:
        site.kill()
    await site.restart()


@pytest.fixture
def refused() -> type[Refused]:
    return Refused
