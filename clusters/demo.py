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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from clusters.consulground import WithConsul
from clusters.ground import ApiServers, Folders, Ground
from clusters.load import Account
from clusters.namespace import enter_own_network, in_own_network
from clusters.processes import HTTP_PORT, NAMESPACE, ProcessFederation
from clusters.scenario import CALLER, GLOBAL_NAME, STOCK_NAME, Result, build, tell
from clusters.testbed.components import require
from clusters.topology import DC1, DEMO, DEMO_WITH_CONSUL, STOCK, Topology
from federation.errors import IsthmusError, NotFound, StorageFailed


class Quiet:
    """Says each step in a line on stderr; the result is printed by the caller."""

    def step(self, text: str) -> None:
        print(f"… {text}", file=sys.stderr, flush=True)

    def names(self, names: dict[str, list[str]]) -> None:
        self.step(", ".join(f"{name} is {' '.join(answers)}" for name, answers in names.items()))

    def phase(self, phase: Account, told: str) -> None:
        self.step(f"{phase.name}: {phase.requests} requests, {phase.failed} failed, by {phase.answered_by}: {told}")
        for error in phase.errors:
            self.step(f"  {error}")

    def live(self, name: str, requests: int, failed: int) -> None:
        """Nothing moves on a pipe."""


class Show:
    """A live table of the phases, with the current step below it."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=10, transient=False)
        self._spinner = Spinner("dots", "starting")
        self._names: dict[str, list[str]] = {}
        self._phases: list[tuple[Account, str]] = []
        self._current: tuple[str, int, int] | None = None

    @contextmanager
    def on_screen(self) -> Iterator[None]:
        with self._live:
            self._draw()
            yield
            self._live.update(Group(*self._tables()))

    def step(self, text: str) -> None:
        self._current = None
        self._spinner.update(text=text)
        self._draw()

    def names(self, names: dict[str, list[str]]) -> None:
        self._names = names
        self._draw()

    def phase(self, phase: Account, told: str) -> None:
        self._phases.append((phase, told))
        self._current = None
        self._draw()

    def live(self, name: str, requests: int, failed: int) -> None:
        self._current = (name, requests, failed)
        self._spinner.update(text="requests are running")
        self._draw()

    def _draw(self) -> None:
        self._live.update(Group(*self._tables(), self._spinner))

    def _tables(self) -> list[Any]:
        tables: list[Any] = []
        if self._names:
            names = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
            names.add_column("NAME")
            names.add_column(f"ANSWER OF {CALLER.upper()}'S SIDECAR (UDP and TCP)")
            for name, answers in self._names.items():
                names.add_row(name, " ".join(answers))
            tables += [names, ""]
        phases = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("PHASE", "REQUESTS", "FAILED", "ANSWERED BY", "SWITCH", "WHAT HAPPENED"):
            phases.add_column(column, justify="right" if column in ("REQUESTS", "FAILED", "SWITCH") else "left")
        for phase, told in self._phases:
            phases.add_row(
                phase.name,
                str(phase.requests),
                f"[red]{phase.failed}[/red]" if phase.failed else "[green]0[/green]",
                " ".join(f"{cluster} {count}" for cluster, count in phase.answered_by.items()),
                "-" if phase.switch_ms is None else f"{phase.switch_ms:.0f} ms",
                told,
            )
        if self._current:
            name, requests, failed = self._current
            phases.add_row(name, str(requests), str(failed), "…", "", "")
        if self._phases or self._current:
            tables += [phases, ""]
        return tables


def main() -> None:
    """Run the demo and exit."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Clusters federated on this machine.")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    parser.add_argument("--changes", type=_count, default=40, help="endpoint changes to measure (default 40)")
    parser.add_argument(
        "--clusters",
        choices=("processes", "apiserver"),
        default="processes",
        help="plain hosts described by files (default), or Kubernetes API servers of this machine",
    )
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
        print("interrupted; everything was stopped", file=sys.stderr)
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
    topology, left_out = choose()
    federation = _federation(topology, directory, arguments.clusters)
    _on_interrupts(federation)
    done = False
    try:
        console = Console()
        show = Show(console) if console.is_terminal and not arguments.json else None
        if show:
            with show.on_screen():
                result = await _story(federation, show, arguments.changes)
        else:
            for line in left_out:
                print(line, file=sys.stderr, flush=True)
            result = await _story(federation, Quiet(), arguments.changes)
        result.left_out = left_out
        result.seconds = time.monotonic() - began
        _print(result, arguments, console)
        if arguments.keep:
            _print_commands(federation, sys.stderr if arguments.json else sys.stdout)
            await asyncio.Event().wait()
        done = result.failed == 0
        return 0 if done else 1
    finally:
        await asyncio.to_thread(federation.stop)
        if arguments.directory is None and (done or arguments.keep):
            shutil.rmtree(directory, ignore_errors=True)
        elif not done:
            print(f"state and logs are kept in {directory}", file=sys.stderr)


def choose() -> tuple[Topology, list[str]]:
    """The clusters of the demo on this machine, and a line for what it cannot show. Raises InvalidInput."""
    try:
        require("consul")
    except NotFound as error:
        return DEMO, [f"{DC1.name}, the cluster with Consul, is left out: {error}"]
    return DEMO_WITH_CONSUL, []


def _federation(topology: Topology, directory: Path, kind: str) -> ProcessFederation:
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


def _on_interrupts(federation: ProcessFederation) -> None:
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
            federation.kill_all()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupted)


async def _story(federation: ProcessFederation, teller: Quiet | Show, changes: int) -> Result:
    await build(federation, teller)
    return await tell(federation, teller, changes=changes)


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
        f"{sum(p.requests for p in result.phases)} requests, {result.failed} failed, {result.seconds:.0f} s in all."
    )
    for line in result.left_out:
        console.print(line)
    if not arguments.keep:
        console.print("To go on exploring: scripts/demo --keep")


def _print_commands(federation: ProcessFederation, file: Any) -> None:
    place = federation.places[CALLER]
    fedctl = Path(sys.executable).with_name("fedctl")
    print("\nEverything runs until Ctrl-C. Try, in another terminal:\n", file=file)
    ground, kubectl, consul = federation.ground, [], []
    if isinstance(ground, WithConsul):
        datacenter, ground = ground.datacenters[DC1.name], ground.base
        consul = [
            f"export CONSUL_HTTP_ADDR={datacenter.url()}",
            f"{datacenter.program} maint -enable -service={STOCK.name}-0",
            f"{fedctl} resolve {STOCK_NAME} --from {CALLER}",
        ]
    if isinstance(ground, ApiServers):
        config = ground.clusters[CALLER].kubeconfig
        kubectl = [f"kubectl --kubeconfig {config} get serviceimports,services,endpointslices -n {NAMESPACE}"]
    for line in (
        *([f"nsenter --target {os.getpid()} --user --net --preserve-credentials bash"] if in_own_network() else []),
        f"export ISTHMUS_HOME={federation.home.directory}",
        f"{fedctl} status",
        f"{fedctl} get services",
        f"{fedctl} resolve {GLOBAL_NAME} --from {CALLER}",
        f"dig @{place.address} -p {place.dns_port} {GLOBAL_NAME}",
        f"curl -s http://{GLOBAL_NAME}:{HTTP_PORT}/ --resolve {GLOBAL_NAME}:{HTTP_PORT}:"
        f"$(dig +short @{place.address} -p {place.dns_port} {GLOBAL_NAME})",
        *kubectl,
        *consul,
        f"{fedctl} unlink {CALLER} west",
        f"ls {federation.directory}/logs",
    ):
        print(f"  {line}", file=file)


if __name__ == "__main__":
    main()
