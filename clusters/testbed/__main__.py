"""`scripts/testbed`: bring the real components of the tests, or say where they are."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence

from clusters.testbed.build import Builder
from clusters.testbed.components import COMPONENTS, component, find
from federation.errors import IsthmusError


def main(arguments: Sequence[str] | None = None) -> int:
    """Progress goes to stderr, what was asked for to stdout; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/testbed",
        description="Finds the real components of the tests in KUBEBUILDER_ASSETS, in ISTHMUS_CONSUL and on PATH, and"
        " builds what is missing from pinned Go modules into ${XDG_CACHE_HOME:-~/.cache}/isthmus/testbed: minutes"
        " once.",
    )
    parser.add_argument("components", nargs="*", metavar="COMPONENT", help=f"default: all of {', '.join(COMPONENTS)}")
    parser.add_argument("--print", action="store_true", help="print an export line that puts them on PATH")
    parser.add_argument("--list", action="store_true", help="say where each one is and build nothing")
    parser.add_argument("--jobs", type=int, default=2, help="compilers at once, up to 1 GB each (default: 2)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        wanted = [component(name) for name in options.components or COMPONENTS]
        if options.list:
            for one in wanted:
                print(f"{one.name} {one.version} {find(one.name) or 'missing'}")
            return 0
        builder = Builder(say=_say, jobs=max(1, options.jobs), environ=os.environ)
        paths = [find(one.name) or builder.build(one) for one in wanted]
    except IsthmusError as error:
        _say(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        _say("interrupted; what was compiled so far is kept by Go and not compiled again")
        return 130
    if options.print:
        folders = dict.fromkeys(str(path.parent) for path in paths)
        print(f'export PATH={shlex.quote(os.pathsep.join(folders))}:"$PATH"')
    return 0


def _say(line: str) -> None:
    print(f"scripts/testbed: {line}", file=sys.stderr, flush=True)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
