"""A program's life and death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusters.program import Program, events, whole_lines
from clusters.waiting import until_now
from federation.errors import Unavailable


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Program]:
    program = Program("sleeper", ["sh", "-c", "echo up; exec sleep 600"], tmp_path / "logs" / "sleeper.log")
    yield program
    program.end()


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text()


def test_it_is_started_killed_and_started_again(sleeper: Program) -> None:
    assert not sleeper.alive
    sleeper.start()
    first = sleeper.pid
    with pytest.raises(Unavailable, match="already"):
        sleeper.start()
    assert sleeper.resident() > 0
    assert sleeper.kill() <= time.monotonic()
    assert not sleeper.alive
    for refused in (sleeper.kill, sleeper.pause, sleeper.resume, sleeper.resident):
        with pytest.raises(Unavailable, match="does not run"):
            refused()
    sleeper.start()
    assert sleeper.pid != first


def test_a_paused_one_is_alive_and_can_be_ended(sleeper: Program) -> None:
    sleeper.start()
    pid = sleeper.pid
    sleeper.pause()
    assert sleeper.alive
    sleeper.end()
    assert not sleeper.alive
    until_now(lambda: gone(pid))
    sleeper.end()


def test_what_is_no_program_is_said(tmp_path: Path) -> None:
    program = Program("nothing", [str(tmp_path / "nothing")], tmp_path / "log")
    with pytest.raises(Unavailable, match="cannot be started"):
        program.start()


def test_it_dies_with_us_and_not_with_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    script = f"""
import sys, threading, time
from pathlib import Path
from clusters.program import Program
from clusters.waiting import until_now
program = Program("sleeper", ["sleep", "600"], Path({str(tmp_path / "log")!r}))
thread = threading.Thread(target=program.start)
thread.start()
thread.join()
print(program.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.send_signal(signal.SIGKILL)
    until_now(lambda: gone(pid))


@pytest.mark.parametrize(
    ("text", "lines", "found"),
    [
        (None, [], []),
        ("", [], []),
        ('{"event": "on', [], []),
        ('{"event": "one"}\n{"eve', ['{"event": "one"}'], [{"event": "one"}]),
        (
            'not JSON\n7\n{"event": "a\u2028b"}\n{\n',
            ["not JSON", "7", '{"event": "a\u2028b"}', "{"],
            [{"event": "a\u2028b"}],
        ),
    ],
)
def test_a_log_is_read_while_it_is_written(
    tmp_path: Path, text: str | None, lines: list[str], found: list[dict[str, str]]
) -> None:
    log = tmp_path / "log"
    if text is not None:
        log.write_text(text)
    assert whole_lines(log) == lines
    assert events(log) == found
