"""fedctl vm install|uninstall|dns: what a virtual machine needs on itself, and all of it taken back."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.cli.output import Format, OutputOption, Printer
from federation.errors import Conflict, InvalidSettings

if TYPE_CHECKING:
    from sidecar.vm.changes import Content
    from sidecar.vm.setup import Outcome

RootOption = Annotated[
    Path, typer.Option(metavar="DIR", help="Another root, such as a mounted image: files only, no command is run.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would change, and do nothing.")]
ReplaceOption = Annotated[
    bool, typer.Option("--replace", help="Also what somebody has edited since; that comes back by uninstalling.")
]
KeepOption = Annotated[
    bool, typer.Option("--keep-changed", help="Leave what somebody has edited since, and forget it.")
]
WayOption = Annotated[
    str, typer.Option("--dns", metavar="WAY", help="resolved, networkmanager, resolv-conf, auto, or none: no DNS hook.")
]
ProgramsOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where isthmus-sidecar is.", show_default="beside this fedctl"),
]


_STILL = ("unchanged", "kept", "left")


def register(app: typer.Typer) -> None:
    """Add the commands that run on the machine itself."""
    app.command("install", epilog="Example: fedctl vm install ./web-1.yaml --dry-run")(install)
    app.command("uninstall", epilog="Example: fedctl vm uninstall")(uninstall)
    app.command("dns", epilog="Examples: fedctl vm dns --dry-run; fedctl vm dns --undo")(dns)


def install(
    bundle: Annotated[Path, typer.Argument(metavar="FILE", help="The sidecar's settings.")],
    way: WayOption = "auto",
    root: RootOption = Path("/"),
    programs: ProgramsOption = None,
    replace: ReplaceOption = False,
    dry_run: DryRunOption = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Make this machine a member: settings, units and the DNS hook; `fedctl vm uninstall` takes all of it back."""
    from sidecar.vm import setup
    from sidecar.vm.host import Host
    from sidecar.vm.observe import observe
    from sidecar.vm.resolver import detect, hook

    host = Host(root)
    seen = observe(host, host.journal("dns"))
    chosen = None if way == "none" else setup.parse_way(way) or detect(seen)
    tree, settings = setup.sidecar_settings(_tree(bundle), seen, chosen)
    made = None
    if chosen is not None:
        made = hook(chosen, seen, (settings.dns.host, settings.dns.port), suffix=settings.suffix)
    tree = setup.with_upstream(tree, made)
    process = setup.sidecar_process(settings, path=setup.SETTINGS, programs=str(programs or beside()))
    part = setup.process_part(process, name="vm", extra={setup.SETTINGS: setup.render_settings(tree)})
    setup.check_port(host, "vm", (settings.dns.host, settings.dns.port))
    outcomes = [setup.install(host, part, replace_changed=replace, dry_run=dry_run)]
    if made is not None:
        hooked = setup.dns_part(made, renew=_renewal(process.programs))
        outcomes.append(setup.install(host, hooked, replace_changed=replace, dry_run=dry_run))
    show(Printer(output), outcomes, dry_run=dry_run)
    if not dry_run and host.live:
        Printer(output).note("see whether it is ready: systemctl status isthmus-sidecar")


def uninstall(
    root: RootOption = Path("/"),
    keep_changed: KeepOption = False,
    dry_run: DryRunOption = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Take back what `fedctl vm install` and `fedctl vm dns` did, first DNS; the sidecar's state folder stays."""
    from sidecar.vm import setup
    from sidecar.vm.host import Host

    host = Host(root)
    outcomes = [setup.uninstall(host, name, keep_changed=keep_changed, dry_run=dry_run) for name in ("dns", "vm")]
    show(Printer(output), outcomes, dry_run=dry_run)


def dns(
    way: Annotated[
        str, typer.Option("--way", metavar="WAY", help="resolved, networkmanager, resolv-conf or auto.")
    ] = "",
    settings: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The sidecar's settings.", show_default="/etc/isthmus/sidecar.yaml"),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take the DNS hook back.")] = False,
    root: RootOption = Path("/"),
    programs: ProgramsOption = None,
    replace: ReplaceOption = False,
    keep_changed: KeepOption = False,
    dry_run: DryRunOption = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Make this host ask the sidecar for global names, in the way in which it resolves; may be repeated."""
    from sidecar.settings import read
    from sidecar.vm import setup
    from sidecar.vm.host import Host
    from sidecar.vm.observe import observe
    from sidecar.vm.resolver import Hook, detect, hook

    host = Host(root)
    printer = Printer(output)
    if undo:
        outcome = setup.uninstall(host, "dns", keep_changed=keep_changed, dry_run=dry_run)
        show(printer, [outcome], dry_run=dry_run)
        return
    seen = observe(host, host.journal("dns"))
    chosen = setup.parse_way(way or "auto") or detect(seen)
    found = read(settings or host.path(setup.SETTINGS))
    made: Hook = hook(chosen, seen, (found.dns.host, found.dns.port), suffix=found.suffix)
    if made.upstream_file and made.upstream_file != found.dns.upstream_file and not found.dns.upstream:
        raise Conflict(
            "the sidecar knows nobody to ask for other names, which all go to it in this way",
            hint=f"set dns.upstream_file to {made.upstream_file} in its settings and restart it",
            code="no_upstream",
        )
    part = setup.dns_part(made, renew=_renewal(str(programs or beside())))
    show(printer, [setup.install(host, part, replace_changed=replace, dry_run=dry_run)], dry_run=dry_run)


def beside() -> Path:
    """The folder of the commands that were installed with this one."""
    return Path(sys.argv[0]).absolute().parent if Path(sys.argv[0]).name == "fedctl" else Path(sys.executable).parent


def _renewal(programs: str) -> tuple[str, ...]:
    return (f"{programs}/fedctl", "vm", "dns")


def _tree(path: Path) -> dict[str, Any]:
    from federation.settings import load

    tree = load(path, dict)
    if not all(isinstance(key, str) for key in tree):
        raise InvalidSettings(f"{path}: its keys are not all words")
    return tree


def show(printer: Printer, outcomes: Iterable[Outcome], *, dry_run: bool) -> None:
    """What became of each path. Raises Conflict when something was left because somebody had changed it."""
    rows: list[dict[str, Any]] = []
    kept: list[str] = []
    for outcome in outcomes:
        if dry_run and printer.format is Format.TABLE:
            for path, what in outcome.done.items():
                if what not in _STILL:
                    print(_diff(path, outcome.before[path], outcome.after[path]), end="")
        rows += [{"path": path, "done": what} for path, what in outcome.done.items()]
        kept += outcome.kept
        for complaint in outcome.complaints:
            printer.note(complaint)
    if not (dry_run and printer.format is Format.TABLE):
        printer.rows(("path", "done"), rows, empty="nothing of isthmus is installed here")
    elif not any(row["done"] not in _STILL for row in rows):
        printer.note("nothing would change")
    if kept:
        raise Conflict(
            f"left as they are, because somebody has changed them since: {', '.join(kept)}",
            hint="what stood there before is below /var/lib/isthmus/host/before: copy it back, or --keep-changed",
            code="file_changed",
        )


def _diff(path: str, before: Content, after: Content) -> str:
    def lines(content: Content) -> list[str]:
        if content.link:
            return [f"(a link to {content.link})\n"]
        text = (content.data or b"").decode(errors="replace")
        return [line if line.endswith("\n") else f"{line}\n" for line in text.splitlines(keepends=True)]

    old, new = ("/dev/null" if content.absent else path for content in (before, after))
    return "".join(difflib.unified_diff(lines(before), lines(after), old, new))
