"""The client of `pods/exec` against a small server that speaks channel.k8s.io: frames, ends, and what goes wrong."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import WSMsgType, web

from clusters.network import free_port
from discovery.kube.client import KubeClient
from discovery.kube.errors import Forbidden, NotFound, Unauthorised
from discovery.kube.execute import V4, V5, ExecFailed, execute
from discovery.kube.settings import KubernetesSettings
from federation import log
from federation.aio.clock import SystemClock
from federation.errors import IsthmusError

Answer = Callable[[web.WebSocketResponse], Awaitable[None]]
Serve = Callable[..., Awaitable[KubeClient]]
SUCCESS = b"\x03" + json.dumps({"status": "Success"}).encode()


def failure(status: int) -> bytes:
    causes = [{"reason": "ExitCode", "message": str(status)}]
    end = {"status": "Failure", "message": f"command terminated with exit code {status}", "details": {"causes": causes}}
    return b"\x03" + json.dumps(end).encode()


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Starts a server with this answer to `exec`, and gives a client of it."""
    closing: list[Callable[[], Awaitable[None]]] = []
    seen: dict[str, Any] = {}

    async def start(answer: Answer | int, *, protocols: tuple[str, ...] = (V5, V4)) -> KubeClient:
        async def handle(request: web.Request) -> web.StreamResponse:
            seen.update(query=request.query, path=request.path, authorization=request.headers["Authorization"])
            if isinstance(answer, int):
                return web.json_response({"message": "no"}, status=answer)
            socket = web.WebSocketResponse(protocols=protocols)
            await socket.prepare(request)
            await answer(socket)
            await socket.close()
            return socket

        app = web.Application()
        app.router.add_get("/{path:.*}", handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        path = tmp_path / "kubeconfig"
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}
        user = {"name": "u", "user": {"token": "secret"}}
        context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
        tree = {"clusters": [cluster], "users": [user], "contexts": [context], "current-context": "x"}
        path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **tree}))
        client = KubeClient(KubernetesSettings(kubeconfig=str(path)), log=log.get("test"), clock=SystemClock())
        client.seen = seen  # type: ignore[attr-defined]
        closing.extend((client.close, runner.cleanup))
        return client

    yield start
    for close in closing:
        await close()


async def everything(client: KubeClient, *, said: bytes = b"") -> tuple[bytes, Any]:
    async with execute(client, "ns", "pod-1", ("program", "a b"), container="agent") as execution:
        if said:
            await execution.write(said)
        found = b""
        while piece := await execution.read():
            found += piece
        return found, execution


async def test_output_errors_and_status_come_apart(serve: Serve) -> None:
    async def answer(socket: web.WebSocketResponse) -> None:
        for frame in (b"\x01", b"\x01one ", b"\x02warned", b"", b"\x01\x00\xff", b"\x09unknown channel", SUCCESS):
            await socket.send_bytes(frame)

    client = await serve(answer)
    found, execution = await everything(client)
    assert (found, execution.errors, execution.exit_status) == (b"one \x00\xff", b"warned", 0)
    assert client.seen["path"] == "/api/v1/namespaces/ns/pods/pod-1/exec"  # type: ignore[attr-defined]
    assert client.seen["query"].getall("command") == ["program", "a b"]  # type: ignore[attr-defined]
    assert client.seen["query"]["container"] == "agent"  # type: ignore[attr-defined]
    assert client.seen["authorization"] == "Bearer secret"  # type: ignore[attr-defined]


@pytest.mark.parametrize("protocol", [V5, V4])
async def test_input_arrives_and_its_end_where_the_protocol_has_one(serve: Serve, protocol: str) -> None:
    frames: list[bytes] = []

    async def answer(socket: web.WebSocketResponse) -> None:
        wanted = 3 if protocol == V5 else 2
        async for message in socket:
            assert message.type is WSMsgType.BINARY
            frames.append(message.data)
            if len(frames) == wanted:
                break
        await socket.send_bytes(SUCCESS)

    client = await serve(answer, protocols=(protocol,))
    async with execute(client, "ns", "pod-1", ("cat",)) as execution:
        await execution.write(b"\x00one")
        await execution.write(b"two")
        assert await execution.end_input() is (protocol == V5)
        assert await execution.read() == b""
        assert execution.exit_status == 0
    assert frames == [b"\x00\x00one", b"\x00two", *([b"\xff\x00"] if protocol == V5 else [])]


@pytest.mark.parametrize(
    ("end", "status", "reason"),
    [
        (failure(6), 6, "command terminated with exit code 6"),
        (b'\x03{"status":"Failure","message":"exec: \\"x\\": not found"}', None, 'exec: "x": not found'),
        (b"\x03not json", None, "not json"),
    ],
)
async def test_how_it_ended(serve: Serve, end: bytes, status: int | None, reason: str) -> None:
    async def answer(socket: web.WebSocketResponse) -> None:
        await socket.send_bytes(end)

    _, execution = await everything(await serve(answer))
    assert (execution.exit_status, execution.reason) == (status, reason)


async def test_a_connection_that_is_cut_is_no_end_of_output(serve: Serve) -> None:
    async def answer(socket: web.WebSocketResponse) -> None:
        await socket.send_bytes(b"\x01half")

    with pytest.raises(ExecFailed, match="was cut"):
        await everything(await serve(answer))


async def test_errors_without_end_do_not_fill_the_memory(serve: Serve) -> None:
    async def answer(socket: web.WebSocketResponse) -> None:
        for _ in range(64):
            await socket.send_bytes(b"\x02" + b"x" * 4096)
        await socket.send_bytes(SUCCESS)

    _, execution = await everything(await serve(answer))
    assert len(execution.errors) == 64 << 10


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (401, Unauthorised, "does not accept our credentials"),
        (403, Forbidden, "not allowed: exec in ns/pod-1"),
        (404, NotFound, "no such pod"),
        (500, ExecFailed, "answers 500"),
    ],
)
async def test_what_the_api_server_refuses(serve: Serve, status: int, error: type[IsthmusError], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        await everything(await serve(status))
    assert "\n" not in str(caught.value)
