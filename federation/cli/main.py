"""The entry point of fedctl: puts the nouns together, and turns every failure into one line and an exit status.

Exit status: 0 done; 1 a fault of ours; 2 wrong usage or input; 3 not found; 4 exists already; 5 denied; 6 unavailable;
7 conflict; 8 quota; 9 damaged state; 10 storage; 11 timed out (federation.errors); 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from federation import __version__
from federation.cli import (
    backup,
    check,
    cluster,
    components,
    demo,
    export,
    get,
    inject,
    install,
    link,
    registry,
    resolve,
    status,
    token,
    verify,
    vm,
)
from federation.cli.output import Format, Printer
from federation.errors import InvalidInput, IsthmusError

INTERRUPTED = 130

app = typer.Typer(
    name="fedctl",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Federates clusters: exports, links, global names, and what became of them.",
    epilog="Begin with: fedctl registry init DIR; fedctl token issue CLUSTER; fedctl cluster join CLUSTER …; "
    "fedctl link A B; fedctl status --wait",
)
app.add_typer(registry.app, name="registry")
app.add_typer(cluster.app, name="cluster")
app.add_typer(token.app, name="token")
app.add_typer(vm.app, name="vm")
app.add_typer(get.app, name="get")
app.add_typer(install.app, name="install")
app.add_typer(vm.app, name="vm")
components.register(app, install.app)
link.register(app)
export.register(app)
resolve.register(app)
status.register(app)
check.register(app)
verify.register(app)
inject.register(app)
backup.register(app)
demo.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fedctl {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    home: Annotated[
        Path,
        typer.Option(envvar="ISTHMUS_HOME", help="Folder of contexts.yaml.", show_default="~/.config/isthmus"),
    ] = Path("~/.config/isthmus"),
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    # Read when a command needs it: help is given whatever the state of the file.
    context.ensure_object(dict)["home"] = home.expanduser()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run fedctl and exit the process."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit status, having printed what there is to say."""
    state: dict[str, Any] = {}
    try:
        status = app(list(arguments), prog_name="fedctl", standalone_mode=False, obj=state)
        return status if isinstance(status, int) else 0
    except SystemExit as ending:  # completion ends the process by itself
        return ending.code if isinstance(ending.code, int) else 0
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except typer.TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # typer keeps the class to itself
            print(error.format_message(), file=sys.stderr)
            return InvalidInput.exit_status
        # A wrong option can stand before `-o` was read: look at the words themselves.
        as_json = state.get("format", Format.TABLE) is not Format.TABLE or _asks_for_json(arguments)
        wrong = InvalidInput(
            error.format_message(), code="usage", hint="see `fedctl --help`, or --help after a command"
        )
        Printer(Format.JSON if as_json else Format.TABLE).error(wrong)
        return InvalidInput.exit_status
    except IsthmusError as error:
        as_json = state.get("format", Format.TABLE) is not Format.TABLE or _asks_for_json(arguments)
        Printer(Format.JSON if as_json else Format.TABLE).error(error)
        return error.exit_status


def _asks_for_json(arguments: Sequence[str]) -> bool:
    return any(
        (word in ("-o", "--output") and value == "json") or word in ("-ojson", "--output=json")
        for word, value in pairwise([*arguments, ""])
    )


if __name__ == "__main__":
    main()
