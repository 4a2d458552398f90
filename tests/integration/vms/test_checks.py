"""Checks against real servers and programs of this machine, also those that behave badly."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvloop

from clusters.network import free_port
from clusters.waiting import until, until_now
from sidecar.vm.checks import grpc_health, http, script, tcp
from sidecar.vm.checks.machine import Outcome
from sidecar.vm.checks.result import Result
from sidecar.vm.definition import Grpc, Http, Script, Tcp

pytestmark = pytest.mark.integration

PASSING = Result(Outcome.PASSING)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(handler: Serve) -> AsyncIterator[int]:
    tasks: set[asyncio.Task[Any]] = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        try:
            await handler(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.sleep(0)  # one that was accepted just now begins
        if tasks:
            await asyncio.wait(tasks)


def probe(port: int, **changes: Any) -> Http:
    given = {"path": "/", "method": "GET", "headers": (), "expect": ((200, 299),), **changes}
    return Http("127.0.0.1", port, **given)


def answers(*lines: bytes, wait: bool = False) -> Serve:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"".join(lines))
            await writer.drain()
            if wait:
                await reader.read()

    return handler


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",), ""),
        ((b"HTTP/1.0 204\r\n\r\n",), ""),
        ((b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",), ""),
        ((b"HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n",), "status 302"),
        ((b"HTTP/1.1 503 Sorry\r\n\r\n",), "status 503"),
        ((b"HTTP/1.1 101 Switching\r\n\r\n",), "status 101"),
        ((b"HTTP/1.1 20 OK\r\n\r\n",), "no HTTP/1 answer"),
        ((b"HTTP/2 200\r\n\r\n",), "no HTTP/1 answer"),
        ((b"SSH-2.0-OpenSSH\r\n",), "no HTTP/1 answer"),
        ((), "the connection ended without an answer"),
        ((b"x" * 100_000,), "limit"),
        ((b"HTTP/1.1 103 x\r\n" + b"a: b\r\n" * 10_000,), "too much"),
    ],
)
async def test_http_answers(lines: tuple[bytes, ...], says: str) -> None:
    async with serving(answers(*lines)) as port, asyncio.timeout(10):
        result = await http.run(probe(port))
    assert says in result.detail
    assert (result.outcome is Outcome.PASSING) == (says == "")


async def test_an_answer_that_does_not_end_is_an_answer() -> None:
    """Its first line is all that counts: a body of any size, or none that ends, costs nothing."""
    async with serving(answers(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\nx", wait=True)) as port:
        async with asyncio.timeout(10):
            assert await http.run(probe(port)) == PASSING
            assert (await http.run(probe(port, expect=((300, 399),)))).detail == "status 200"


async def test_nobody_listens() -> None:
    port = free_port()
    for result in (await tcp.run(Tcp("127.0.0.1", port)), await http.run(probe(port))):
        assert result.outcome is Outcome.CRITICAL
        assert "refused" in result.detail.lower() or "connect" in result.detail.lower()
    result = await grpc_health.run(Grpc("127.0.0.1", port, ""), timeout=5)
    assert result.outcome is Outcome.CRITICAL
    assert result.detail.startswith("UNAVAILABLE")


async def test_a_connection_that_is_accepted_passes() -> None:
    async with serving(answers(wait=True)) as port:
        assert await tcp.run(Tcp("127.0.0.1", port)) == PASSING


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (b"\x08\x01", ""),
        (b"", "UNKNOWN"),
        (b"\x08\x02", "NOT_SERVING"),
        (b"\x08\x03", "SERVICE_UNKNOWN"),
        (b"\x08\x09", "9"),
        (b"\x08", "no HealthCheckResponse"),
        (None, "NOT_FOUND: who?"),
    ],
)
async def test_grpc_answers(reply: bytes | None, says: str) -> None:
    asked: list[bytes] = []

    async def answer(request: bytes, context: Any) -> bytes:
        asked.append(request)
        if reply is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "who?")
        return reply or b""

    server = grpc.aio.server()
    methods = {"Check": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        result = await grpc_health.run(Grpc("127.0.0.1", port, "shop.Db"), timeout=10)
    finally:
        await server.stop(0)
    assert asked == [b"\x0a\x07shop.Db"]
    assert result.detail.startswith(says)
    assert (result.outcome is Outcome.PASSING) == (says == "")


async def test_a_grpc_server_that_comes_back_passes_at_once() -> None:
    """Each check has a connection of its own: one that was refused does not make the next one wait."""
    port = free_port()
    for _ in range(3):
        assert (await grpc_health.run(Grpc("127.0.0.1", port, ""), timeout=5)).outcome is Outcome.CRITICAL

    async def serve(request: bytes, context: Any) -> bytes:
        return b"\x08\x01"

    server = grpc.aio.server()
    methods = {"Check": grpc.unary_unary_rpc_method_handler(serve)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", methods),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        assert await grpc_health.run(Grpc("127.0.0.1", port, ""), timeout=10) == PASSING
    finally:
        await server.stop(0)


# --- scripts, on the loop of the tests and on that of the process -----------------------------------------------------


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    def ran(work: Any) -> Any:
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(work)

    return ran


def program(folder: Path, text: str) -> Script:
    path = folder / "check"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return Script((str(path), "an argument; $(not shell)"))


@pytest.mark.parametrize(
    ("text", "outcome", "detail"),
    [
        ("exit 0", Outcome.PASSING, ""),
        ("echo all is well", Outcome.PASSING, ""),
        ("echo nearly full; exit 1", Outcome.WARNING, "nearly full"),
        ("echo full >&2; exit 2", Outcome.CRITICAL, "exit status 2: full"),
        ("kill -9 $$", Outcome.CRITICAL, "ended by signal 9"),
        ('echo "$1"; exit 3', Outcome.CRITICAL, "exit status 3: an argument; $(not shell)"),
        ("read x || exit 4", Outcome.CRITICAL, "exit status 4"),
        ("printf 'a\\033[2Jb\\nc'; exit 5", Outcome.CRITICAL, "exit status 5: a [2Jb c"),
        ("env | grep -c SECRET_OF_THE_SIDECAR; pwd; exit 6", Outcome.CRITICAL, "exit status 6: 0 /"),
    ],
)
def test_exit_statuses(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, outcome: Outcome, detail: str
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_SIDECAR", "x")
    assert run(script.Scripts().run(program(tmp_path, text))) == Result(outcome, detail)


def test_a_program_that_cannot_be_started(run: Any, tmp_path: Path) -> None:
    missing = run(script.Scripts().run(Script((str(tmp_path / "missing"),))))
    assert (missing.outcome, "No such file" in missing.detail) == (Outcome.CRITICAL, True)
    path = tmp_path / "data"
    path.write_text("no program")
    denied = run(script.Scripts().run(Script((str(path),))))
    assert (denied.outcome, "denied" in denied.detail) == (Outcome.CRITICAL, True)


def test_output_without_end_is_cut_and_does_not_hold_the_program_up(run: Any, tmp_path: Path) -> None:
    result = run(script.Scripts().run(program(tmp_path, "head -c 3000000 /dev/zero | tr '\\0' x; exit 2")))
    assert result.detail.startswith("exit status 2: xxx")
    assert len(result.detail) <= 200


def test_who_takes_too_long_is_killed_with_all_that_it_started(run: Any, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    check = program(tmp_path, f"trap '' TERM; sleep 600 & echo $$ $! > {pids}.new; mv {pids}.new {pids}; wait")

    async def bounded() -> None:
        running = asyncio.ensure_future(script.Scripts().run(check))
        await until(pids.exists)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    run(bounded())
    for pid in map(int, pids.read_text().split()):
        until_now(lambda pid=pid: not alive(pid), what=f"the end of {pid}")


HELD = """
import ctypes, os, sys, time
libc, parent, told = ctypes.CDLL(None), os.getpid(), sys.argv[1]
ready, begin = os.pipe()
if os.fork():
    libc.prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER_ANY
    os.write(begin, b".")
    time.sleep(600)
os.setsid()  # out of the group that is killed
os.read(ready, 1)
if libc.ptrace(0x4206, parent, 0, 0):  # PTRACE_SEIZE
    sys.exit(1)
open(told + ".new", "w").write(str(os.getpid()))
os.rename(told + ".new", told)
until = time.monotonic() + 600
while os.path.exists(told) and time.monotonic() < until:
    time.sleep(0.02)
"""
"""A process whose end is held up by its debugger: as by a disk or a server that is gone, SIGKILL does not end it."""


def test_who_does_not_end_when_killed_is_not_waited_for_nor_started_again(tmp_path: Path) -> None:
    """1. it hangs: critical after its time  2. not started again as long as it is there  3. it ends, and is reaped."""
    told = tmp_path / "told"
    check = Script((sys.executable, "-c", HELD, str(told)))
    scripts = script.Scripts()

    async def story() -> None:
        running = asyncio.ensure_future(scripts.run(check))
        await until(told.exists)
        begun = time.monotonic()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert time.monotonic() - begun < 50, "it would be 10 minutes"
        result = await scripts.run(check)
        assert (result.outcome, "does not end" in result.detail) == (Outcome.CRITICAL, True)
        other = await scripts.run(program(tmp_path, "exit 0"))
        assert other.outcome is Outcome.PASSING, "others are run"
        pid = int(result.detail.split()[1])
        told.unlink()
        await until(lambda: not Path(f"/proc/{pid}").exists())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # asyncio's own would wait for it in waitpid()
        runner.run(story())


def test_without_files_left_a_script_is_critical(run: Any, tmp_path: Path) -> None:
    async def starved() -> Result:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        await asyncio.sleep(0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            return await script.Scripts().run(check)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    check = program(tmp_path, "exit 0")
    result = run(starved())
    assert (result.outcome, result.detail) == (Outcome.CRITICAL, "cannot be started: Too many open files")


def test_a_child_that_is_left_behind_holds_nothing_up(run: Any, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    check = program(tmp_path, f"sleep 60 & echo $! > {pid}; exit 1")
    begun = time.monotonic()
    try:
        assert run(script.Scripts().run(check)).outcome is Outcome.WARNING
        assert time.monotonic() - begun < 50, "a minute is what the child takes"
    finally:
        os.kill(int(pid.read_text()), 9)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
