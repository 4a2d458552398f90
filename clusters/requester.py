"""Looks up and calls what it is told to, as a workload in its pod would: `python -m clusters.requester --port N`.

By HTTP, such as through an API server's proxy of pods, so that nothing has to be started in the pod for each request:
`/lookup?name=…&kind=A` asks the nameserver of the pod; `/call?host=…&port=…` has the system resolve and call.
"""

from __future__ import annotations

import argparse
import json
import socket
import time
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from clusters.names import lookup
from clusters.waiting import ANSWER
from federation.errors import Unavailable

RESOLV_CONF = Path("/etc/resolv.conf")


def nameserver(text: str) -> str:
    """The first that a resolv.conf names; raises Unavailable."""
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            return words[1]
    raise Unavailable("the pod has no nameserver")


def call(host: str, port: int, *, protocol: str = "tcp", timeout: float = ANSWER) -> dict[str, Any]:
    """One call: the first line of the `answer`, which says who it is of, or the `error`; and its `seconds`."""
    began = time.monotonic()
    try:
        kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
        *_, where = socket.getaddrinfo(host, port, socket.AF_INET, kind)[0]
        with socket.socket(socket.AF_INET, kind) as client:
            client.settimeout(timeout)
            client.connect(where)
            client.sendall(b"hi\n")
            said = client.recv(1024) if protocol == "udp" else client.makefile("rb").readline()
        done: dict[str, Any] = {"answer": said.partition(b"\n")[0].decode(errors="replace").strip()}
        if not said:
            done = {"error": "EOFError: it has said nothing"}
    except OSError as error:
        done = {"error": f"{type(error).__name__}: {error}"}
    return {**done, "seconds": round(time.monotonic() - began, 3)}


def answer(path: str, given: Mapping[str, str], *, resolv_conf: Path = RESOLV_CONF, dns_port: int = 53) -> Any:
    """What a request is answered; raises Unavailable, and KeyError for one that lacks something."""
    if path == "/lookup":
        server = nameserver(resolv_conf.read_text())
        return lookup(server, dns_port, given["name"], given.get("kind", "A"))
    if path == "/call":
        protocol, timeout = given.get("protocol", "tcp"), float(given.get("timeout", ANSWER))
        host, port = given["host"], int(given["port"])
        return [call(host, port, protocol=protocol, timeout=timeout) for _ in range(int(given.get("times", 1)))]
    raise KeyError(path)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        try:
            status, told = 200, answer(split.path, dict(parse_qsl(split.query)))
        except Unavailable as error:
            status, told = 503, {"message": error.message}
        except (KeyError, ValueError) as error:
            status, told = 400, {"message": f"{type(error).__name__}: {error}"}
        data = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Who asked has the answer."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True


def main(words: Sequence[str] | None = None) -> None:
    """Serve until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    with _Server(("0.0.0.0", parser.parse_args(words).port), _Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
