"""An API server as far as fedctl needs one to reach processes of this machine as if they ran in pods.

It lists pods, and runs what is asked for by `pods/exec` as a process here, over the protocol that kubelets speak
(channel.k8s.io). Where a kubelet runs, clusters.kind has the real thing; this is for machines without one, and for what
a real one does not do when it is asked to (refuse, crash, cut).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from aiohttp import WSMsgType, web

import federation.bridge

V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"


class PodServer:
    """Serves from `start` to `close` on loopback; what it says of pods can be changed meanwhile."""

    def __init__(self, *, protocols: Sequence[str] = (V5, V4)) -> None:
        self.protocols = tuple(protocols)
        self.pods: dict[str, dict[str, Any]] = {}
        """By name, as the API server would list them."""
        self.folders: dict[str, Path] = {}
        """By pod: the state folder of its process."""
        self.refuse = 0
        """Status with which every exec is refused."""
        self.cut = False
        """Every exec is broken off in the midst."""
        self.leader = ""
        self.commands: list[list[str]] = []
        self.address = ""
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> None:
        app = web.Application()
        app.router.add_get("/api/v1/namespaces/{namespace}/pods", self._list)
        app.router.add_get("/api/v1/namespaces/{namespace}/pods/{name}/exec", self._exec)
        app.router.add_get("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}", self._lease)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self.address = f"http://{host}:{port}"

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def kubeconfig(self, path: Path, *contexts: str) -> Path:
        """Write a kubeconfig in which these contexts lead here."""
        tree = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": {"server": self.address}}],
            "users": [{"name": "me", "user": {"token": "t"}}],
            "contexts": [{"name": name, "context": {"cluster": "here", "user": "me"}} for name in contexts],
            "current-context": contexts[0],
        }
        path.write_text(yaml.safe_dump(tree))
        return path

    def pod(self, name: str, component: str, folder: Path | None, *, ready: bool = True, **status: Any) -> None:
        """A pod with one container; `status` replaces that of the container."""
        container = {"name": component, "ready": ready, "state": {"running": {}}} | status
        self.pods[name] = {
            "metadata": {"name": name, "labels": {"app.kubernetes.io/component": component}},
            "spec": {"containers": [{"name": component}]},
            "status": {"phase": "Running", "containerStatuses": [container]},
        }
        if folder is not None:
            self.folders[name] = folder

    async def _list(self, request: web.Request) -> web.Response:
        component = request.query.get("labelSelector", "").rpartition("=")[2]
        items = [p for p in self.pods.values() if p["metadata"]["labels"]["app.kubernetes.io/component"] == component]
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": items})

    async def _lease(self, request: web.Request) -> web.Response:
        if not self.leader:
            return web.json_response({"code": 404, "message": "no lease"}, status=404)
        metadata = {"name": "isthmus-agent", "namespace": request.match_info["namespace"]}
        return web.json_response({"metadata": metadata, "spec": {"holderIdentity": self.leader}})

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        if self.refuse:
            return web.json_response({"code": self.refuse, "message": "refused"}, status=self.refuse)
        socket = web.WebSocketResponse(protocols=self.protocols)
        await socket.prepare(request)
        command = request.query.getall("command")
        self.commands.append([request.match_info["name"], request.query.get("container", ""), *command])
        if self.cut:
            await socket.close(code=1011)
            return socket
        await self._run(socket, command, self.folders.get(request.match_info["name"]))
        return socket

    async def _run(self, socket: web.WebSocketResponse, command: list[str], folder: Path | None) -> None:
        if command[0] != "isthmus-bridge" or folder is None:
            await _end(socket, {"status": "Failure", "message": f'exec: "{command[0]}": not found in $PATH'})
            return
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", federation.bridge.__name__, *command[1:], "--directory", str(folder)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        feeding = asyncio.create_task(_feed(socket, process), name="exec-input")
        try:
            await asyncio.gather(
                _tell(socket, 1, process.stdout),
                _tell(socket, 2, process.stderr),
            )
            status = await process.wait()
            causes = [{"reason": "ExitCode", "message": str(status)}]
            failed = {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}}
            with contextlib.suppress(ConnectionError, RuntimeError):
                await _end(socket, failed if status else {"status": "Success"})
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _end(socket: web.WebSocketResponse, status: Mapping[str, Any]) -> None:
    await socket.send_bytes(b"\x03" + json.dumps(status).encode())
    await socket.close()


async def _feed(socket: web.WebSocketResponse, process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None  # noqa: S101 - it was asked for
    with contextlib.suppress(ConnectionError):
        async for message in socket:
            if message.type is not WSMsgType.BINARY:
                break
            if message.data[:1] == b"\x00":
                process.stdin.write(message.data[1:])
                await process.stdin.drain()
            elif message.data == b"\xff\x00":
                break
    process.stdin.close()


async def _tell(socket: web.WebSocketResponse, channel: int, pipe: asyncio.StreamReader | None) -> None:
    assert pipe is not None  # noqa: S101 - it was asked for
    while data := await pipe.read(1 << 15):
        with contextlib.suppress(ConnectionError, RuntimeError):
            await socket.send_bytes(bytes((channel,)) + data)
