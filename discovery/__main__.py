"""`python -m discovery --settings FILE [--set KEY=VALUE]…`: the agent of one cluster."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from discovery import settings as parse
from discovery.agent import serve
from federation import log
from federation.aio.tasks import run
from federation.errors import IsthmusError
from federation.settings import add_set


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; the exit status of `fedctl` for an error."""
    parser = argparse.ArgumentParser(prog="isthmus-agent", description="The agent of one cluster.")
    parser.add_argument("--settings", type=Path, required=True, help="settings.yaml, from `fedctl cluster join`")
    add_set(parser)
    options = parser.parse_args(arguments)
    try:
        settings = parse.load(options.settings, options.changes)
        log.configure(level=settings.log.level, json=settings.log.json, process="agent", cluster=settings.cluster)
        run(serve(settings, log.get("agent")))
    except IsthmusError as error:
        print(f"isthmus-agent: {error} [{error.error_code}]", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
