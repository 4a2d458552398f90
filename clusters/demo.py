"""`scripts/demo`: the whole story on one machine, as a live table or as one JSON object.

Exit status: 0 when no request of any phase failed; otherwise 1, or the one of the error that ended it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from clusters.consulground import WithConsul
from clusters.ground import ApiServers, Folders, Ground
from clusters.kind.harness import IMAGE
from clusters.kind.stage import TOPOLOGY, KindStage
from clusters.namespace import enter_own_network
from clusters.processes import NAMESPACE, ProcessFederation
from clusters.processstage import ProcessStage
from clusters.scenario import Result, Teller, tell
from clusters.screen import Quiet, Show
from clusters.stage import Stage
from clusters.testbed.components import require
from clusters.topology import DC1, DEMO, DEMO_WITH_CONSUL, Topology
from federation.errors import IsthmusError, NotFound, StorageFailed


def main() -> None:
    """Run the demo and exit."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Clusters federated on this machine.")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    parser.add_argument("--changes", type=_count, default=40, help="endpoint changes to measure (default 40)")
    parser.add_argument(
        "--clusters",
        choices=("processes", "apiserver", "kind"),
        default="processes",
        help="plain hosts described by files (default), Kubernetes API servers of this machine, or two whole clusters"
        " in Docker containers",
    )
    parser.add_argument(
        "--prefix",
        default="",
        help=f"with kind: use the clusters {TOPOLOGY} that `python -m clusters up` has made with this prefix, and leave"
        " them standing (default: clusters of its own, which it removes)",
    )
    parser.add_argument("--state", type=Path, metavar="DIR", help="with --prefix: where their files are")
    parser.add_argument("--directory", type=Path, help="where to keep state and logs (default: a temporary folder)")
    arguments = parser.parse_args()
    try:
        if arguments.clusters == "apiserver":
            enter_own_network()
        status = asyncio.run(_run(arguments))
    except IsthmusError as error:
        print(json.dumps({"error": error.as_dict()}) if arguments.json else f"error: {error}", file=sys.stderr)
        status = error.exit_status
    except asyncio.CancelledError:
        print("interrupted; everything was ended", file=sys.stderr)
        status = 128 + signal.SIGINT
    sys.exit(status)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


async def _run(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    directory = arguments.directory or Path(tempfile.mkdtemp(prefix="isthmus-"))
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFailed(f"cannot make {directory}: {error.strerror}") from error
    stage = _stage(directory, arguments)
    _on_interrupts(stage)
    done = False
    try:
        console = Console()
        show = Show(console) if console.is_terminal and not arguments.json else None
        if show:
            with show.on_screen():
                result = await _story(stage, show, arguments.changes)
        else:
            for line in stage.left_out:
                print(line, file=sys.stderr, flush=True)
            result = await _story(stage, Quiet(), arguments.changes)
        result.seconds = time.monotonic() - began
        _print(result, arguments, console)
        if arguments.keep:
            _print_commands(stage, sys.stderr if arguments.json else sys.stdout)
            await asyncio.Event().wait()
        done = result.failed == 0
        if not done:
            await stage.report()
        return 0 if done else 1
    except Exception:
        await stage.report()
        raise
    finally:
        await stage.close()
        told = any(one.is_file() for one in directory.rglob("*"))
        if arguments.directory is None and (done or arguments.keep or not told):
            shutil.rmtree(directory, ignore_errors=True)
        elif not done and told:
            print(f"state and logs are kept in {directory}", file=sys.stderr)


def _stage(directory: Path, arguments: argparse.Namespace) -> Stage:
    if arguments.clusters == "kind":
        image = os.environ.get(IMAGE, "")
        return KindStage(directory, image=image, standing=arguments.prefix, state=arguments.state)
    topology, left_out = choose()
    return ProcessStage(_processes(topology, directory, arguments.clusters), left_out=left_out)


def choose() -> tuple[Topology, list[str]]:
    """The clusters of the demo on this machine, and a line for what it cannot show. Raises InvalidInput."""
    try:
        require("consul")
    except NotFound as error:
        return DEMO, [f"{DC1.name}, the cluster with Consul, is left out: {error}"]
    return DEMO_WITH_CONSUL, []


def _processes(topology: Topology, directory: Path, kind: str) -> ProcessFederation:
    """On folders or API servers, beside them the datacenters of the topology."""
    ground: Ground
    if kind == "apiserver":
        ground = ApiServers(directory / "kube", [name for name in topology.names if name not in topology.datacenters])
    else:
        ground = Folders(lambda cluster: federation.places[cluster].manifests)
    if topology.datacenters:
        ground = WithConsul(ground, directory / "consul", topology.datacenters, namespace=NAMESPACE)
    federation = ProcessFederation(topology, directory, ground=ground)
    return federation


def _on_interrupts(stage: Stage) -> None:
    """The first Ctrl-C ends the story in order, a later one at once; nothing stays behind either way."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - we are inside asyncio.run
    interrupts = 0

    def interrupted() -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts == 1:
            task.cancel()
        else:
            stage.kill()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupted)


async def _story(stage: Stage, teller: Teller, changes: int) -> Result:
    began = time.monotonic()
    await stage.build(teller.step)
    built = time.monotonic() - began
    result = await tell(stage, teller, changes=changes)
    result.built = built
    return result


def _print(result: Result, arguments: argparse.Namespace, console: Console) -> None:
    if arguments.json:
        print(json.dumps(result.as_dict()), flush=True)
        return
    if result.propagation:
        p = result.propagation
        console.print(
            f"An endpoint change reached the other cluster's Envoy in {p.p50:.1f} ms (median), "
            f"{p.p99:.1f} ms (99th percentile) of {p.n}."
        )
    console.print(
        f"{sum(p.requests for p in result.phases)} requests, {result.failed} failed; "
        f"{result.seconds:.0f} s in all, {result.built:.0f} s of it until the clusters were linked."
    )
    for line in result.left_out:
        console.print(line)
    if not arguments.keep:
        clusters = "" if arguments.clusters == "processes" else f" --clusters {arguments.clusters}"
        console.print(f"To go on exploring: scripts/demo{clusters} --keep")


def _print_commands(stage: Stage, file: Any) -> None:
    print("\nEverything runs until Ctrl-C. Try, in another terminal:\n", file=file)
    for line in stage.commands():
        print(f"  {line}", file=file)


if __name__ == "__main__":
    main()
