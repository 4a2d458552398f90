from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from federation.errors import StorageFailed
from sidecar.intercept.clash import Listener, explain, find_clash, is_held, parse_listeners, read_listeners

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def line(address: str, *, state: str = "0A", uid: int = 1000, inode: int = 77) -> str:
    queues = "00000000:00000000 00:00000000 00000000"
    return f"   0: {address} 00000000:0000 {state} {queues}  {uid}        0 {inode} 1 0 100\n"


@pytest.mark.skipif(sys.byteorder != "little", reason="the kernel prints words in the byte order of the machine")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (line("00000000:1F90"), (Listener("0.0.0.0", 8080, 1000, 77),)),
        (line("0100007F:0050"), (Listener("127.0.0.1", 80, 1000, 77),)),
        (line("00000000000000000000000000000000:01BB"), (Listener("::", 443, 1000, 77),)),
        (line("00000000000000000000000001000000:01BB"), (Listener("::1", 443, 1000, 77),)),
        (line("B80D0120000000000000000001000000:01BB"), (Listener("2001:db8::1", 443, 1000, 77),)),
        (line("00000000:1F90", state="01"), ()),
        ("garbage\n\n" + line("xyz:1F90") + line("00:1F90") + line("00000000:"), ()),
        ("", ()),
    ],
)
def test_parse(text: str, expected: tuple[Listener, ...]) -> None:
    assert parse_listeners(HEAD + text) == expected


@pytest.mark.parametrize(
    ("listeners", "clashes"),
    [
        ((), False),
        ((Listener("0.0.0.0", 80),), True),
        ((Listener("::", 80),), True),
        ((Listener("0.0.0.0", 81),), False),
        (
            (Listener("127.0.0.1", 80), Listener("::1", 80), Listener("10.0.0.1", 80), Listener("127.128.0.1", 80)),
            False,
        ),
        ((Listener("127.0.0.1", 80), Listener("0.0.0.0", 80)), True),
    ],
)
def test_decision(listeners: tuple[Listener, ...], clashes: bool) -> None:
    found = find_clash(listeners, 80)
    assert (found is not None) is clashes
    if found is not None:
        assert "port 80" in explain(found)
        assert "address of its own" in explain(found)


@pytest.mark.parametrize(
    ("family", "host", "expected"),
    [(socket.AF_INET, "0.0.0.0", True), (socket.AF_INET6, "::", True), (socket.AF_INET, "127.0.0.1", False)],
)
def test_the_decision_is_the_kernels(family: socket.AddressFamily, host: str, expected: bool) -> None:
    with socket.socket(family) as held, socket.socket() as ours:
        try:
            held.bind((host, 0))
        except OSError:
            pytest.skip("this host has no IPv6")
        held.listen()
        port = held.getsockname()[1]
        assert (find_clash(read_listeners(), port) is not None) is expected
        assert is_held("127.128.0.1", port) is expected
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if expected:
            with pytest.raises(OSError, match="Address already in use"):
                ours.bind(("127.128.0.1", port))
        else:
            ours.bind(("127.128.0.1", port))


def test_reading_the_tables(tmp_path: Path) -> None:
    (tmp_path / "tcp").write_text(HEAD + line("00000000:1F90"))
    assert [x.port for x in read_listeners(tmp_path)] == [8080]  # a kernel without IPv6 has no tcp6
    (tmp_path / "tcp6").write_text(HEAD + line("00000000000000000000000000000000:01BB"))
    assert [x.port for x in read_listeners(tmp_path)] == [8080, 443]
    (tmp_path / "tcp").unlink()
    with pytest.raises(StorageFailed):
        read_listeners(tmp_path)
    (tmp_path / "tcp").mkdir()
    with pytest.raises(StorageFailed):
        read_listeners(tmp_path)


def test_a_port_that_another_one_has_at_the_same_address_is_held() -> None:
    with socket.socket() as other:
        other.bind(("127.128.0.1", 0))
        port = other.getsockname()[1]
        other.listen()
        assert is_held("127.128.0.1", port)
        assert not is_held("127.128.0.2", port)
        found = find_clash(read_listeners(), port, "127.128.0.1")
        assert found is not None
        assert "at 127.128.0.1" in explain(found)
        assert find_clash(read_listeners(), port, "127.128.0.2") is None
    assert not is_held("127.128.0.1", port)


def test_what_is_no_clash_is_left_to_envoy() -> None:
    assert not is_held("192.0.2.77", 80)  # not an address of this host


def test_what_follows_the_listeners_is_not_read(tmp_path: Path) -> None:
    """The kernel writes them first."""
    held, other = line("00000000:1F90"), line("00000000:1F91", state="01")
    (tmp_path / "tcp").write_text(HEAD + held + other + held)
    assert [x.port for x in read_listeners(tmp_path)] == [8080]
