"""A program that calls a name all the while, as a workload in a pod does: `python -m clusters.caller NAME --port N`.

It prints a line for each request that has ended: begin and end (monotonic seconds, which all containers of a machine
share), the cluster that answered, and the error. `parse` reads them again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from clusters.load import HttpLoad, Outcome
from clusters.waiting import ANSWER

_PAUSE = 0.05
"""Seconds between looks at what has ended."""


def line(outcome: Outcome) -> str:
    """One outcome as it is printed."""
    return f"{outcome.begin:.6f}\t{outcome.end:.6f}\t{outcome.cluster}\t{' '.join(outcome.error.split())}"


def parse(text: str) -> list[Outcome]:
    """The outcomes of lines that are whole; others, as a log has them at its ends, are left out."""
    found = []
    for one in text.splitlines():
        parts = one.split("\t")
        if len(parts) == 4:
            found.append(Outcome(float(parts[0]), float(parts[1]), parts[2], parts[3]))
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Call until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, default=10.0, help="requests per second and client")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=ANSWER, help="seconds for one answer")
    given = parser.parse_args(words)
    load = HttpLoad(
        given.name,
        given.port,
        given.name,
        clients=given.clients,
        rate=given.rate,
        fresh_every=5,
        timeout=given.timeout,
    )
    load.start()
    told = 0
    while True:
        ended = load.outcomes(told)
        told += len(ended)
        if ended:
            print("\n".join(map(line, ended)), flush=True)
        time.sleep(_PAUSE)


if __name__ == "__main__":
    main()
