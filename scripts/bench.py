"""Runs one benchmark by name and keeps its figures: `scripts/bench NAME [--json FILE] [options of the benchmark]`.

Each benchmark is a module bench_NAME beside this file with `main(arguments: list[str]) -> dict`, which prints a table.
"""

from __future__ import annotations

import importlib
import json
import platform
import signal
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMES = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def main() -> None:
    """Parse the words that are ours, hand on the others."""
    words = sys.argv[1:]
    if not words or words[0] not in NAMES:
        sys.exit(
            f"usage: scripts/bench {'|'.join(NAMES)} [--json FILE] [options]; --help after a name lists its options"
        )
    name, rest = words[0], words[1:]
    target: Path | None = None
    if "--json" in rest:
        at = rest.index("--json")
        if at + 1 == len(rest):
            sys.exit("--json needs a FILE")
        target = Path(rest[at + 1])
        del rest[at : at + 2]
    # What a benchmark started is ended by its own `finally`, also when the benchmark itself is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    figures = importlib.import_module(f"bench_{name}").main(rest)
    if target is not None:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
        target.write_text(json.dumps({"benchmark": name, "on": machine, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
