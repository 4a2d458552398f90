"""fedctl vm install|uninstall|dns: what a virtual machine needs on itself, and all of it taken back."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.cli.output import Format, OutputOption, Printer
from federation.errors import Conflict, InvalidInput, InvalidSettings, NotFound, StorageFailed

if TYPE_CHECKING:
    from federation.cli.bundle import VmBundle
    from sidecar.vm.changes import Content
    from sidecar.vm.host import Host
    from sidecar.vm.setup import Outcome, Part

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
DnsOption = Annotated[
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
    bundle: Annotated[
        str,
        typer.Argument(metavar="BUNDLE", help="What `fedctl vm bootstrap` printed (-: standard input), or its folder."),
    ],
    way: Annotated[
        str, typer.Option(metavar="WAY", help="How calls are caught: redirect, or loopback (no rule, no route).")
    ] = "",
    dns: DnsOption = "auto",
    services: Annotated[
        str, typer.Option(metavar="FILE", help="What it registers of its own: a path of the machine, where it stays.")
    ] = "",
    root: RootOption = Path("/"),
    programs: ProgramsOption = None,
    replace: ReplaceOption = False,
    dry_run: DryRunOption = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Make this machine a member: settings, units and the DNS hook; `fedctl vm uninstall` takes all of it back."""
    from sidecar.vm import setup
    from sidecar.vm.host import Host

    found = _bundle(bundle)
    host, where = Host(root), str(programs or beside())
    tree = _tree(found)
    if services:
        if found.process != "sidecar":
            raise InvalidInput("a gateway registers no services", hint="leave out --services")
        tree["services"] = str(Path(services).absolute())
        # Calls come in by mutual TLS unless the settings say otherwise: nothing else of the machine need be open.
        tree.setdefault("inbound", {"port": setup.INBOUND_PORT})
    make = _gateway if found.process == "gateway" else _sidecar
    parts = make(host, found, tree, way=way, dns=dns, programs=where)
    printer = Printer(output)
    show(
        printer,
        [setup.install(host, part, replace_changed=replace, dry_run=dry_run) for part in parts],
        dry_run=dry_run,
    )
    if not dry_run and host.live:
        printer.note(f"see what it says: journalctl -u isthmus-{found.process}")


def _gateway(host: Host, found: VmBundle, tree: dict[str, Any], *, way: str, dns: str, programs: str) -> list[Part]:
    from federation.cli.processes import gateway_process
    from gateway.settings import GatewaySettings
    from sidecar.vm import setup

    if way or dns not in ("auto", "none"):
        raise InvalidInput("a gateway answers no names and catches no calls", hint="leave out --way and --dns")
    path = f"{setup.FOLDER}/gateway.yaml"
    tree, settings, files, credentials = setup.member_settings(tree, GatewaySettings, found.files, process="gateway")
    process = gateway_process(settings, path=path, programs=programs, credentials=credentials)
    files[path] = setup.render_settings(tree)
    return [setup.process_part(process, name="vm", extra=files)]


def _sidecar(host: Host, found: VmBundle, tree: dict[str, Any], *, way: str, dns: str, programs: str) -> list[Part]:
    from federation.cli.bundle import DNS
    from sidecar.settings import SidecarSettings
    from sidecar.vm import setup
    from sidecar.vm.observe import observe
    from sidecar.vm.resolver import detect, hook

    seen = observe(host, host.journal("dns"))
    chosen = None if dns == "none" else setup.parse_way(dns) or detect(seen)
    tree = {**tree, "way": way or tree.get("way", "redirect")}
    if tree.get("dns") == DNS:
        del tree["dns"]
    tree = setup.with_dns(tree, seen, chosen)
    complete, settings, files, credentials = setup.member_settings(
        tree, SidecarSettings, found.files, process="sidecar"
    )
    made = None
    server = settings.dns.host, settings.dns.port
    if chosen is not None:
        made = hook(chosen, seen, server, suffix=settings.suffix)
        complete = setup.with_upstream(complete, made)
    process = setup.sidecar_process(settings, path=setup.SETTINGS, programs=programs, credentials=credentials)
    setup.check_port(host, "vm", server)
    setup.check_tools(host, process)
    files[setup.SETTINGS] = setup.render_settings(complete)
    parts = [setup.process_part(process, name="vm", extra=files)]
    return parts if made is None else [*parts, setup.dns_part(made, renew=_renewal(programs))]


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
    renew: Annotated[
        bool, typer.Option("--renew", help="Only put the files right, after something has written them anew.")
    ] = False,
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
    outcome = setup.install(host, part, replace_changed=replace, dry_run=dry_run, files_only=renew)
    show(printer, [outcome], dry_run=dry_run)


def beside() -> Path:
    """The folder of the commands that were installed with this one."""
    return Path(sys.argv[0]).absolute().parent if Path(sys.argv[0]).name == "fedctl" else Path(sys.executable).parent


def _renewal(programs: str) -> tuple[str, ...]:
    return (f"{programs}/fedctl", "vm", "dns", "--renew")


def _bundle(given: str) -> VmBundle:
    """Raises NotFound, InvalidInput (bundle_malformed), StorageFailed."""
    from federation.cli import bundle

    try:
        if given == "-":
            return bundle.VmBundle.parse(sys.stdin.read())
        path = Path(given)
        if not path.is_dir():
            return bundle.VmBundle.parse(path.read_text(encoding="utf-8"))
        return bundle.VmBundle.read(path)
    except FileNotFoundError:
        raise NotFound(f"there is no bundle {given}", hint="make one: fedctl vm bootstrap NAME --cluster C") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StorageFailed(f"cannot read {given}: {error}") from error


def _tree(found: VmBundle) -> dict[str, Any]:
    """The settings in a bundle; raises InvalidInput, InvalidSettings."""
    import yaml

    from federation.cli.bundle import SETTINGS

    name = SETTINGS.get(found.process, "")
    if not name:
        raise InvalidInput(
            f"a bundle for {found.process[:40]!r} is not known here",
            hint="print a new one: fedctl vm bootstrap",
            code="bundle_malformed",
        )
    try:
        tree = yaml.safe_load(found.files.get(name, ""))
    except yaml.YAMLError as error:
        raise InvalidSettings(f"{name} of the bundle is no YAML: {error}") from error
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise InvalidSettings(f"{name} of the bundle has no settings", hint="print a new one: fedctl vm bootstrap")
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
        if content.data is not None and not content.mode & 0o077:
            return [f"(what root alone reads: {len(content.data)} bytes)\n"]
        text = (content.data or b"").decode(errors="replace")
        return [line if line.endswith("\n") else f"{line}\n" for line in text.splitlines(keepends=True)]

    old, new = ("/dev/null" if content.absent else path for content in (before, after))
    return "".join(difflib.unified_diff(lines(before), lines(after), old, new))
