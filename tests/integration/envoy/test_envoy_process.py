"""The real Envoy under supervision: ready, drained, killed with its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.envoy.bootstrap import bootstrap
from federation.envoy.process import EnvoyProcess
from federation.xds.server import AdsServer
from federation.xds.snapshot import Snapshot

pytestmark = pytest.mark.integration


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="isthmus-") as name:
        yield Path(name)


def envoy(directory: Path) -> EnvoyProcess:
    message = bootstrap(node_id="n", cluster="c", ads_path=directory / "ads.sock", admin_path=directory / "admin.sock")
    return EnvoyProcess(message, directory, drain_seconds=1)


async def test_ready_with_the_first_snapshot_and_gone_after_stop(directory: Path) -> None:
    ads, process = AdsServer(directory / "ads.sock"), envoy(directory)
    await ads.start()
    running = asyncio.create_task(process.run(), name="envoy")
    try:
        async with asyncio.timeout(30):
            while not ads.connected:
                await asyncio.sleep(0.02)
            assert not await process.ready()  # no snapshot yet
            ads.publish(Snapshot())
            while not await process.ready():
                await asyncio.sleep(0.02)
        assert os.getpgid(process.pid or 0) == process.pid  # a group of its own
        assert await process.drain(5.0, quiet=0.0)
    finally:
        await process.stop()
        await running
        await ads.close()
    assert process.pid is None
    assert not await process.ready()


async def test_a_killed_parent_takes_envoy_along(directory: Path) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path\n"
        "from federation.envoy.bootstrap import bootstrap; from federation.envoy.process import EnvoyProcess\n"
        "from federation import log; log.configure(json=True)\n"
        "async def main():\n"
        "    d = Path(sys.argv[1])\n"
        "    b = bootstrap(node_id='n', cluster='c', ads_path=d / 'ads.sock', admin_path=d / 'admin.sock')\n"
        "    process = EnvoyProcess(b, d)\n"
        "    await process.start()\n"
        "    while not (d / 'admin.sock').exists():\n"
        "        await asyncio.sleep(0.02)\n"
        "    print(process.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(directory), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert parent.stdout is not None
    async with asyncio.timeout(30):
        pid = int(await parent.stdout.readline())
        os.kill(pid, 0)
        parent.send_signal(signal.SIGKILL)
        await parent.wait()
        while _alive(pid):
            await asyncio.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
