"""`python -m federation.registry --settings FILE [--set KEY=VALUE]…`: serve a registry until SIGTERM or SIGINT;
`--in-pod FILE`: make it first, where there is none."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from federation import log
from federation.aio import tasks
from federation.errors import IsthmusError
from federation.registry import inpod
from federation.registry import settings as files
from federation.registry.settings import RegistrySettings
from federation.settings import add_set


async def serve(settings: RegistrySettings) -> None:
    """Serve until a signal, anew after a backup was restored; raises IsthmusError when it cannot begin."""
    from federation.registry import backup

    stopped = asyncio.create_task(tasks.wait_for_signal(), name="registry-signal")
    try:
        while not stopped.done():
            if await asyncio.to_thread(backup.finish, settings.path):
                log.get("registry").warning("backup restored", directory=settings.directory)
            await _serve_once(settings, stopped)
    finally:
        await tasks.cancel(stopped)


async def _serve_once(settings: RegistrySettings, stopped: asyncio.Task[None]) -> None:
    from federation.registry.server import Registry  # brings gRPC, which reads its environment when it is imported

    async with Registry(settings) as registry:
        running = asyncio.create_task(registry.run(), name="registry")
        restored = asyncio.create_task(registry.restored.wait(), name="registry-restored")
        try:
            await asyncio.wait({running, stopped, restored}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
        finally:
            await tasks.cancel(restored)
            await tasks.cancel(running)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; ends with the exit status of the error's class."""
    parser = argparse.ArgumentParser(prog="isthmus-registry", description="Serves an Isthmus registry.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--settings", type=Path, metavar="FILE", help="made by `fedctl registry init`")
    which.add_argument("--in-pod", type=Path, metavar="FILE", help="settings of a registry that makes its own folder")
    add_set(parser)
    options = parser.parse_args(arguments)
    try:
        settings: RegistrySettings
        if options.in_pod:
            settings = inpod.load(options.in_pod, options.changes)
        else:
            settings = files.load(options.settings, options.changes)
        log.configure(
            level=settings.log.level, json=settings.log.json, process="registry", federation=settings.federation
        )
        if options.in_pod:
            inpod.prepare(settings)
        tasks.run(serve(settings))
    except IsthmusError as error:
        print(f"registry: {error} [{error.error_code}]", file=sys.stderr)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
