"""DNS hooks: what makes a host ask the sidecar for the global names, for each way in which hosts resolve. Pure.

`detect` tells the way from what was observed (sidecar.vm.observe); `hook` says what to write, which commands make it
count, and whom the sidecar has to ask for all other names. docs/adr/0021-what-a-vm-needs-of-its-host.md gives reasons.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from federation.errors import Conflict, InvalidInput
from sidecar.vm import resolvconf
from sidecar.vm.changes import Content

RESOLV_CONF = "/etc/resolv.conf"
KEPT = "/var/lib/isthmus/host/resolv.conf"
"""What stood at /etc/resolv.conf, where that was a file: the sidecar forwards to its nameservers."""
RESOLVED_DROP_IN = "/etc/systemd/resolved.conf.d/zz-isthmus.conf"
NEGATIVE_ANCHORS = "/etc/dnssec-trust-anchors.d/isthmus.negative"
NM_DROP_IN = "/etc/NetworkManager/conf.d/zz-isthmus.conf"
NM_DNSMASQ = "/etc/NetworkManager/dnsmasq.d/isthmus.conf"
NM_RESOLV_CONF = "/run/NetworkManager/resolv.conf"
OLDEST_WITH_PORTS = 246
"""The systemd-resolved that takes ADDRESS:PORT."""

_STUBS = ("/run/systemd/resolve/stub-resolv.conf", "/usr/lib/systemd/resolv.conf", "/lib/systemd/resolv.conf")
_RESOLVED_STUBS = ("127.0.0.53", "127.0.0.54")
_NOTE = "# Written for isthmus; `fedctl vm dns --undo` or `fedctl vm uninstall` takes it away.\n"


class Way(enum.StrEnum):
    """Who answers the programs of a host, and so how it is told of us."""

    RESOLVED = "resolved"
    RESOLV_CONF = "resolv-conf"
    NETWORKMANAGER = "networkmanager"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What was seen of a host. `resolv_conf` stood there before we came; `resolv_text` is its text, links followed.

    `link` is where it leads, if it is a link; `resolved` and `networkmanager` are the texts of their configuration
    files in the order in which they count, without ours; `networkmanager_runs`: it has a folder in /run.
    """

    resolv_conf: Content
    resolv_text: str
    link: str = ""
    resolved_version: int | None = None
    resolved: Sequence[str] = ()
    networkmanager_runs: bool = False
    networkmanager: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """`files` to write, `after` and `undone`: commands once they are there and once they are gone again.

    `upstream` and `upstream_file`: the sidecar's settings of these names, for what is not ours. `adopt`: paths that
    others rewrite. `watch`: a path whose changes have to be answered by doing all of this again, or empty.
    """

    way: Way
    files: Mapping[str, Content]
    after: tuple[tuple[str, ...], ...] = ()
    undone: tuple[tuple[str, ...], ...] = ()
    upstream: tuple[str, ...] = ()
    upstream_file: str = ""
    adopt: tuple[str, ...] = ()
    watch: str = ""


def detect(seen: Observed) -> Way:
    """Who resolves for the programs of this host; raises InvalidInput where nobody can tell."""
    servers = resolvconf.parse(seen.resolv_text).nameservers
    if seen.link in _STUBS or (servers and all(s in _RESOLVED_STUBS for s in servers)):
        return Way.RESOLVED
    if seen.networkmanager_runs and (
        seen.link.startswith("/run/NetworkManager/") or "NetworkManager" in seen.resolv_text
    ):
        return Way.NETWORKMANAGER
    if servers:
        return Way.RESOLV_CONF
    raise InvalidInput(
        f"{RESOLV_CONF} names no resolver, so nobody can tell how this host resolves names",
        hint="name one there, or say how with --way",
        code="resolver_unknown",
    )


def hook(way: Way, seen: Observed, server: tuple[str, int], *, suffix: str = "global") -> Hook:
    """How a host that resolves in this way is made to ask the sidecar at `server`.

    Raises InvalidInput for a way that needs another port or address, Conflict for a host that does not resolve so.
    """
    zones = (suffix, "clusterset.local")
    address, port = server
    if ipaddress.ip_address(address).is_unspecified:
        raise InvalidInput(f"dns.host {address} is no address that can be asked", hint="use 127.0.0.55")
    if way is Way.RESOLVED:
        return _resolved(seen, address, port, zones)
    if way is Way.NETWORKMANAGER:
        return _networkmanager(seen, address, port, zones)
    return _resolv_conf(seen, address, port)


def _resolved(seen: Observed, address: str, port: int, zones: tuple[str, ...]) -> Hook:
    if seen.resolved_version is None:
        raise Conflict(
            "this host has no systemd-resolved", hint="use --way auto, or install it", code="resolver_missing"
        )
    if address in _RESOLVED_STUBS:
        raise InvalidInput(f"dns.host {address} is systemd-resolved's own", hint="use 127.0.0.55")
    if port != 53 and seen.resolved_version < OLDEST_WITH_PORTS:
        raise InvalidInput(
            f"systemd-resolved {seen.resolved_version} asks port 53 only, and dns.port is {port}",
            hint="set dns.port to 53",
            code="dns_port",
        )
    options = _merged(seen.resolved, "Resolve")
    # Only the servers that were named for the whole host: those of interfaces go on being asked by resolved itself.
    upstream = tuple(s for s in _words(options["dns"]) if s.partition(":")[0] != address)
    domains = " ".join(f"~{zone}" for zone in zones)
    drop_in = f"{_NOTE}[Resolve]\nDNS=\nDNS={_with_port(address, port)}\nDomains={domains}\n"
    files = {RESOLVED_DROP_IN: Content.text(drop_in)}
    if (_words(options["dnssec"]) or ["no"])[-1].lower() not in ("no", "false", "0", "off", "n", "f"):
        files[NEGATIVE_ANCHORS] = Content.text("; Written for isthmus: nobody signs these.\n" + "\n".join(zones) + "\n")
    restart = (("systemctl", "try-restart", "systemd-resolved.service"),)
    return Hook(
        way=Way.RESOLVED,
        files=files,
        after=restart,
        undone=restart,
        upstream=tuple(filter(None, map(_server, upstream))),
    )


def _resolv_conf(seen: Observed, address: str, port: int) -> Hook:
    if port != 53:
        raise InvalidInput(
            f"{RESOLV_CONF} cannot name a port, and dns.port is {port}", hint="set dns.port to 53", code="dns_port"
        )
    if not [s for s in resolvconf.parse(seen.resolv_text).nameservers if s != address]:
        raise InvalidInput(
            f"{RESOLV_CONF} names no resolver: other names would not be found any more",
            hint="name one there first",
            code="no_nameservers",
        )
    # Others that write into the file in place leave its mode as it is: so do we.
    mode = 0o644 if seen.link else seen.resolv_conf.mode
    files = {RESOLV_CONF: Content.text(resolvconf.with_sidecar(seen.resolv_text, address), mode)}
    if seen.link:
        # Whoever keeps the target up to date goes on doing so, and the sidecar reads it there.
        return Hook(way=Way.RESOLV_CONF, files=files, upstream_file=seen.link)
    files = {KEPT: Content.text(seen.resolv_text), **files}
    return Hook(
        way=Way.RESOLV_CONF,
        files=files,
        upstream_file=KEPT,
        adopt=(RESOLV_CONF,),
        watch=RESOLV_CONF,
    )


def _networkmanager(seen: Observed, address: str, port: int, zones: tuple[str, ...]) -> Hook:
    if not seen.networkmanager_runs:
        raise Conflict("NetworkManager does not run here", hint="use --way auto", code="resolver_missing")
    dns = (_words(_merged(seen.networkmanager, "main")["dns"]) or ["default"])[-1]
    if dns == "systemd-resolved":
        raise Conflict(
            "NetworkManager leaves names to systemd-resolved here", hint="use --way resolved", code="resolver_other"
        )
    if dns == "dnsmasq":
        # Its dnsmasq asks us for our zones and nobody else for them; it follows DHCP for all others, as before.
        asked = "".join(f"server=/{zone}/{address}#{port}\n" for zone in zones)
        restart = (("nmcli", "general", "reload", "dns-full"),)
        files = {NM_DNSMASQ: Content.text(_NOTE + asked)}
        return Hook(way=Way.NETWORKMANAGER, files=files, after=restart, undone=restart)
    made = _resolv_conf(seen, address, port)
    unmanaged = Content.text(f"{_NOTE}[main]\nrc-manager=unmanaged\n")
    files = {NM_DROP_IN: unmanaged, RESOLV_CONF: made.files[RESOLV_CONF]}
    reload = (("systemctl", "reload", "NetworkManager.service"),)
    return Hook(
        way=Way.NETWORKMANAGER,
        files=files,
        after=reload,
        undone=reload,
        upstream_file=NM_RESOLV_CONF,
    )


def _merged(texts: Iterable[str], section: str) -> dict[str, list[str]]:
    """The values of `dns` and `dnssec` in `section`, over all files; an empty value forgets those before it."""
    found: dict[str, list[str]] = {"dns": [], "dnssec": []}
    for text in texts:
        inside = False
        for line in text.splitlines():
            line = line.strip()
            if line.startswith("["):
                inside = line == f"[{section}]"
            elif inside and "=" in line and line[0] not in "#;":
                key, _, value = line.partition("=")
                key, value = key.strip().lower(), value.strip()
                if key in found:
                    found[key] = [*found[key], value] if value else []
    return found


def _words(values: Iterable[str]) -> list[str]:
    return [word for value in values for word in value.split()]


def _server(text: str) -> str:
    """A server as resolved's configuration names it, as our settings do: without interface and server name."""
    return text.partition("#")[0].partition("%")[0]


def _with_port(address: str, port: int) -> str:
    if port == 53:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
