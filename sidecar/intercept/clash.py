"""Finds out whether a port can be had on a loopback address: a listener on all addresses excludes one on a single one.

Whoever comes second fails, so the question is asked before a listener of ours is made: by binding, which takes 14 µs,
where reading all sockets of a busy machine took 18 ms. That the workload may be the second is the business of
sidecar.intercept.workload. Who holds a port is then read from /proc/net/tcp and tcp6 of
this network namespace.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import itertools
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from federation.errors import StorageFailed

_LISTEN = "0A"
_PROC_NET = Path("/proc/net")


@dataclass(frozen=True, slots=True)
class Listener:
    """A TCP socket that listens, of whichever process."""

    address: str
    port: int
    uid: int = 0
    inode: int = 0

    @property
    def on_all_addresses(self) -> bool:
        """Whether it takes IPv4 connections to any address. `::` counts: it usually does, the table does not say."""
        return self.address in ("0.0.0.0", "::")


@functools.lru_cache(maxsize=4)  # who listens is looked at every few seconds, and hardly ever changes
def parse_listeners(text: str) -> tuple[Listener, ...]:
    """The listeners in the text of /proc/net/tcp or tcp6 (proc(5)); lines that are none are passed over."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 10 or fields[3] != _LISTEN:
            continue
        host, _, port = fields[1].partition(":")
        try:
            found.append(Listener(_address(host), int(port, 16), int(fields[7]), int(fields[9])))
        except ValueError:
            continue
    return tuple(found)


def is_held(address: str, port: int) -> bool:
    """Whether a socket of somebody keeps Envoy from listening there; asked as Envoy asks (SO_REUSEADDR).

    Whatever else forbids it (a port below 1024 without the right to it) is no clash: Envoy's own words tell of it.
    """
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def find_clash(listeners: Iterable[Listener], port: int, address: str = "") -> Listener | None:
    """The listener that keeps us from listening on `port` at a virtual address, or None."""
    return next((x for x in listeners if x.port == port and (x.on_all_addresses or x.address == address)), None)


def explain(clash: Listener) -> str:
    """The clash in one line, and what to do."""
    where = "on all addresses" if clash.on_all_addresses else f"at {clash.address}"
    return (
        f"port {clash.port} is held {where} by a process of uid {clash.uid} (socket {clash.inode}; let it listen on an "
        "address of its own instead)"
    )


def read_listeners(directory: Path = _PROC_NET) -> tuple[Listener, ...]:
    """All TCP listeners of this network namespace; raises StorageFailed where /proc cannot be read.

    The kernel writes listeners before all other sockets, and only as much as is read: what follows costs nothing.
    """
    found: tuple[Listener, ...] = ()
    for name in ("tcp", "tcp6"):
        try:
            with (directory / name).open(encoding="ascii", errors="replace") as file:
                lines = [file.readline(), *itertools.takewhile(_listens, file)]
            found += parse_listeners("".join(lines))
        except FileNotFoundError:
            if name == "tcp":  # without IPv6 there is no tcp6
                raise StorageFailed(
                    f"there is no {directory}/tcp", hint="port clashes are found on Linux only"
                ) from None
        except OSError as error:
            raise StorageFailed(f"cannot read {directory}/{name}: {error.strerror}") from error
    return found


def _listens(line: str) -> bool:
    fields = line.split(maxsplit=4)
    return len(fields) < 4 or fields[3] == _LISTEN


def _address(digits: str) -> str:
    """The kernel prints each 32-bit word in the byte order of the machine. Raises ValueError."""
    raw = bytes.fromhex(digits)
    if len(raw) not in (4, 16):
        raise ValueError(digits)
    words = [raw[i : i + 4] for i in range(0, len(raw), 4)]
    if sys.byteorder == "little":
        words = [w[::-1] for w in words]
    return str(ipaddress.ip_address(b"".join(words)))
