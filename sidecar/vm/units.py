"""systemd units for the four processes, and for the one rule of the redirect way: hardened, and pure text.

Each process needs its state folder, its settings and sockets, so that is all that each unit leaves it. Why a line is
there, or is not, stands beside it; docs/adr/0021-what-a-vm-needs-of-its-host.md has what was measured.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from federation.errors import InvalidInput
from sidecar.vm.changes import Content

FOLDER = "/etc/systemd/system"
SYSUSERS = "/etc/sysusers.d/isthmus.conf"
USER = "isthmus"
"""Of the agent and of what gets its identity from it over its socket: known by its user id, so no dynamic one."""
STATE = "/var/lib"
REDIRECT = "isthmus-redirect.service"
WATCH = "isthmus-resolver"

_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - nothing is put there
"""What ProtectHome and PrivateTmp hide from a unit."""
_KERNEL = """\
ProtectClock=yes
ProtectHostname=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes"""
_PROCESS = """\
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes"""
_CALLS = """\
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM"""
"""What every unit goes without: the host's own settings, other kinds of process, rare system calls."""
_SAFE = re.compile(r"[A-Za-z0-9_./@:+,=-]+\Z", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process: `kind` registry, agent, gateway or sidecar, its settings file and its state folder.

    `user` empty: a dynamic one. `low_ports`: it, or its Envoy, listens below 1024. `writes`: folders besides its
    state. `reads`: files besides its settings. `local_agent`: it gets its identity from the agent of this host.
    `network`, `port`: of the redirect way, if it is that. `drain`: seconds that its end may take. `credentials`: names
    and files that root alone reads and this process gets to see (systemd 247).
    """

    kind: str
    settings: str
    state: str
    programs: str
    user: str = ""
    low_ports: bool = False
    writes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    local_agent: bool = False
    network: str = ""
    port: int = 0
    drain: float = 0.0
    credentials: tuple[tuple[str, str], ...] = ()

    @property
    def unit(self) -> str:
        return f"isthmus-{self.kind}.service"

    def credential(self, name: str) -> str:
        """Where the process finds it."""
        return f"/run/credentials/{self.unit}/{name}"


def render(process: Process) -> dict[str, Content]:
    """The units of a process, by their paths.

    Raises InvalidInput for a path that a unit cannot have: hidden from it, relative, or with characters that systemd
    would take for something else.
    """
    for what, path in (("settings", process.settings), ("state", process.state), ("programs", process.programs)):
        _check(what, path)
    for path in process.writes:
        _check("folder", path)
    for path in process.reads:
        _check("file", path)
    units = {f"{FOLDER}/{process.unit}": Content.text(_service(process))}
    if process.user:
        units[SYSUSERS] = Content.text(
            f'# Written for isthmus by `fedctl`.\nu {process.user} - "Isthmus" {STATE}/isthmus\n'
        )
    if process.network:
        units[f"{FOLDER}/{REDIRECT}"] = Content.text(_redirect(process))
    return units


def watching(path: str, renew: Sequence[str]) -> dict[str, Content]:
    """The units that run the command `renew` whenever the file at `path` has changed."""
    return {
        f"{FOLDER}/{WATCH}.path": Content.text(_path(path)),
        f"{FOLDER}/{WATCH}.service": Content.text(_renew(renew)),
    }


def started(process: Process) -> list[str]:
    """The units to enable and start, in this order."""
    return [*([REDIRECT] if process.network else []), process.unit]


def _service(process: Process) -> str:
    after, before = ["network-online.target"], ""
    wants = ["network-online.target"]
    if process.network:
        after.append(REDIRECT)
        wants.append(REDIRECT)
    if process.local_agent:
        after.append("isthmus-agent.service")
    if process.kind == "sidecar":
        before = "Before=nss-lookup.target\n"
        wants.append("nss-lookup.target")
    return f"""\
# Written for isthmus by `fedctl`; `fedctl` also takes it away. Own lines belong into {process.unit}.d/*.conf.
[Unit]
Description=Isthmus {process.kind}
Wants={" ".join(wants)}
After={" ".join(after)}
{before}# It serves what it last knew, so there is no number of failures after which it is better not to try again.
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={process.programs}/isthmus-{process.kind} --settings {process.settings}
Restart=always
RestartSec=1
{_user(process)}
{_state(process)}
{_limits(process)}
{_sandbox(process)}
[Install]
WantedBy=multi-user.target
"""


def _user(process: Process) -> str:
    if process.user:
        return f"User={process.user}\nGroup={process.user}"
    return f"DynamicUser=yes\nUser=isthmus-{process.kind}"


def _state(process: Process) -> str:
    relative = str(PurePosixPath(process.state).relative_to(STATE))
    # Other users reach the agent's identity socket in its folder, and nothing else there.
    mode = "0711" if process.kind == "agent" else "0700"
    lines = [f"StateDirectory={relative}", f"StateDirectoryMode={mode}"]
    lines += [f"ReadWritePaths=-{path}" for path in process.writes]
    lines += [f"LoadCredential={name}:{path}" for name, path in process.credentials]
    return "\n".join([*lines, "UMask=0077"])


def _limits(process: Process) -> str:
    # A port of an import is a socket for each worker thread of Envoy, and half of the files are for these.
    files = 524288 if process.kind == "gateway" else 65536
    return f"LimitNOFILE={files}\nTimeoutStopSec={30 + round(process.drain)}"


def _sandbox(process: Process) -> str:
    if process.low_ports:
        # Of the host's network namespace, so it is worth nothing in a user namespace: no PrivateUsers.
        rights = "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\nAmbientCapabilities=CAP_NET_BIND_SERVICE"
    elif process.kind == "agent":
        # It knows local processes by their user ids, which are all `nobody` in a user namespace: no PrivateUsers.
        rights = "CapabilityBoundingSet="
    else:
        rights = "CapabilityBoundingSet=\nPrivateUsers=yes"
    return f"""\
NoNewPrivileges=yes
{rights}
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectProc=invisible
{_KERNEL}
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
{_PROCESS}
RemoveIPC=yes
KeyringMode=private
{_CALLS}
"""


def _redirect(process: Process) -> str:
    command = f"{process.programs}/isthmus-redirect --network {process.network} --port {process.port}"
    return f"""\
# Written for isthmus by `fedctl`; `fedctl` also takes it away.
# The one thing that needs a privilege, so that the sidecar needs none.
[Unit]
Description=Isthmus: virtual addresses lead to the sidecar
DefaultDependencies=no
After=sysinit.target
Before=network-pre.target {process.unit}
Wants=network-pre.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={command}
ExecStop={command} --undo
CapabilityBoundingSet=CAP_NET_ADMIN
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectProc=invisible
{_KERNEL}
RestrictAddressFamilies=AF_UNIX AF_NETLINK
{_PROCESS}
{_CALLS}

[Install]
WantedBy=multi-user.target
"""


def _path(watch: str) -> str:
    return f"""\
# Written for isthmus by `fedctl`; `fedctl` also takes it away.
# A DHCP client writes this file anew with other nameservers: they become the sidecar's, and it goes first again.
[Unit]
Description=Isthmus: changes of {watch}

[Path]
PathChanged={watch}

[Install]
WantedBy=multi-user.target
"""


def _renew(command: Sequence[str]) -> str:
    return f"""\
# Written for isthmus by `fedctl`; `fedctl` also takes it away.
[Unit]
Description=Isthmus: the sidecar is the first nameserver again
# A DHCP client may write the file many times in a row; at a limit the path unit would fail, and nobody look any more.
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart={" ".join(command)}
CapabilityBoundingSet=CAP_DAC_OVERRIDE
NoNewPrivileges=yes
ProtectSystem=yes
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateNetwork=yes
{_KERNEL}
RestrictAddressFamilies=AF_UNIX
{_PROCESS}
{_CALLS}
"""


def _check(what: str, path: str) -> None:
    if not path.startswith("/") or not _SAFE.match(path):
        raise InvalidInput(
            f"{what} {path!r} cannot stand in a unit", hint="an absolute path of letters, digits and ./_-+@:,="
        )
    clean = PurePosixPath(path)
    if hidden := next((h for h in _HIDDEN if clean.is_relative_to(h)), ""):
        hint = {
            "settings": "keep the settings in /etc/isthmus",
            "state": "keep the state below /var/lib/isthmus",
            "programs": "install isthmus into a virtual environment in /opt/isthmus",
            "file": "keep it in /etc/isthmus, readable by the user of the unit",
        }.get(what, "choose another folder")
        raise InvalidInput(f"{what} {path} lies in {hidden}, which units do not see", hint=hint, code="path_hidden")
    if what == "state" and (not clean.is_relative_to(STATE) or clean == PurePosixPath(STATE)):
        raise InvalidInput(
            f"state {path} is not below {STATE}, where systemd gives a unit its folder",
            hint=f"set it to {STATE}/isthmus/NAME",
            code="path_outside",
        )
