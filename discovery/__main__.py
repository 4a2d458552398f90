"""`python -m discovery --settings FILE [--set KEY=VALUE]…`: the agent; `--in-pod FILE`: it joins by itself."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from discovery import inpod
from discovery import settings as parse
from discovery.agent import serve
from discovery.settings import AgentSettings
from federation import log
from federation.aio.tasks import run
from federation.errors import IsthmusError
from federation.settings import add_set


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; the exit status of `fedctl` for an error."""
    parser = argparse.ArgumentParser(prog="isthmus-agent", description="The agent of one cluster.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--settings", type=Path, metavar="FILE", help="settings.yaml, from `fedctl cluster join`")
    which.add_argument("--in-pod", type=Path, metavar="FILE", help="settings of an agent that joins by itself")
    parser.add_argument(
        "--join-token", type=Path, default=inpod.TOKEN_FILE, metavar="FILE", help="with --in-pod: holds its join token"
    )
    add_set(parser)
    options = parser.parse_args(arguments)
    try:
        settings: AgentSettings
        if options.in_pod:
            settings = inpod.load(options.in_pod, options.changes)
        else:
            settings = parse.load(options.settings, options.changes)
        log.configure(level=settings.log.level, json=settings.log.json, process="agent", cluster=settings.cluster)
        if isinstance(settings, inpod.PodSettings):
            run(inpod.run(settings, log.get("agent"), token=options.join_token))
        else:
            run(serve(settings, log.get("agent")))
    except IsthmusError as error:
        print(f"isthmus-agent: {error} [{error.error_code}]", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
