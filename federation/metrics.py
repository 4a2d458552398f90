"""/metrics, /healthz and /readyz of a process, from threads of their own.

Arrives: the process's prometheus registry and two callables. The threads keep answering when the event loop is stuck,
and `alive` then says so. Three GET requests need no HTTP library: aiohttp's and the standard library's servers cost a
gateway and a sidecar several MB.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

Check = Callable[[], tuple[bool, str]]

_MAX_CONNECTIONS = 32
_MAX_REQUEST = 16 * 1024
"""Bytes of request line and headers."""
_PATIENCE = 3.0
"""Seconds for a request to arrive whole, and for each piece of its answer to be taken."""
_PHRASES = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}
_TEXT = "text/plain; charset=utf-8"

Answer = tuple[int, str, bytes]
"""Status, content type, body."""


class MetricsServer:
    """Serves /metrics, /healthz, /readyz and /startz on `host`:`port` (0 picks one) until `close`. Raises OSError."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        host: str,
        port: int,
        alive: Check,
        ready: Check,
        started: Check | None = None,
    ) -> None:
        """`started` is for who waits for the process with a start of his own; None: when it is ready."""
        self._registry = registry
        self._checks: dict[str, Check] = {"/healthz": alive, "/readyz": ready, "/startz": started or ready}
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=_MAX_CONNECTIONS)
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        self._thread = threading.Thread(target=self._listen, name="metrics", daemon=True)

    @property
    def port(self) -> int:
        """The TCP port in use."""
        port: int = self._listener.getsockname()[1]
        return port

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread; closing alone would not
        if self._thread.ident is not None:
            self._thread.join(timeout=5)
        self._listener.close()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except ConnectionError:
                continue  # it was broken off before it was accepted
            except OSError:
                if self._listener.fileno() < 0 or not _listening(self._listener):
                    return
                time.sleep(0.1)  # no descriptor is free, say
                continue
            if not self._free.acquire(blocking=False):  # too many
                connection.close()
                continue
            try:
                threading.Thread(target=self._serve, args=(connection,), name="metrics-request", daemon=True).start()
            except RuntimeError:  # no thread can be had
                self._free.release()
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        # Who broke off, or said nothing, is not worth a line.
        try:
            with connection, contextlib.suppress(OSError):
                head = _read_head(connection)
                if head:
                    method, _, rest = head.partition(" ")
                    status, kind, body = self._answer(method, rest.partition(" ")[0].partition("?")[0], head)
                    reply = (
                        f"HTTP/1.0 {status} {_PHRASES[status]}\r\n"
                        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
                    ).encode()
                    connection.settimeout(_PATIENCE)
                    connection.sendall(reply + (b"" if method == "HEAD" else body))
                    connection.shutdown(socket.SHUT_WR)
        finally:
            self._free.release()

    def _answer(self, method: str, path: str, head: str) -> Answer:
        if not path.startswith("/"):
            return 400, _TEXT, b"no request\n"
        if method not in ("GET", "HEAD"):
            return 405, _TEXT, b"only GET is served\n"
        if path == "/metrics":
            encode, kind = choose_encoder(_header(head, "accept"))
            return 200, kind, encode(self._registry)
        check = self._checks.get(path)
        if check is None:
            return 404, _TEXT, b"try /metrics, /healthz, /readyz or /startz\n"
        good, detail = check()
        return (200 if good else 503), _TEXT, (detail or ("ok" if good else "not ok")).encode() + b"\n"


def _listening(listener: socket.socket) -> bool:
    return bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _read_head(connection: socket.socket) -> str:
    """Request line and headers; empty where they do not come whole, in time and in size. Raises OSError."""
    deadline = time.monotonic() + _PATIENCE
    data = b""
    while b"\r\n\r\n" not in data and b"\n\n" not in data:
        left = deadline - time.monotonic()
        if left <= 0 or len(data) > _MAX_REQUEST:
            return ""
        connection.settimeout(left)
        piece = connection.recv(4096)
        if not piece:
            return ""
        data += piece
    return data.decode("latin-1")


def _header(head: str, name: str) -> str:
    """All values of a header, as one list."""
    lines = (line.partition(":") for line in head.splitlines()[1:])
    return ",".join(value.strip() for key, _, value in lines if key.strip().lower() == name)
