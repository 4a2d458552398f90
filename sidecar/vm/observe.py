"""Looks at how a host resolves names, as it did before we changed anything."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from sidecar.vm.changes import Content, Journal
from sidecar.vm.host import Host, follow
from sidecar.vm.resolver import NM_DROP_IN, RESOLV_CONF, RESOLVED_DROP_IN, Observed

_RESOLVED = ("/usr/lib/systemd/systemd-resolved", "/lib/systemd/systemd-resolved")
_SECONDS = 20.0


def observe(host: Host, journal: Journal, *, version: Callable[[], int | None] | None = None) -> Observed:
    """What there is; a resolv.conf that we wrote is passed over for the one that stood there before.

    `version`: of the systemd of this host. Raises Denied, StorageFailed.
    """
    conf = host.read(RESOLV_CONF)
    entry = journal.entry(RESOLV_CONF)
    if entry is not None and conf.digest in entry.written:
        conf = entry.before
    link = follow(RESOLV_CONF, conf.link) if conf.link else ""
    has_resolved = any(host.path(path).exists() for path in _RESOLVED)
    return Observed(
        resolv_conf=conf,
        resolv_text=_text(host, conf, link),
        link=link,
        resolved_version=(version or systemd_version)() if has_resolved else None,
        resolved=_configuration(host, "/etc/systemd/resolved.conf", "systemd/resolved.conf.d", RESOLVED_DROP_IN),
        networkmanager_runs=host.path("/run/NetworkManager").is_dir(),
        networkmanager=_configuration(
            host, "/etc/NetworkManager/NetworkManager.conf", "NetworkManager/conf.d", NM_DROP_IN
        ),
    )


def systemd_version() -> int | None:
    """The version that systemctl(1) tells; a very new one where it tells none that we understand."""
    try:
        told = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.match(r"systemd (\d+)", told.stdout)
    return int(found.group(1)) if found else None


def _text(host: Host, conf: Content, link: str) -> str:
    return host.text(link) if link else (conf.data or b"").decode(errors="replace")


def _configuration(host: Host, main: str, drop_ins: str, ours: str) -> tuple[str, ...]:
    """The main file, then the drop-ins by name; one in /etc hides its namesake in /run and /usr/lib."""
    found: dict[str, str] = {}
    for top in ("/usr/lib", "/run", "/etc"):
        found |= host.texts(f"{top}/{drop_ins}", ".conf")
    found.pop(Path(ours).name, None)
    return (host.text(main), *(found[name] for name in sorted(found)))
