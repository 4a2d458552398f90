from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path

from federation.aio.launch import die_with_parent


def alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def test_it_dies_with_us(tmp_path: Path) -> None:
    """The process that starts it is killed with -9; the kernel takes the other one down, though it stands still."""
    pid_file = tmp_path / "pid"
    script = "echo $$ > pid.new; mv pid.new pid; kill -STOP $$; exec sleep 60"
    program = (
        "import subprocess, time\n"
        "from federation.aio.launch import die_with_parent\n"
        f"subprocess.Popen(die_with_parent(['/bin/sh', '-c', {script!r}]), start_new_session=True)\n"
        "time.sleep(60)\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=tmp_path)
    try:
        async with asyncio.timeout(30):
            while not pid_file.exists():
                await asyncio.sleep(0.01)
            child = int(pid_file.read_text())
            assert alive(child)
            parent.kill()
            await parent.wait()
            while alive(child):
                await asyncio.sleep(0.01)
    finally:
        with contextlib.suppress(ProcessLookupError):
            parent.kill()


def test_an_orphan_does_not_begin() -> None:
    """Whose parent died before it could ask to die with it ends by itself."""
    assert subprocess.run(die_with_parent(["/bin/sh", "-c", "exit 7"]), check=False).returncode == 7
    assert subprocess.run(die_with_parent(["/bin/sh", "-c", "exit 7"], parent=1), check=False).returncode == 0
