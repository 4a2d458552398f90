"""Looks at this machine for `fedctl check`. Nothing is changed: ports are bound for a moment."""

from __future__ import annotations

import platform
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterable

from federation.cli.checks.facts import HostFacts, PortFact
from federation.model.address import split_address

DEFAULT_PORTS = (
    ("the agent", "127.0.0.1:7445", "tcp"),
    ("the gateway", "0.0.0.0:15443", "tcp"),
)
"""What processes of a plain host listen on unless their settings say otherwise."""
_SECONDS = 10


def look(
    ports: Iterable[tuple[str, str, str]] = DEFAULT_PORTS,
    *,
    run: Callable[[list[str]], str] | None = None,
) -> HostFacts:
    """The facts of this machine; `ports`: (what for, HOST:PORT, "tcp" or "udp"). `run` runs a program, see `tried`."""
    call = run or tried
    return HostFacts(
        system=platform.system(),
        release=platform.release(),
        nft=call(["nft", "list", "tables"]),
        ip=call(["ip", "-V"]),
        ports=[PortFact(what, address, bound(address, kind)) for what, address, kind in ports],
    )


def tried(command: list[str]) -> str:
    """Why a program cannot be used, in one line; empty where it can."""
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{command[0]} cannot be run: {error}"
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        return f"`{' '.join(command)}`: {lines[0] if lines else f'status {done.returncode}'}"
    return ""


def bound(address: str, kind: str) -> str:
    """Why nobody could listen there; empty where one could."""
    host, port = split_address(address, what="--listen")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM) as held:
        if kind != "udp":
            # As servers do: connections of a former one that are still closing are no hindrance.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind((host, port))
            if kind != "udp":
                held.listen(1)
        except OSError as error:
            return error.strerror or str(error)
    return ""
