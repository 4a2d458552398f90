"""A small client of Envoy's admin interface on its UNIX socket: HTTP/1.1, one request a connection."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from federation.errors import TimedOut, Unavailable

_MOST_HEADERS = 64 << 10


class AdminClient:
    """Asks the Envoy whose admin socket is `path`; `timeout` in seconds holds for each request."""

    def __init__(self, path: Path, *, timeout: float = 5.0) -> None:
        self._path = path
        self._timeout = timeout

    async def get(self, target: str) -> bytes:
        """The body of `GET target`. Raises Unavailable (not there, or not 200) or TimedOut."""
        return self._good(target, await self._request("GET", target))

    async def post(self, target: str) -> bytes:
        """The body of `POST target`. Raises as `get` does."""
        return self._good(target, await self._request("POST", target))

    async def ready(self) -> bool:
        """Whether Envoy serves: its listeners and clusters have been initialised. An Envoy that is not there is not."""
        try:
            status, _ = await self._request("GET", "/ready")
        except (Unavailable, TimedOut):
            return False
        return status == 200

    async def stats(self, pattern: str) -> dict[str, int]:
        """Counters and gauges whose names match the regular expression `pattern`."""
        body = await self.get(f"/stats?filter={_quoted(pattern)}")
        found: dict[str, int] = {}
        for line in body.decode(errors="replace").splitlines():
            name, separator, value = line.rpartition(": ")
            if separator and value.isdigit():
                found[name] = int(value)
        return found

    def _good(self, target: str, answer: tuple[int, bytes]) -> bytes:
        status, body = answer
        if status != 200:
            text = body[:200].decode(errors="replace").strip()
            raise Unavailable(f"Envoy answered {status} to {target}: {text}")
        return body

    async def _request(self, method: str, target: str) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._exchange(method, target)
        except TimeoutError as error:
            raise TimedOut(f"Envoy did not answer {method} {target} within {self._timeout} s") from error
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            raise Unavailable(f"Envoy's admin socket {self._path} does not answer: {error}") from error

    async def _exchange(self, method: str, target: str) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_unix_connection(self._path, limit=_MOST_HEADERS)
        try:
            writer.write(
                f"{method} {target} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()
            )
            await writer.drain()
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(lines[0].partition(" ")[2][:3])
            headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
            if headers.get("transfer-encoding", "").lower() == "chunked":
                return status, await _chunks(reader)
            if "content-length" in headers:
                return status, await reader.readexactly(int(headers["content-length"]))
            return status, await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    return bytes(body)


def _quoted(text: str) -> str:
    return "".join(c if c.isalnum() or c in "._-~" else "".join(f"%{b:02X}" for b in c.encode()) for c in text)
