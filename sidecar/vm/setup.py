"""Puts together what a host gets: a sidecar with its settings and units, and the DNS hook; or the unit of one process.

Arrive: settings, and what was observed of the host. Leaves: a Part, to be planned (sidecar.vm.changes) and carried out
(sidecar.vm.host), whole or for show.
"""

from __future__ import annotations

import errno
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec
import yaml

from federation.errors import Conflict, InvalidInput, InvalidSettings, Unavailable
from federation.registry.edge.settings import EdgeSettings
from federation.settings import convert
from sidecar.settings import SidecarSettings
from sidecar.vm import units
from sidecar.vm.changes import Content, Journal, Plan, Step, plan, plan_removal
from sidecar.vm.host import BEFORE, Command, Host, contents
from sidecar.vm.resolver import OLDEST_WITH_PORTS, Hook, Observed, Way
from sidecar.vm.units import Process

DNS_HOST = "127.0.0.55"
"""Loopback, but neither where systemd-resolved is (53, 54) nor where other resolvers use to be (1)."""
DNS_PORT = 15053
"""Where nothing asks for port 53, and so for the right to it."""
INBOUND_PORT = 15006
"""Where calls to services of a machine come in, beside the 15001 of those that go out."""
FOLDER = "/etc/isthmus"
"""Where the settings of a machine's processes are, and what goes with them."""
SETTINGS = f"{FOLDER}/sidecar.yaml"
E = TypeVar("E", bound=EdgeSettings)
_RELOAD: Command = ("systemctl", "daemon-reload")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Something that is done to a host, and taken back, as one: its journal is `name`.json.

    Commands: `after` the files are there, `stop` before they are taken back, `undo` after that.
    """

    name: str
    files: Mapping[str, Content]
    adopt: tuple[str, ...] = ()
    after: tuple[Command, ...] = ()
    stop: tuple[Command, ...] = ()
    undo: tuple[Command, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What happened to each path: "written", "restored", "removed", "unchanged", "kept" (and still to be
    taken back) or "left" (and forgotten).

    `complaints`: what could not be stopped, which keeps nothing from being taken back.
    """

    done: Mapping[str, str]
    before: Mapping[str, Content]
    after: Mapping[str, Content]
    complaints: tuple[str, ...] = ()

    @property
    def kept(self) -> list[str]:
        return [path for path, what in self.done.items() if what == "kept"]


def install(
    host: Host, part: Part, *, replace_changed: bool = False, dry_run: bool = False, files_only: bool = False
) -> Outcome:
    """Do it, and run what follows when anything was changed or an earlier run did not get so far.

    `files_only`: no command is run, so that neither the rights nor the moment for them are needed.

    Raises Conflict for a file that others changed, Denied, StorageFailed, Unavailable for a command that fails.
    """
    journal = host.journal(part.name)
    actual = contents(host, {*part.files, *(e.path for e in journal.entries)})
    made = plan(part.files, actual, journal, adopt=part.adopt, replace=replace_changed)
    outcome = _outcome(made, part.files, actual)
    asked = msgspec.structs.replace(made.journal, stop=part.stop, undo=part.undo, finished=False)
    finished = journal.finished and not made.steps and msgspec.structs.replace(asked, finished=True) == journal
    if dry_run or finished:
        return outcome
    complaints: list[str] = []
    if not files_only and journal.stop != part.stop:
        complaints = _stopped(host, journal)  # an earlier run was for something else, whose units go now
    host.begin(part.name, asked, made.steps)
    if not files_only:
        host.commands(part.after)
    done = journal.finished or not files_only
    host.save(part.name, msgspec.structs.replace(host.journal(part.name), finished=done))
    return replace(outcome, complaints=tuple(complaints))


def uninstall(host: Host, name: str, *, keep_changed: bool = False, dry_run: bool = False) -> Outcome:
    """Take back all that `install` did under this name; nothing happens where it did nothing.

    What others changed since is left, and told in the outcome. Raises as `install`.
    """
    journal = host.journal(name)
    actual = contents(host, [e.path for e in journal.entries])
    made = plan_removal(journal, actual, keep_changed=keep_changed)
    outcome = _outcome(made, {}, actual, kept="left" if keep_changed else "kept")
    if dry_run or journal == Journal():
        return outcome
    complaints = _stopped(host, journal)
    host.do(made.steps)
    host.commands(journal.undo)
    if made.journal.entries:
        host.do(Step(f"{BEFORE}{e.path}", e.before) for e in made.journal.entries if not e.before.absent)
        host.save(name, msgspec.structs.replace(made.journal, finished=False, stop=()))
    else:
        host.forget(name, made.journal)
    return replace(outcome, complaints=tuple(complaints))


def _stopped(host: Host, journal: Journal) -> list[str]:
    """Stop what an earlier run has started; returns what could not be, such as a unit that somebody has removed."""
    complaints = []
    for command in journal.stop:
        try:
            host.commands([command])
        except Unavailable as error:
            complaints.append(error.message)
    return complaints


def member_settings(
    tree: Mapping[str, Any], kind: type[E], files: Mapping[str, str], *, process: str
) -> tuple[dict[str, Any], E, dict[str, Content], tuple[tuple[str, str], ...]]:
    """What a bundle's settings are in their place, and the files beside them: anchors, and the token as a credential.

    Raises InvalidSettings, naming the key.
    """
    complete: dict[str, Any] = {"state_directory": f"{units.STATE}/isthmus/{process}", **tree}
    agent = complete.get("agent")
    beside: dict[str, Content] = {}
    credentials: list[tuple[str, str]] = []
    if isinstance(agent, dict):
        agent = dict(agent)
        anchors, token = str(agent.get("anchors", "")), str(agent.get("token_file", ""))
        if anchors in files:
            agent["anchors"] = f"{FOLDER}/{anchors}"
            beside[agent["anchors"]] = Content.text(files[anchors])
        if token in files:
            agent["token_file"] = f"/run/credentials/isthmus-{process}.service/{token}"
            beside[f"{FOLDER}/{token}"] = Content.text(files[token], 0o600)
            credentials.append((token, f"{FOLDER}/{token}"))
        complete["agent"] = agent
    settings = convert(complete, kind, where="the bundle")
    settings.check()
    return complete, settings, beside, tuple(credentials)


def with_dns(tree: Mapping[str, Any], seen: Observed, way: Way | None) -> dict[str, Any]:
    """The settings of a sidecar with where names are answered, where they do not say it; `way` None: no DNS hook."""
    given = tree.get("dns") or {}
    if not isinstance(given, dict):
        raise InvalidSettings("dns: expected an object")
    redirect = tree.get("way") == "redirect"
    with_ports = way is Way.RESOLVED and (seen.resolved_version or 0) >= OLDEST_WITH_PORTS
    # In the loopback way Envoy listens on the services' own ports, so the right to low ones is needed anyway.
    port = DNS_PORT if redirect and with_ports else 53
    return {**tree, "dns": {"host": DNS_HOST, "port": port, **given}}


def with_upstream(tree: Mapping[str, Any], hook: Hook | None) -> dict[str, Any]:
    """The settings with whom to ask for other names, as the hook has it, where they do not say it themselves."""
    dns = dict(tree["dns"])
    if hook is not None and not dns.get("upstream") and not dns.get("upstream_file"):
        if hook.upstream:
            dns["upstream"] = list(hook.upstream)
        if hook.upstream_file:
            dns["upstream_file"] = hook.upstream_file
    return {**tree, "dns": dns}


def sidecar_process(
    settings: SidecarSettings, *, path: str, programs: str, credentials: tuple[tuple[str, str], ...] = ()
) -> Process:
    """How the sidecar with these settings is started. Raises InvalidSettings for one that wants rights itself."""
    if settings.intercept:
        raise InvalidSettings(
            "intercept: a unit of its own sets the rule here", hint="leave intercept out: the sidecar needs no right"
        )
    redirect = settings.way == "redirect"
    ports = [settings.dns.port, *([settings.inbound.port] if settings.inbound is not None else [])]
    local = bool(settings.agent_directory)
    return Process(
        kind="sidecar",
        settings=path,
        state=settings.state_directory,
        programs=programs,
        user=units.USER if local else "",
        low_ports=min(ports) < 1024 or not redirect,
        local_agent=local,
        network=str(settings.network) if redirect else "",
        port=settings.outbound_port if redirect else 0,
        drain=settings.drain_seconds if settings.services else 0,
        credentials=credentials,
    )


def process_part(process: Process, *, name: str, extra: Mapping[str, Content] | None = None) -> Part:
    """The unit of a process, enabled and started; `extra`: files that go with it."""
    started = units.started(process)
    sysusers: tuple[Command, ...] = (("systemd-sysusers", units.SYSUSERS),) if process.user else ()
    return Part(
        name=name,
        files={**(extra or {}), **units.render(process)},
        # The sidecar reads its settings at its start, and a unit that was changed counts from there on as well.
        after=(*sysusers, _RELOAD, ("systemctl", "enable", *started), ("systemctl", "restart", *started)),
        stop=(("systemctl", "disable", "--now", *started),),
        undo=(_RELOAD,),
    )


def dns_part(hook: Hook, *, renew: Sequence[str]) -> Part:
    """The hook, and where the host's own tools rewrite what it wrote, the units that write it anew by `renew`."""
    files = dict(hook.files)
    after: tuple[Command, ...] = ()
    stop: tuple[Command, ...] = ()
    undo: tuple[Command, ...] = ()
    if hook.watch:
        files |= units.watching(hook.watch, renew)
        after = (_RELOAD, ("systemctl", "enable", "--now", f"{units.WATCH}.path"))
        stop = (("systemctl", "disable", "--now", f"{units.WATCH}.path"),)
        undo = (_RELOAD,)
    return Part(
        name="dns",
        files=files,
        adopt=hook.adopt,
        after=(*hook.after, *after),
        stop=stop,
        undo=(*hook.undone, *undo),
    )


def check_port(host: Host, name: str, server: tuple[str, int]) -> None:
    """Raises Conflict when somebody answers names at `server` already, unless that may be the sidecar itself.

    Only the live host can tell; a host that was set up before has a sidecar there.
    """
    if not host.live or host.journal(name) != Journal():
        return
    address, port = server
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(family, kind) as probe:
            if kind is socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise Conflict(
                        f"port {port} of {address} is taken, probably by another resolver that listens everywhere",
                        hint="set dns.host and dns.port, or bind that resolver to an address of its own",
                        code="dns_port_taken",
                    ) from error


def check_tools(host: Host, process: Process) -> None:
    """Raises Unavailable where the live host lacks what the rule of the redirect way needs."""
    missing = [tool for tool in ("nft", "ip") if process.network and host.live and not shutil.which(tool)]
    if missing:
        raise Unavailable(
            f"the redirect way needs {' and '.join(missing)}",
            hint="install nftables and iproute2, or choose --way loopback",
            code="tools_missing",
        )


def render_settings(tree: Mapping[str, Any]) -> Content:
    """A settings file, readable by a dynamic user: there is no secret in it."""
    text = "# Settings of this process, written by `fedctl vm install`; docs/settings.md explains each.\n"
    return Content.text(text + yaml.safe_dump(dict(tree), sort_keys=False))


def parse_way(text: str) -> Way | None:
    """From an option: None for "auto". Raises InvalidInput."""
    if text == "auto":
        return None
    try:
        return Way(text)
    except ValueError:
        known = ", ".join(["auto", *Way])
        raise InvalidInput(f"{text!r} is no way to resolve names", hint=f"one of {known}") from None


def _outcome(
    made: Plan, wanted: Mapping[str, Content], actual: Mapping[str, Content], *, kept: str = "kept"
) -> Outcome:
    steps = {s.path: s.content for s in made.steps}
    done = {}
    for path in sorted(actual):
        if path in made.kept:
            done[path] = kept
        elif path not in steps:
            done[path] = "unchanged"
        elif path in wanted:
            done[path] = "written"
        else:
            done[path] = "removed" if steps[path].absent else "restored"
    return Outcome(done=done, before=actual, after={**actual, **steps})
