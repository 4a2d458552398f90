"""The proxy's faults, as clients meet them."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from clusters.faultproxy import FaultProxy
from clusters.waiting import until_now

WAIT = 30.0
QUIET = 0.2
"""Seconds in which something that would come at once has not come."""


class Echo(socketserver.BaseRequestHandler):
    """Answers each piece with itself."""

    def handle(self) -> None:
        try:
            while data := self.request.recv(65536):
                self.request.sendall(data)
        except OSError:
            pass


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64


@pytest.fixture
def upstream() -> Iterator[tuple[str, int]]:
    with Server(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield ("127.0.0.1", server.server_address[1])
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(upstream: tuple[str, int]) -> Iterator[FaultProxy]:
    with FaultProxy(upstream) as proxy:
        yield proxy


def dial(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=WAIT)


def ask(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return receive(client, len(data))


def receive(client: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        piece = client.recv(count - len(got))
        if not piece:
            break
        got += piece
    return got


def nothing_comes(client: socket.socket) -> bool:
    client.settimeout(QUIET)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(WAIT)
    return False


def test_it_passes_bytes_both_ways(proxy: FaultProxy) -> None:
    data = bytes(range(256)) * 4096
    with dial(proxy) as client:
        writer = threading.Thread(target=client.sendall, args=(data,))
        writer.start()
        assert receive(client, len(data)) == data
        writer.join()
        assert (proxy.accepted, proxy.open) == (1, 1)
    until_now(lambda: proxy.open == 0)


def test_an_end_is_passed_on(proxy: FaultProxy) -> None:
    with dial(proxy) as client:
        client.sendall(b"last")
        client.shutdown(socket.SHUT_WR)
        assert receive(client, 100) == b"last"


def test_cut_resets_what_is_open_and_lets_new_ones_pass(proxy: FaultProxy) -> None:
    with dial(proxy) as client:
        assert ask(client, b"one") == b"one"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with dial(proxy) as client:
        assert ask(client, b"two") == b"two"


def test_refuse_turns_new_ones_away_until_healed(proxy: FaultProxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionResetError), dial(proxy) as client:
        client.recv(1)
    proxy.heal()
    with dial(proxy) as client:
        assert ask(client, b"back") == b"back"
    assert proxy.accepted == 1


def test_what_is_stalled_goes_on_where_it_was(proxy: FaultProxy) -> None:
    with dial(proxy) as client, dial(proxy) as other:
        assert ask(client, b"one") == b"one"
        proxy.stall()
        client.sendall(b"two")
        other.sendall(b"new")
        assert nothing_comes(client)
        assert nothing_comes(other)
        proxy.heal()
        assert receive(client, 3) == b"two"
        assert receive(other, 3) == b"new"


def test_half_open_stays_silent_after_it_was_healed(proxy: FaultProxy) -> None:
    with dial(proxy) as client:
        assert ask(client, b"one") == b"one"
        proxy.half_open()
        with dial(proxy) as late:
            late.sendall(b"hello?")
            assert nothing_comes(late)
            proxy.heal()
            client.sendall(b"anybody?")
            assert nothing_comes(client)
            assert nothing_comes(late)
            with dial(proxy) as fresh:
                assert ask(fresh, b"new") == b"new"
            proxy.cut()
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_answers_are_late_and_in_order(proxy: FaultProxy) -> None:
    proxy.delay(0.3)
    with dial(proxy) as client:
        began = time.monotonic()
        for piece in (b"a", b"b", b"c"):
            client.sendall(piece)
            time.sleep(0.01)  # pieces of their own
        assert receive(client, 3) == b"abc"
        assert time.monotonic() - began >= 0.3
        proxy.heal()
        assert ask(client, b"d") == b"d"


def test_a_delay_ends_with_heal(proxy: FaultProxy) -> None:
    proxy.delay(3600)
    with dial(proxy) as client:
        client.sendall(b"x")
        assert nothing_comes(client)
        proxy.heal()
        assert receive(client, 1) == b"x"


def test_a_limit_cuts_in_the_middle_of_an_answer(proxy: FaultProxy) -> None:
    with dial(proxy) as client:
        assert ask(client, b"before") == b"before"
        proxy.limit(10)
        assert ask(client, b"1234567") == b"1234567"
        client.sendall(b"89abcdef")
        with pytest.raises(ConnectionResetError):
            receive(client, 8)


def test_nobody_upstream_is_a_reset(proxy: FaultProxy) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        proxy.upstream = unused.getsockname()
        with pytest.raises(ConnectionResetError), dial(proxy) as client:
            client.recv(1)


def test_it_ends_with_stalled_and_lost_connections(upstream: tuple[str, int]) -> None:
    with FaultProxy(upstream) as proxy:
        stalled, lost = dial(proxy), dial(proxy)
        ask(lost, b"x")
        proxy.half_open()
        proxy.stall()
        stalled.sendall(b"x")
    for client in (stalled, lost):
        with client, pytest.raises(ConnectionResetError):
            client.recv(1)
