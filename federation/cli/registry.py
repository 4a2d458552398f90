"""fedctl registry: makes a federation's registry, and serves it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from federation.cli.clients import home_of
from federation.cli.output import Format, OutputOption, Printer
from federation.errors import NotFound
from federation.registry.settings import DEFAULT_ENROLMENT, DEFAULT_LISTEN, DEFAULT_METRICS

app = typer.Typer(no_args_is_help=True, help="The federation's registry.")

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The registry's folder.")]


@app.command("init", epilog="Example: fedctl registry init ./registry --federation demo.isthmus --single-machine")
def init(
    context: typer.Context,
    directory: Directory,
    federation: Annotated[str, typer.Option(help="The federation's domain; trust domains are CLUSTER.DOMAIN.")],
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where members connect.")] = DEFAULT_LISTEN,
    enrolment: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where new members join.")] = DEFAULT_ENROLMENT,
    advertise: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="What members dial, if not --listen (0.0.0.0, NAT).")
    ] = "",
    advertise_enrolment: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="What new members dial, if not --enrolment.")
    ] = "",
    metrics: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where /metrics is.")] = DEFAULT_METRICS,
    single_machine: Annotated[
        bool, typer.Option("--single-machine", help="All members run here: gateways on loopback are allowed.")
    ] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Make a registry: its certificate authority, its store, and this operator's credential."""
    from federation.registry.init import init as make

    settings = make(
        directory,
        federation,
        listen=listen,
        enrolment=enrolment,
        metrics=metrics,
        advertise=advertise,
        advertise_enrolment=advertise_enrolment,
        single_machine=single_machine,
    )
    home_of(context).with_operator(directory / "operator").save()
    printer = Printer(output)
    printer.item(
        {"directory": str(directory), "settings": str(settings), "federation": federation, "listen": listen},
        line=f"registry of {federation} made in {directory}",
    )
    printer.note(f"start it with: fedctl registry serve {directory}")


@app.command("serve", epilog="Example: fedctl registry serve ./registry")
def serve(directory: Directory) -> None:
    """Serve the registry in DIR until it is told to stop."""
    if not (directory / "settings.yaml").exists():
        raise NotFound(f"there is no registry in {directory}", hint="run `fedctl registry init DIR` first")
    from federation.registry.__main__ import main as run

    sys.argv = ["isthmus-registry", "--settings", str(directory / "settings.yaml")]
    run()


@app.command("use", epilog="Example: fedctl registry use ./operator")
def use(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of an operator's credential.")],
    output: OutputOption = Format.TABLE,
) -> None:
    """Use a registry that was made elsewhere, with an operator's credential copied from there."""
    if not directory.is_dir():
        raise NotFound(f"there is no folder {directory}", hint="copy the `operator` folder of the registry")
    home_of(context).with_operator(directory).save()
    Printer(output).item({"operator": str(directory)}, line=f"using the operator's credential in {directory}")
