"""The admin client against scripted servers on a UNIX socket."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from federation.envoy.admin import AdminClient
from federation.errors import TimedOut, Unavailable


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="isthmus-") as name:
        yield Path(name)


@pytest.fixture
async def serve(directory: Path) -> AsyncIterator[Callable[..., Any]]:
    async with contextlib.AsyncExitStack() as stack:

        async def start(answer: bytes, *, hang: bool = False) -> tuple[AdminClient, list[bytes]]:
            seen: list[bytes] = []

            async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                seen.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(answer)
                await writer.drain()
                if hang:
                    await reader.read()
                writer.close()

            path = directory / "admin.sock"
            await stack.enter_async_context(await asyncio.start_unix_server(handle, path))
            return AdminClient(path, timeout=0.3 if hang else 5.0), seen

        yield start


async def test_bodies_of_every_framing(serve: Callable[..., Any]) -> None:
    for answer in (
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nhello",
    ):
        client, seen = await serve(answer)
        assert await client.get("/x") == b"hello"
        assert seen[0].startswith(b"GET /x HTTP/1.1\r\n")
        assert await client.post("/y") == b"hello"
        assert seen[1].startswith(b"POST /y HTTP/1.1\r\n")


async def test_statistics(serve: Callable[..., Any]) -> None:
    client, seen = await serve(
        b"HTTP/1.1 200 OK\r\n\r\nserver.live: 1\ncluster.a: b.cx: 7\nh: P0(nan,1)\nx: No recorded values\n"
    )
    assert await client.stats("^a b$") == {"server.live": 1, "cluster.a: b.cx": 7}
    assert seen[0].startswith(b"GET /stats?filter=%5Ea%20b%24 HTTP/1.1")


async def test_errors_say_what_happened(serve: Callable[..., Any], directory: Path) -> None:
    nobody = AdminClient(directory / "nobody.sock")
    with pytest.raises(Unavailable, match="does not answer"):
        await nobody.get("/x")
    assert not await nobody.ready()
    client, _ = await serve(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nINIT")
    with pytest.raises(Unavailable, match="503 to /x: INIT"):
        await client.get("/x")
    assert not await client.ready()
    for broken in (b"", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello", b"nonsense\r\n\r\n"):
        client, _ = await serve(broken)
        with pytest.raises(Unavailable):
            await client.get("/x")
    client, _ = await serve(b"HTTP/1.1 200 OK\r\n", hang=True)
    with pytest.raises(TimedOut, match="within"):
        await client.get("/x")
    assert not await client.ready()
