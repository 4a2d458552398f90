"""A federation of processes that fedctl reaches as if registry and agents ran in pods."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clusters.network import free_port
from clusters.podserver import PodServer
from clusters.processes import ProcessFederation
from clusters.topology import ClusterSpec, Topology
from clusters.waiting import START
from federation.model.service import Locality

TWO = Topology.full_mesh(
    "test.isthmus",
    ClusterSpec(name="east", locality=Locality("eu", "eu-1")),
    ClusterSpec(name="west", locality=Locality("eu", "eu-2")),
)


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, str]:
        return json.loads(self.err.splitlines()[-1])["error"]


@dataclass(frozen=True)
class Fedctl:
    """Runs fedctl with a home and a kubeconfig of its own."""

    home: Path
    kubeconfig: Path

    async def __call__(self, *words: str) -> Done:
        process = await asyncio.create_subprocess_exec(
            *(Path(sys.executable).with_name("fedctl"), "--home", self.home, *words),
            env={"KUBECONFIG": str(self.kubeconfig), "PATH": "/usr/bin:/bin"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), START)
        assert b"Traceback" not in err, err.decode()
        return Done(process.returncode or 0, out.decode(), err.decode())

    async def ok(self, *words: str) -> Done:
        done = await self(*words)
        assert done.status == 0, f"fedctl {' '.join(words)}: {done.err}{done.out}"
        return done


@pytest.fixture
async def server() -> AsyncIterator[PodServer]:
    made = PodServer()
    await made.start("127.0.0.1", free_port())
    yield made
    await made.close()


@pytest.fixture
async def federation() -> AsyncIterator[ProcessFederation]:
    """A registry and two agents that have joined and are not linked."""
    with tempfile.TemporaryDirectory(prefix="isthmus-pods-") as folder:
        made = ProcessFederation(TWO, Path(folder))
        try:
            made.init_registry()
            made.start_registry()
            await made.wait_ready("registry")
            for name in TWO.names:
                await made.write_manifests(name)
                await made.join(name)
                made.start_agent(name)
            await made.wait_ready(*(f"{name}-agent" for name in TWO.names))
            yield made
        finally:
            await asyncio.to_thread(made.stop)


@pytest.fixture
def pods(server: PodServer, federation: ProcessFederation) -> PodServer:
    """The federation's processes as pods: contexts kind-east and kind-west lead to one agent each."""
    server.pod("isthmus-registry-0", "registry", federation.directory / "registry")
    server.pod("isthmus-agent-east", "agent", federation.places["east"].agent)
    return server


@pytest.fixture
def fedctl(server: PodServer, tmp_path: Path) -> Fedctl:
    return Fedctl(tmp_path / "home", server.kubeconfig(tmp_path / "kubeconfig", "kind-east", "kind-other"))
