"""The `consul:` block of the agent's settings."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from discovery.consul.imports.settings import WriteSettings
from federation.errors import InvalidSettings
from federation.model.ids import parse_label, parse_port

READS = 16
"""Reads that are under way at the same time, besides the watches."""
BOARD = 3
"""Watches of a datacenter besides those of single services: its catalog, and which checks warn or fail."""
WRITING = 3
"""Watches of a datacenter for writing to it: the names of others, and the services and checks of our node."""
_DATACENTER = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z", re.ASCII)


class ConsulSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which Consul the agent reads. Durations are seconds."""

    address: str = "http://127.0.0.1:8500"
    """http:// or https://, HOST:PORT: a local agent of Consul, or a server."""
    datacenters: dict[str, str]
    """Datacenter → the namespace that its services have in the federation, one for each."""
    token_file: str = ""
    """The ACL token; read again when the file changes. Relative paths start at the settings file. Empty: none."""
    plain_token: bool = False
    """No problem is made of a token that goes to another machine by http://."""
    ca_file: str = ""
    """Whom to trust, PEM; empty: what the system trusts."""
    cert_file: str = ""
    key_file: str = ""
    """What we prove ourselves with, PEM; both or none."""
    server_name: str = ""
    """The name in the server's certificate, where it is not the host of `address`: "server.dc1.consul"."""
    wait: float = 40.0
    """A blocking query is answered after this time at the latest, and a sixteenth of it; what is later is broken."""
    consistency: Literal["default", "stale"] = "default"
    """stale: any server answers, not the leader alone."""
    max_stale: float = 5.0
    """With `stale`: an answer of a server that last heard of its leader longer ago is not believed."""
    watches: int = 100
    """Exported services with a watch of their own; the others share three watches of their datacenter. More than
    about 150 need a larger `http_max_conns_per_client` in Consul."""
    sweep: float = 100.0
    """Looks a second, at most, at services that have no watch of their own, while something in the catalog changes and
    Consul does not list all instances at once (/v1/internal/ui/nodes)."""
    confirm: float = 2.0
    """Many instances that vanish at once are believed to be gone when a second look so much later finds the same."""
    resync: float = 90.0
    """When servers were restored or begin anew (the index of the catalogue goes backwards), or list nothing at all,
    what is missing counts for so long at least: agents of Consul register their services again meanwhile."""
    max_bytes: int = 64 << 20
    """Longer answers are refused."""
    rules: str = ""
    """File of rules, which services are exported; `fedctl export` writes it. Relative paths: as `token_file`."""
    tag: str = ""
    """Instances with this tag are exported; empty: no tag does that."""
    tagged: Literal["", "lan", "wan"] = ""
    """Which tagged address of an instance counts; empty: its address."""
    ipv6: bool = False
    """Also the IPv6 address that is tagged `lan_ipv6` or `wan_ipv6`, by `tagged`."""
    labels: tuple[str, ...] = ("*",)
    """Patterns of the tags and keys of meta that are exported as labels; none: ()."""
    lock: bool = True
    """Hold a lock in Consul, so that a second agent on a datacenter is noticed. Needs session:write and key:write."""
    lock_prefix: str = "isthmus"
    """Of the keys of these locks."""
    lock_ttl: float = 15.0
    """A lock whose holder was not heard of for this time is free; 10 at least (Consul's own limit)."""
    write: WriteSettings = WriteSettings()
    """Imports as services of the datacenters."""

    def below(self, directory: Path) -> ConsulSettings:
        """The same with relative paths that start at `directory`."""
        paths = {key: getattr(self, key) for key in ("token_file", "ca_file", "cert_file", "key_file", "rules")}
        return msgspec.structs.replace(self, **{key: str(directory / path) for key, path in paths.items() if path})

    def check(self) -> None:
        """Raises InvalidSettings or InvalidName naming the key."""
        split_url(self.address)
        if not self.datacenters:
            raise InvalidSettings("consul.datacenters is empty", hint="for example: datacenters: {dc1: shop}")
        for datacenter, namespace in self.datacenters.items():
            if not _DATACENTER.match(datacenter):
                raise InvalidSettings(f"consul.datacenters: {datacenter[:80]!r} is no name of a datacenter")
            parse_label(namespace, what=f"consul.datacenters.{datacenter}: namespace")
        if len(set(self.datacenters.values())) < len(self.datacenters):
            raise InvalidSettings(
                "consul.datacenters: two datacenters have the same namespace",
                hint="services of the same name would be one and the same; give each datacenter its own namespace",
            )
        if bool(self.cert_file) != bool(self.key_file):
            raise InvalidSettings("consul.cert_file and consul.key_file are needed together")
        tls = [k for k in ("ca_file", "cert_file", "server_name") if getattr(self, k)]
        if tls and not self.address.startswith("https://"):
            raise InvalidSettings(f"consul.{tls[0]} is set and consul.address is not https://")
        if not 1 <= self.wait <= 600:
            raise InvalidSettings(f"consul.wait {self.wait:g} is not between 1 and 600 seconds")
        if not self.max_stale > 0 or not self.confirm >= 0 or not self.resync >= 0:
            raise InvalidSettings(
                "consul.max_stale must be above 0 seconds, and neither consul.confirm nor consul.resync below"
            )
        if not 0 <= self.watches <= 20_000:
            raise InvalidSettings(f"consul.watches {self.watches} is not between 0 and 20000")
        if not 0.1 <= self.sweep <= 1000:
            raise InvalidSettings(f"consul.sweep {self.sweep:g} is not between 0.1 and 1000 a second")
        if self.max_bytes < 1 << 16:
            raise InvalidSettings(f"consul.max_bytes {self.max_bytes} is less than 65536")
        if not 10 <= self.lock_ttl <= 86_400:
            raise InvalidSettings(f"consul.lock_ttl {self.lock_ttl:g} is not between 10 and 86400 seconds")
        if not self.lock_prefix or self.lock_prefix.startswith("/") or self.lock_prefix.endswith("/"):
            raise InvalidSettings(f"consul.lock_prefix {self.lock_prefix!r} is no beginning of a key")

        self.write.check()
        if self.write.enabled and not self.lock:
            raise InvalidSettings(
                "consul.write.enabled needs consul.lock", hint="two agents that write would undo each other's work"
            )

    @property
    def sends_plain_token(self) -> bool:
        """Whether the token goes to another machine unencrypted, and nobody has said that it may."""
        scheme, host, _ = split_url(self.address)
        if not self.token_file or self.plain_token or scheme == "https" or host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(host).is_loopback
        except ValueError:
            return True

    @property
    def connections(self) -> int:
        """Connections to Consul at most."""
        watches = BOARD + (WRITING if self.write.enabled else 0)
        return self.watches + watches * len(self.datacenters) + READS + 2


def split_url(text: str) -> tuple[str, str, int]:
    """(scheme, host, port) of a Consul address; raises InvalidSettings."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or "@" in parts.netloc
        or parts.path not in ("", "/")
        or parts.query
    ):
        raise InvalidSettings(
            f"consul.address {text[:80]!r} is no URL of Consul",
            hint="for example http://127.0.0.1:8500 or https://consul.example.com:8501",
        )
    if port is None:
        port = 8500 if parts.scheme == "http" else 8501
    return parts.scheme, parts.hostname, parse_port(port, what="consul.address: port")
