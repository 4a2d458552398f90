"""`python -m clusters`: several real clusters on this machine, up, looked at, and down again (docs/harness.md)."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from clusters import topologyfile
from clusters.kind import dump
from clusters.kind.config import PREFIX
from clusters.kind.folder import Folder, base
from clusters.kind.harness import IMAGE, KindHarness
from clusters.progress import Progress
from clusters.topology import Topology
from federation.cli.output import Format, Printer
from federation.errors import IsthmusError, NotFound

COLUMNS = ("cluster", "state", "kind", "nodes", "addresses", "pods", "services", "nat", "next")


def main(arguments: Sequence[str] | None = None) -> int:
    """Progress goes to stderr, what was asked for to stdout; returns the exit status."""
    options = _parser().parse_args(arguments)
    printer = Printer(Format(options.output))
    try:
        return asyncio.run(_interruptible(options, printer))
    except IsthmusError as error:
        printer.error(error)
        return error.exit_status
    except asyncio.CancelledError:
        again = "the same command goes on where it was" if options.command == "up" else "run it again"
        print(f"interrupted: {again}, and `down` removes what there is", file=sys.stderr)
        return 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m clusters", description="Real Kubernetes clusters on this machine, made by kind in Docker."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    which = argparse.ArgumentParser(add_help=False)
    group = which.add_mutually_exclusive_group()
    named = ", ".join(topologyfile.NAMED)
    group.add_argument("--topology", metavar="FILE|NAME", help=f"a YAML file, or one of {named}")
    group.add_argument("--kind", type=int, metavar="N", help="N clusters, all linked: east, west, edge, c4 …")
    which.add_argument("--overlap", action="store_true", help="with --kind: the same pod and service ranges in all")
    which.add_argument("--prefix", default=PREFIX, help=f"what names of kind clusters begin with (default {PREFIX})")
    which.add_argument("--state", type=Path, metavar="DIR", help=f"where its files are (default {base()})")
    which.add_argument("-o", "--output", choices=[f.value for f in Format], default="table")
    up = commands.add_parser("up", parents=[which], help="make what is missing, repair what is broken")
    up.add_argument("--image", default=os.environ.get(IMAGE, ""), help=f"of the nodes (default: {IMAGE}, else kind's)")
    up.add_argument("--bare", action="store_true", help="without isthmus")
    commands.add_parser("status", parents=[which], help="each cluster, and what up would do")
    down = commands.add_parser("down", parents=[which], help="remove everything of a topology")
    down.add_argument("--all", action="store_true", help="of every topology of this prefix")
    logs = commands.add_parser("logs", parents=[which], help="what its components or its nodes say")
    logs.add_argument("cluster", nargs="?", help="default: each")
    logs.add_argument("component", nargs="?", help="registry, agent, gateway, injector or node (default: all but node)")
    logs.add_argument("--tail", type=int, default=200, help="lines of each container (default 200)")
    dumps = commands.add_parser("dump", parents=[which], help="logs, events, objects, Envoy's state: into a folder")
    dumps.add_argument("folder", type=Path)
    return parser


async def _interruptible(options: argparse.Namespace, printer: Printer) -> int:
    """The first Ctrl-C or SIGTERM ends it in order: what was started is ended, nothing is left half written."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - we are inside asyncio.run
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await _run(options, printer)


async def _run(options: argparse.Namespace, printer: Printer) -> int:
    if options.command == "down" and options.all:
        return await _down_all(options)
    topology = await _topology(options)
    image = getattr(options, "image", "")
    harness = KindHarness(topology, image=image, prefix=options.prefix, where=options.state, say=Progress())
    match options.command:
        case "up":
            await harness.up(installed=not options.bare)
            await _show(harness, printer)
        case "status":
            return 0 if await _show(harness, printer) else 6
        case "down":
            await harness.down()
        case "logs":
            await dump.logs(harness, options.cluster or "", options.component or "", tail=options.tail)
        case "dump":
            print(await dump.dump(harness, options.folder))
    return 0


async def _topology(options: argparse.Namespace) -> Topology:
    """The one that is named, or the only one there is."""
    if options.kind is not None:
        return topologyfile.numbered(options.kind, overlap=options.overlap)
    if options.topology:
        return _known(options.topology, options)
    if options.command == "up":
        raise NotFound("which topology?", hint="give --topology FILE|NAME or --kind N", code="no_topology")
    there = await dump.topologies(options.prefix, options.state)
    if len(there) != 1:
        raise NotFound(
            f"there are {len(there)} topologies here{': ' * bool(there)}{', '.join(there)}",
            hint="name one by --topology or --kind" if there else "`python -m clusters up --kind 2` makes two clusters",
            code="no_topology",
        )
    return _known(there[0], options)


def _known(text: str, options: argparse.Namespace) -> Topology:
    """A name or a file; else what was brought up under that name, also where only its nodes are left."""
    saved = Folder(text, prefix=options.prefix, where=options.state).load() if "/" not in text else None
    if options.command != "up" and saved is not None:
        return saved
    try:
        return topologyfile.find(text)
    except IsthmusError as error:
        if options.command != "down":
            hint = f"{error.hint}; `down --topology {text}` removes what there is without it"
            raise type(error)(error.message, hint=hint, code=error.error_code) from error
        return Topology(federation=topologyfile.FEDERATION, clusters=(), links=(), name=text)


async def _show(harness: KindHarness, printer: Printer) -> bool:
    """A row for each cluster; returns whether all are ready."""
    seen = await harness.status()
    configs = [str(harness.folder.kubeconfig(one.want.cluster)) for one in seen]
    rows = [{**one.as_dict(), "kubeconfig": config} for one, config in zip(seen, configs, strict=True)]
    printer.rows(COLUMNS, rows, empty="no clusters")
    printer.note(f"export KUBECONFIG={':'.join(configs)}")
    return all(one.state == "ready" for one in seen)


async def _down_all(options: argparse.Namespace) -> int:
    say = Progress()
    for name in await dump.topologies(options.prefix, options.state):
        topology = Topology(federation=topologyfile.FEDERATION, clusters=(), links=(), name=name)
        await KindHarness(topology, prefix=options.prefix, where=options.state, say=say).down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
