"""The settings of a sidecar: one YAML file, described in docs/settings.md."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from federation.dns.upstream import parse_server
from federation.errors import InvalidSettings, IsthmusError
from federation.model.ids import SpiffeId
from federation.registry.edge.settings import EdgeSettings, check_address, check_port, placed
from federation.settings import load

LOOPBACK_RANGE = "127.128.0.0/9"
REDIRECT_RANGE = "240.64.0.0/12"


class DnsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where names are answered (UDP and TCP; port 0 picks one, ports.json tells it) and who is asked for all else.

    `upstream`: "address" or "address:port", tried in this order; `upstream_file`: a file as resolv.conf(5), whose
    nameservers follow, also when it changes. Without either, names outside the federation are refused.
    """

    host: str = "127.0.0.1"
    port: int = 53
    upstream: tuple[str, ...] = ()
    upstream_file: str = ""
    ttl: int = 5

    def servers(self) -> list[tuple[str, int]]:
        """`upstream` as (address, port); raises InvalidSettings."""
        return [parse_server(text, key="dns.upstream") for text in self.upstream]


class InboundSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Envoy takes calls for the workload, by mutual TLS.

    `callers`: who may, as NAMESPACE/ACCOUNT of the own cluster, an account may end in a star; empty: the whole cluster.
    """

    port: int
    address: str = "0.0.0.0"
    callers: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises InvalidSettings."""
        check_port(self.port, key="inbound.port")
        check_address(self.address, key="inbound.address")
        for pattern in self.callers:
            namespace, _, account = pattern.partition("/")
            stem = account.removesuffix("*")
            try:
                # What the star stands for may be anything that makes it an account.
                SpiffeId.workload("check", namespace, stem if stem == account else f"{stem}x")
            except IsthmusError as error:
                raise InvalidSettings(
                    f"inbound.callers: {pattern[:80]!r} means no identities: {error.message}",
                    hint="write NAMESPACE/ACCOUNT; only the account may end in *",
                ) from error


class SidecarSettings(EdgeSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`way`: how calls are caught (docs/settings.md). `range` empty: the way's own default. `inbound` null: the
    workload serves nobody."""

    way: Literal["loopback", "redirect"] = "loopback"
    range: str = ""
    outbound_port: int = 15001
    dns: DnsSettings = DnsSettings()
    names_limit: int = 1000
    idle_seconds: float = 600.0
    absent_seconds: float = 600.0
    absent_limit: int = 1000
    intercept: bool = False
    inbound: InboundSettings | None = None
    listens: tuple[int, ...] = ()
    """Ports of the workload, which the loopback way never takes."""
    left_seconds: float = 600.0
    """A port that the workload held is left to it for so long after: above the longest pause between two starts of a
    container (300 s)."""
    services: str = ""
    """The file of what this VM registers (docs/vm-services.md); relative paths start at the settings file."""
    drain_seconds: float = 3.0
    """After SIGTERM, for those that call what it registers."""

    @property
    def network(self) -> ipaddress.IPv4Network:
        """The range of virtual addresses."""
        return ipaddress.IPv4Network(self.range or (LOOPBACK_RANGE if self.way == "loopback" else REDIRECT_RANGE))

    def check(self) -> None:
        """Raises InvalidSettings or InvalidName, naming the key."""
        EdgeSettings.check(self)
        check_port(self.outbound_port, key="outbound_port")
        check_address(self.dns.host, key="dns.host")
        check_port(self.dns.port, key="dns.port", zero=True)
        self.dns.servers()
        if self.dns.upstream_file and not self.dns.upstream_file.startswith("/"):
            raise InvalidSettings(f"dns.upstream_file {self.dns.upstream_file} is no absolute path")
        try:
            network = self.network
        except ValueError as error:
            raise InvalidSettings(f"range: {error}", hint="such as 127.128.0.0/9") from error
        if self.way == "loopback" and not network.subnet_of(ipaddress.IPv4Network("127.0.0.0/8")):
            raise InvalidSettings(f"range {network} is not part of 127.0.0.0/8, which the loopback way needs")
        if network.prefixlen > 22:
            raise InvalidSettings(f"range {network} is too small", hint="/22 or larger")
        if not 1 <= self.names_limit <= 100_000:
            raise InvalidSettings(f"names_limit {self.names_limit} is not 1 to 100000")
        if not 0 <= self.absent_limit <= 100_000:
            raise InvalidSettings(f"absent_limit {self.absent_limit} is not 0 to 100000")
        if self.inbound is not None:
            self.inbound.check()
        if self.idle_seconds <= 0 or self.absent_seconds <= 0:
            raise InvalidSettings("idle_seconds and absent_seconds are above 0")
        for port in self.listens:
            check_port(port, key="listens")
        if not 0 <= self.left_seconds <= 86400:
            raise InvalidSettings(f"left_seconds {self.left_seconds:g} is not 0 to 86400")
        if not 0 <= self.drain_seconds <= 3600:
            raise InvalidSettings(f"drain_seconds {self.drain_seconds:g} is not 0 to 3600")
        if not 0 <= self.dns.ttl <= 3600:
            raise InvalidSettings(f"dns.ttl {self.dns.ttl} is not 0 to 3600")


def read(path: Path, changes: Sequence[str] = ()) -> SidecarSettings:
    """The checked settings in `path`, with `changes` (see federation.settings.load); raises InvalidSettings or
    InvalidName."""
    settings = placed(load(path, SidecarSettings, changes), path)
    if settings.services:
        settings = msgspec.structs.replace(settings, services=str(path.resolve().parent / settings.services))
    settings.check()
    return settings
