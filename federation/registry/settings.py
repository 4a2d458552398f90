"""The registry's settings: one YAML file, written by `fedctl registry init`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from federation import settings as files
from federation.errors import InvalidSettings
from federation.model.address import split_address
from federation.model.ids import parse_domain
from federation.settings import LogSettings

S = TypeVar("S", bound="RegistrySettings")

DEFAULT_LISTEN = "127.0.0.1:7400"
DEFAULT_ENROLMENT = "127.0.0.1:7401"
DEFAULT_METRICS = "127.0.0.1:7402"


class Quotas(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one origin may claim. Excess records are rejected one by one; a rate above its limit is slowed down."""

    services: int = 20_000
    endpoints: int = 250_000
    """Ready copies and endpoints listed, over all services."""
    bytes: int = 64 << 20
    """Payload bytes over all records."""
    record_bytes: int = 1 << 20
    """Payload bytes of one record."""
    gateways: int = 64
    records_per_second: float = 5_000.0
    burst: int = 50_000
    """Records accepted at once before `records_per_second` limits; at least `services`, so that a snapshot passes."""


class RegistrySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Durations are seconds; addresses are host:port."""

    federation: str
    """The federation's domain: clusters have the trust domain <cluster>.<federation>."""
    directory: str
    """Where the CA, the store and the operator's credentials are. Relative paths start at the settings file."""
    listen: str = DEFAULT_LISTEN
    """Catalog and Operator, mutual TLS. Port 0 picks a free one (tests)."""
    enrolment: str = DEFAULT_ENROLMENT
    """Join only; the caller has no certificate yet."""
    advertise: str = ""
    """How members dial `listen`, where that differs (0.0.0.0, NAT)."""
    advertise_enrolment: str = ""
    metrics: str = DEFAULT_METRICS
    """/metrics, /healthz, /readyz; empty: not served."""
    single_machine: bool = False
    """All members run on this machine: gateways may have loopback addresses."""
    lease: float = 15.0
    """A report whose stream has been silent for so long is stale."""
    heartbeat: float = 5.0
    svid_ttl: float = 3600.0
    """Lifetime of the registry's own certificate; renewed at half of it."""
    operator_ttl: float = 86_400.0
    """Lifetime of the local operator's certificate; renewed while the registry runs."""
    write_timeout: float = 10.0
    """A consumer that does not take an update within this is closed."""
    drain: float = 2.0
    """How long streams get to end after SIGTERM."""
    log: LogSettings = LogSettings()
    quotas: Quotas = Quotas()

    @property
    def path(self) -> Path:
        return Path(self.directory)


def load(path: Path, changes: Sequence[str] = ()) -> RegistrySettings:
    """Read and check the settings at `path`, with `changes` (see federation.settings.load); raises InvalidSettings or
    InvalidInput naming the key."""
    return check(below(files.load(path, RegistrySettings, changes), path.parent))


def below(settings: S, here: Path) -> S:
    """`settings` with a directory that starts at `here` where it is relative."""
    if Path(settings.directory).is_absolute():
        return settings
    return msgspec.structs.replace(settings, directory=str((here / settings.directory).resolve()))


def check(settings: S) -> S:
    """`settings` if every value can be used; raises InvalidSettings or InvalidInput naming the key."""
    parse_domain(settings.federation, what="federation")
    settings.log.check()
    for key in ("listen", "enrolment", "advertise", "advertise_enrolment", "metrics"):
        text = getattr(settings, key)
        if text or key in ("listen", "enrolment"):
            split_address(text, what=key)
    for key, told in (("listen", "advertise"), ("enrolment", "advertise_enrolment")):
        host, _ = split_address(getattr(settings, key), what=key)
        if host in ("0.0.0.0", "::") and not getattr(settings, told):
            raise InvalidSettings(
                f"{key} is every address of this machine; others cannot dial {host}",
                hint=f"set {told} to the HOST:PORT at which this registry is reached",
            )
    for key in ("lease", "heartbeat", "svid_ttl", "operator_ttl", "write_timeout"):
        if not getattr(settings, key) > 0:
            raise InvalidSettings(f"{key} must be above 0 seconds")
    if settings.heartbeat * 2 > settings.lease:
        raise InvalidSettings(f"heartbeat {settings.heartbeat} s must be at most half of lease {settings.lease} s")
    quotas = settings.quotas
    if min(quotas.services, quotas.endpoints, quotas.bytes, quotas.record_bytes, quotas.gateways, quotas.burst) < 1:
        raise InvalidSettings("every quota must be at least 1")
    if quotas.records_per_second <= 0:
        raise InvalidSettings("quotas.records_per_second must be above 0")
    return settings
