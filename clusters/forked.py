"""Runs commands in forks of one interpreter that has imported what they need, where dozens of them are run in a row.

`serve` is that interpreter; what `command` makes is a program that hands its words, its folder, its environment and its
three streams on, and ends with the status of the fork.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

_CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect({path!r})
    asked = json.dumps([{name!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [asked], [0, 1, 2])
    sys.exit(int(server.recv(8) or b"125"))
"""


def command(folder: Path, name: str, server: Path) -> None:
    """Make the program `name` in `folder`."""
    program = folder / name
    program.write_text(_CLIENT.format(python=sys.executable, path=str(server), name=name))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def serve(path: str, programs: dict[str, Callable[[list[str]], int]]) -> None:
    """Until it is killed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks that have ended are nobody's business
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(path)
        listening.listen(16)
        while True:
            client, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                _answer(client, programs)
            client.close()


def _answer(client: socket.socket, programs: dict[str, Callable[[list[str]], int]]) -> None:
    status = 125
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        asked, streams, _, _ = socket.recv_fds(client, 1 << 20, 3)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        name, words, folder, environment = json.loads(asked)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        status = programs[name](words)
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        if isinstance(ending.code, str):
            print(ending.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        client.send(str(status).encode())
        os._exit(0)
