"""How both processes begin: arguments, settings, logs; and how they end when they cannot begin: one clear line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from federation import log
from federation.aio import tasks
from federation.errors import IsthmusError
from federation.registry.edge.settings import EdgeSettings
from federation.settings import add_set

S = TypeVar("S", bound=EdgeSettings)


def main(
    process: str,
    arguments: Sequence[str] | None,
    *,
    read: Callable[[Path, Sequence[str]], S],
    serve: Callable[[S], Coroutine[Any, Any, None]],
) -> int:
    """Run `serve` with the settings of the command line; returns the exit status (of the error's class).

    What imports grpc must be imported by `serve`, not before.
    """
    # gRPC's handlers around fork() can abort the child that becomes Envoy; that child never uses gRPC.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    parser = argparse.ArgumentParser(
        prog=f"python -m {process}", description=f"Isthmus {process}; see docs/settings.md"
    )
    parser.add_argument("--settings", type=Path, required=True, metavar="FILE")
    add_set(parser)
    options = parser.parse_args(arguments)
    try:
        settings = read(options.settings, options.changes)
        log.configure(level=settings.log.level, json=settings.log.json, process=process, name=settings.name)
        tasks.run(serve(settings))
    except IsthmusError as error:
        return _failed(process, error)
    except ExceptionGroup as group:
        known, unknown = group.split(IsthmusError)
        if unknown is not None or known is None:
            raise
        return _failed(process, _first(known))
    return 0


def _first(group: ExceptionGroup[Any]) -> IsthmusError:
    error: Any = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, IsthmusError)  # noqa: S101 - what `split` was asked for
    return error


def _failed(process: str, error: IsthmusError) -> int:
    print(f"{process}: {error} [{error.error_code}]", file=sys.stderr)
    return error.exit_status
