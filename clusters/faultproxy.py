"""A TCP proxy of the tests that breaks connections the ways a network does: cut, refused, stalled, half open, late.

It knows nothing of what is spoken through it (Kubernetes speaks TLS), so faults are those of bytes and connections. It
runs in a thread with an event loop of its own: a test that blocks, and the program under test in the test's own loop,
meet it as they would meet a network. Every method may be called from any thread and has taken effect when it returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from federation.aio.tasks import cancel

T = TypeVar("T")

_CHUNK = 64 * 1024
_HELD = 256
"""Pieces of an answer that may be late at the same time; then the far end has to wait."""

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: close sends RST instead of FIN."""

Mode = Literal["pass", "stall", "half-open", "refuse"]


@dataclass(slots=True)
class Faults:
    """What is done to bytes and connections now; `FaultProxy` changes it."""

    mode: Mode = "pass"
    delay: float = 0.0
    """Seconds by which each piece of an answer is late. Order is kept, and pieces are late independently."""
    limit: int | None = None
    """Bytes of answers after which a connection is cut."""
    moving: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while bytes move."""
    prompt: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while answers are not late."""


class FaultProxy:
    """`with FaultProxy(("127.0.0.1", 6443), listen="127.0.0.1") as proxy:`, then talk to `proxy.port`.

    `upstream` is where connections are led to, and may be changed at any time for those that come later.
    """

    def __init__(self, upstream: tuple[str, int], *, listen: str = "127.0.0.1", port: int = 0) -> None:
        self.upstream, self.host, self.port = upstream, listen, port
        self.accepted = 0
        """Connections that were accepted so far, those that were refused not counted."""
        self._faults = Faults()
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)

    # --- life --------------------------------------------------------------------------------------------------------

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        try:
            self._do(self._listen())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._end()

    @property
    def address(self) -> str:
        """`host:port`, for a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def open(self) -> int:
        """Connections that are open towards clients now."""
        return self._call(lambda: len(self._connections))

    # --- faults ------------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Reset every open connection, on both sides. New ones pass."""
        self._call(self._cut)

    def refuse(self) -> None:
        """Reset every open connection and every new one, as if nothing listened, until `heal`."""

        def refuse() -> None:
            self._set("refuse")
            self._cut()

        self._call(refuse)

    def stall(self) -> None:
        """Move no byte in any direction until `heal`; then what was held goes on. Connections stay open."""
        self._call(lambda: self._set("stall"))

    def half_open(self) -> None:
        """Lose the far ends without telling the clients, as a NAT does that forgets.

        The open connections stay open towards the clients and are silent for ever; so are new ones until `heal`. Only
        the client or `cut` ends them.
        """

        def lose() -> None:
            self._set("half-open")
            for connection in self._connections:
                connection.lose()

        self._call(lose)

    def delay(self, seconds: float) -> None:
        """Deliver every piece of an answer this much later than it came, until `heal`."""

        def delay() -> None:
            self._faults.delay = seconds
            self._faults.prompt.clear()

        self._call(delay)

    def limit(self, answer_bytes: int) -> None:
        """Reset each connection, open or new, after that many more bytes of answer, until `heal`."""

        def limit() -> None:
            self._faults.limit = answer_bytes
            for connection in self._connections:
                connection.delivered = 0

        self._call(limit)

    def heal(self) -> None:
        """Undo every fault. What is lost stays lost."""

        def heal() -> None:
            self._faults.delay, self._faults.limit = 0.0, None
            self._faults.prompt.set()
            self._set("pass")

        self._call(heal)

    def _set(self, mode: Mode) -> None:
        self._faults.mode = mode
        if mode == "stall":
            self._faults.moving.clear()
        else:
            self._faults.moving.set()

    def _cut(self) -> None:
        for connection in list(self._connections):
            connection.reset()

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    def _call(self, function: Callable[[], T]) -> T:
        async def called() -> T:
            return function()

        return self._do(called())

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=30)
        self._loop.close()

    async def _listen(self) -> None:
        self._faults.moving.set()
        self._server = await asyncio.start_server(self._serve, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._cut()
        tasks = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # what was cut in the midst of a write says so

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(reader, writer, self._faults)
        if self._faults.mode == "refuse":
            connection.reset()
            return
        if self._faults.mode == "half-open":
            connection.lose()
        self.accepted += 1
        self._connections.add(connection)
        try:
            await connection.run(self.upstream)
        finally:
            self._connections.discard(connection)


class _Connection:
    """One client and its far end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: Faults) -> None:
        self.reader, self.writer, self.faults = reader, writer, faults
        self.delivered = 0
        """Bytes of answer since the connection began or `limit` was called."""
        self._far: asyncio.StreamWriter | None = None
        self._late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_HELD)
        self._lost = asyncio.Event()

    def reset(self) -> None:
        """Close both sides with RST."""
        for writer in (self.writer, self._far):
            if writer is not None:
                _reset(writer)

    def lose(self) -> None:
        """Close the far side and tell the client nothing."""
        self._lost.set()

    async def run(self, upstream: tuple[str, int]) -> None:
        """Until both sides have ended, or one is cut, or the far one is lost and the client goes away."""
        relay = asyncio.create_task(self._relay(upstream), name="fault-proxy-relay")
        lost = asyncio.create_task(self._lost.wait(), name="fault-proxy-lost")
        try:
            await asyncio.wait((relay, lost), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel(relay)
            await cancel(lost)
        if self._lost.is_set():
            if self._far is not None:
                _reset(self._far)
            with contextlib.suppress(OSError):
                while await self.reader.read(_CHUNK):
                    pass
        for writer in (self.writer, self._far):
            if writer is not None:
                writer.close()

    async def _relay(self, upstream: tuple[str, int]) -> None:
        await self.faults.moving.wait()
        try:
            answers, self._far = await asyncio.open_connection(*upstream)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._requests(self._far), name="fault-proxy-requests")
                pumps.create_task(self._answers(answers), name="fault-proxy-answers")
                pumps.create_task(self._deliver(), name="fault-proxy-deliver")
        except* OSError:
            self.reset()

    async def _requests(self, far: asyncio.StreamWriter) -> None:
        while data := await self.reader.read(_CHUNK):
            await self.faults.moving.wait()
            far.write(data)
            await far.drain()
        far.write_eof()

    async def _answers(self, answers: asyncio.StreamReader) -> None:
        """Note when each piece came, so that pieces can be late without waiting for each other."""
        data = b"first"
        while data:
            data = await answers.read(_CHUNK)
            await self._late.put((asyncio.get_running_loop().time(), data))

    async def _deliver(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            came, data = await self._late.get()
            if (early := came + self.faults.delay - clock()) > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.faults.prompt.wait(), early)
            await self.faults.moving.wait()
            if not data:
                self.writer.write_eof()
                return
            limit = self.faults.limit
            if limit is not None and self.delivered + len(data) > limit:
                self.writer.write(data[: limit - self.delivered])
                await self.writer.drain()
                raise ConnectionResetError("the limit of the answer")
            self.delivered += len(data)
            self.writer.write(data)
            await self.writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None and not writer.transport.is_closing():
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
