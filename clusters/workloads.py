"""The workloads of the harness: echoes of HTTP, TCP, or TCP and UDP at one port, that say which cluster answered.

`python -m clusters.workloads http|tcp|tcp+udp --cluster NAME --address IP --port N` serves until it is killed.
"""

from __future__ import annotations

import argparse
import json
import socket
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _HttpEcho(BaseHTTPRequestHandler):
    """Answers every request with JSON: the cluster, and what arrived."""

    protocol_version = "HTTP/1.1"
    cluster = ""
    timeout = 300
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        answer = {
            "cluster": self.cluster,
            "method": self.command,
            "path": self.path,
            "host": self.headers.get("Host", ""),
            "caller": self.headers.get("X-Forwarded-Client-Cert", ""),
            "bytes": len(body),
        }
        data = json.dumps(answer).encode() + b"\n"
        # One write: headers and body leave in one segment.
        self.wfile.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data
        )

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        """The demo shows answers, not access logs."""


class _TcpEcho(socketserver.StreamRequestHandler):
    """Greets with the cluster's name, then echoes line by line."""

    cluster = ""
    timeout = 300
    disable_nagle_algorithm = True

    def handle(self) -> None:
        self.wfile.write(self.cluster.encode() + b"\n")
        for line in self.rfile:
            self.wfile.write(line)


class _UdpEcho(socketserver.DatagramRequestHandler):
    """Answers every datagram with the cluster's name, and what arrived."""

    cluster = ""

    def handle(self) -> None:
        self.wfile.write(self.cluster.encode() + b"\n" + self.rfile.read())


class _QuietServer(socketserver.TCPServer):
    """A client that goes in the midst of its request is nothing to report: tests kill them."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _HttpServer(_QuietServer, ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class _TcpServer(_QuietServer, socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128


def main() -> None:
    """Serve one workload; prints `ready` once it listens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("http", "tcp", "tcp+udp"))
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    where = (arguments.address, arguments.port)
    server: socketserver.BaseServer
    if arguments.kind == "http":
        _HttpEcho.cluster = arguments.cluster
        server = _HttpServer(where, _HttpEcho)
    else:
        _TcpEcho.cluster = arguments.cluster
        server = _TcpServer(where, _TcpEcho)
        if arguments.kind == "tcp+udp":
            _UdpEcho.cluster = arguments.cluster
            datagrams = socketserver.UDPServer(where, _UdpEcho)
            threading.Thread(target=datagrams.serve_forever, name="udp", daemon=True).start()
    with server:
        bound = server.socket.getsockname() if isinstance(server.socket, socket.socket) else where
        print(f"ready {bound[0]}:{bound[1]}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
