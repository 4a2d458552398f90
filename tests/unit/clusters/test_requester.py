"""What a pod does on request: it asks its own nameserver, and calls by TCP and UDP, and says how that went."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.rrset
import pytest

from clusters.network import free_port
from clusters.requester import answer, call, nameserver
from federation.errors import Unavailable

HERE = "127.0.0.1"


class Names(socketserver.DatagramRequestHandler):
    """Knows one name."""

    def handle(self) -> None:
        query = dns.message.from_wire(self.rfile.read())
        reply = dns.message.make_response(query)
        reply.answer.append(dns.rrset.from_text(query.question[0].name, 5, "IN", "A", "10.0.0.2", "10.0.0.1"))
        self.wfile.write(reply.to_wire())


class Greeting(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"east\n" + self.rfile.readline())


class Datagram(socketserver.DatagramRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"east\n" + self.rfile.read())


class Silent(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.rfile.readline()


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Iterator[object]:
    """Starts a server, and gives its port."""
    started: list[socketserver.BaseServer] = []

    def start(kind: type[socketserver.TCPServer], handler: type[socketserver.BaseRequestHandler]) -> int:
        server = kind((HERE, free_port(HERE)), handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        started.append(server)
        return int(server.server_address[1])

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def test_the_nameserver_is_the_first_of_the_pod():
    assert (
        nameserver("search a.svc b\n# nameserver 10.9.9.9\nnameserver 10.0.0.10\nnameserver 10.0.0.11\n") == "10.0.0.10"
    )
    with pytest.raises(Unavailable, match="no nameserver"):
        nameserver("search a\nnameserver\n")


def test_a_lookup_asks_it(serve, tmp_path: Path):  # type: ignore[no-untyped-def]
    (tmp_path / "resolv.conf").write_text(f"nameserver {HERE}\n")
    port = serve(socketserver.UDPServer, Names)
    found = answer("/lookup", {"name": "a.b."}, resolv_conf=tmp_path / "resolv.conf", dns_port=port)
    assert found == ["10.0.0.1", "10.0.0.2"]


@pytest.mark.parametrize(
    ("protocol", "server", "handler"),
    [("tcp", socketserver.TCPServer, Greeting), ("udp", socketserver.UDPServer, Datagram)],
)
def test_calls_say_who_answered(serve, protocol, server, handler):  # type: ignore[no-untyped-def]
    port = serve(server, handler)
    given = {"host": HERE, "port": str(port), "protocol": protocol, "times": "2", "timeout": "10"}
    assert [one["answer"] for one in answer("/call", given)] == ["east", "east"]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_call_of_nobody_is_refused(protocol: str):
    found = call(HERE, free_port(HERE), protocol=protocol, timeout=10)
    assert found["error"].startswith("ConnectionRefusedError")
    assert "answer" not in found


def test_who_says_nothing_has_not_answered(serve):  # type: ignore[no-untyped-def]
    found = call(HERE, serve(socketserver.TCPServer, Silent), timeout=10)
    assert found["error"].startswith("EOFError")


@pytest.mark.parametrize(("path", "given"), [("/other", {}), ("/call", {"host": HERE}), ("/lookup", {})])
def test_what_is_no_request_is_told(path: str, given: dict[str, str], tmp_path: Path):
    (tmp_path / "resolv.conf").write_text(f"nameserver {HERE}\n")
    with pytest.raises(KeyError):
        answer(path, given, resolv_conf=tmp_path / "resolv.conf")
