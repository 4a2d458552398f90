"""/metrics, /healthz and /readyz of a process, on loopback, from a thread of their own.

Arrives: the process's prometheus registry and two callables. The thread keeps answering when the event loop is stuck,
and `alive` then says so; aiohttp is not used here because the gateway and the sidecar must stay small.
"""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import make_wsgi_app

Check = Callable[[], tuple[bool, str]]
_MAX_CONNECTIONS = 32


class _QuietHandler(WSGIRequestHandler):
    timeout = 3

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not worth a line each."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """A thread for each connection, up to a limit: one that says nothing does not hold up a probe."""

    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Turn away who is too many."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who broke off, or said nothing, is not worth a line."""


class MetricsServer:
    """Serves /metrics, /healthz and /readyz on `host`:`port` (0 picks one) until `close`."""

    def __init__(self, registry: CollectorRegistry, *, host: str, port: int, alive: Check, ready: Check) -> None:
        self._metrics = make_wsgi_app(registry)
        self._checks: dict[str, Check] = {"/healthz": alive, "/readyz": ready}
        self._server: WSGIServer = make_server(host, port, self._app, server_class=_Server, handler_class=_QuietHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    @property
    def port(self) -> int:
        """The TCP port in use."""
        return self._server.server_port

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def _app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            return self._metrics(environ, start_response)
        check = self._checks.get(path)
        if check is None:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"try /metrics, /healthz or /readyz\n"]
        good, detail = check()
        start_response("200 OK" if good else "503 Service Unavailable", [("Content-Type", "text/plain; charset=utf-8")])
        return [(detail or ("ok" if good else "not ok")).encode() + b"\n"]
