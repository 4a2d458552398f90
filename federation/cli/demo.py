"""fedctl demo: the whole story on this machine, told by the harness in a process of its own."""

from __future__ import annotations

import enum
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from federation.cli.output import Format, OutputOption
from federation.errors import InvalidInput


class Clusters(enum.StrEnum):
    """What the clusters of the demo are."""

    PROCESSES = "processes"
    APISERVER = "apiserver"
    KIND = "kind"


def demo(
    clusters: Annotated[
        Clusters,
        typer.Option(
            help="Plain hosts described by files, Kubernetes API servers of this machine, or whole clusters in Docker."
        ),
    ] = Clusters.PROCESSES,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C.")] = False,
    changes: Annotated[int, typer.Option(min=1, help="Endpoint changes to measure.")] = 40,
    directory: Annotated[
        Path | None, typer.Option(help="Where to keep state and logs.", show_default="a temporary folder")
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Federate clusters on this machine, break them under load, and measure."""
    if output is Format.YAML:
        raise InvalidInput("the demo prints a table or JSON", code="usage")
    words = [f"--clusters={clusters.value}", f"--changes={changes}"]
    words += ["--keep"] if keep else []
    words += ["--json"] if output is Format.JSON else []
    words += [f"--directory={directory}"] if directory else []
    # The harness stands above fedctl: it is a program to us, not a module.
    os.execv(sys.executable, [sys.executable, "-m", "clusters.demo", *words])  # noqa: S606 - no shell


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", epilog="Example: fedctl demo --clusters apiserver")(demo)
