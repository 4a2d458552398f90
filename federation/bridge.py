"""Joins standard input and output to a socket of the agent or the registry in the same container.

    fedctl ═ pods/exec ═ standard input and output ─ this ─ agent.sock, registry.sock, or the registry's port

`kubectl exec` and fedctl start it beside a running process, so it imports next to nothing. Its first line on standard
output says that the connection stands; a failure is one JSON object on standard error, with fedctl's exit status.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

STATE_DIRECTORY = Path("/var/lib/isthmus")
GREETING = b"isthmus-bridge 1\n"
_PIECE = 1 << 16
_UNAVAILABLE = 6
"""Exit status of federation.errors.Unavailable, which would cost an import."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until either side has ended; returns the exit status."""
    parser = argparse.ArgumentParser(prog="isthmus-bridge", description="Joins stdin and stdout to a local process.")
    parser.add_argument("to", choices=("agent", "registry", "registry-port"))
    parser.add_argument("--directory", type=Path, default=STATE_DIRECTORY, help="the state folder of the process")
    options = parser.parse_args(arguments)
    try:
        if options.to == "registry-port":
            far = socket.create_connection(_registry_address(options.directory), timeout=5)
            far.settimeout(None)
        else:
            far = socket.socket(socket.AF_UNIX)
            far.connect(str(options.directory / f"{options.to}.sock"))
    except OSError as error:
        process = options.to.partition("-")[0]
        told = f"no {process} answers in {options.directory}: {error.strerror or error}"
        print(json.dumps({"code": f"{process}_down", "message": told}), file=sys.stderr)
        return _UNAVAILABLE
    with far:
        _write(sys.stdout.fileno(), GREETING)
        copy(sys.stdin.fileno(), sys.stdout.fileno(), far)
    return 0


def copy(source: int, sink: int, far: socket.socket) -> None:
    """Both ways, until the far side has ended, or nobody takes what it says."""
    with selectors.DefaultSelector() as ready:
        ready.register(source, selectors.EVENT_READ)
        ready.register(far, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                try:
                    if key.fileobj is far:
                        data = far.recv(_PIECE)
                        if not data:
                            return
                        _write(sink, data)
                    else:
                        data = os.read(source, _PIECE)
                        if data:
                            far.sendall(data)
                        else:
                            ready.unregister(source)
                            far.shutdown(socket.SHUT_WR)
                except OSError:
                    return


def _write(sink: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(sink, view) :]


def _registry_address(directory: Path) -> tuple[str, int]:
    """Where the registry of this folder listens, as it is dialled from beside it. Raises OSError."""
    import yaml

    text = str(yaml.safe_load((directory / "settings.yaml").read_text())["listen"])
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), int(port)


if __name__ == "__main__":
    sys.exit(main())
