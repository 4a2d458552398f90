"""Finds out whether a port can be had on a loopback address: a listener on all addresses excludes one on a single one.

Arrives: the text of /proc/net/tcp and tcp6 of this network namespace. Leaves: the listener that holds the port, or
None. Whoever comes second fails, so the question is asked before a listener of ours is made.
"""

from __future__ import annotations

import ipaddress
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


def find_clash(listeners: Iterable[Listener], port: int) -> Listener | None:
    """The listener that keeps us from listening on `port` at a virtual address, or None."""
    return next((x for x in listeners if x.port == port and x.on_all_addresses), None)


def explain(clash: Listener) -> str:
    """The clash in one line, and what to do."""
    return (
        f"port {clash.port} is held on all addresses by a process of uid {clash.uid} (socket {clash.inode}), so no "
        "virtual address can have it: calls go through the gateway (let it listen on an address of its own instead)"
    )


def read_listeners(directory: Path = _PROC_NET) -> tuple[Listener, ...]:
    """All TCP listeners of this network namespace; raises StorageFailed where /proc cannot be read."""
    found: tuple[Listener, ...] = ()
    for name in ("tcp", "tcp6"):
        try:
            found += parse_listeners((directory / name).read_text("ascii", "replace"))
        except FileNotFoundError:
            if name == "tcp":  # without IPv6 there is no tcp6
                raise StorageFailed(
                    f"there is no {directory}/tcp", hint="port clashes are found on Linux only"
                ) from None
        except OSError as error:
            raise StorageFailed(f"cannot read {directory}/{name}: {error.strerror}") from error
    return found


def _address(digits: str) -> str:
    """The kernel prints each 32-bit word in the byte order of the machine. Raises ValueError."""
    raw = bytes.fromhex(digits)
    if len(raw) not in (4, 16):
        raise ValueError(digits)
    words = [raw[i : i + 4] for i in range(0, len(raw), 4)]
    if sys.byteorder == "little":
        words = [w[::-1] for w in words]
    return str(ipaddress.ip_address(b"".join(words)))
