"""The settings of a gateway: one YAML file, described in docs/settings.md."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path

from federation.errors import InvalidSettings
from federation.model.cluster import VIA_SERVICE, Gateway
from federation.model.ids import SYSTEM_NAMESPACE, parse_label
from federation.model.service import Locality
from federation.registry.edge.settings import EdgeSettings, check_address, check_port, placed
from federation.settings import load


class GatewaySettings(EdgeSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`address` and `port` are what peers reach and what is announced; `bind` and `bind_port` what Envoy listens on.
    The address `service` is that of the Service before the gateways, which the agent knows; without one no peer is to
    reach this gateway, and workloads of its own cluster call out through it.

    `egress_address`: where workloads of the own cluster reach `egress_bind`; needed where that is all addresses. What
    they did not call for `egress_idle_seconds` Envoy forgets until they call again.

    `drain_quiet_seconds`: it ends before `drain_seconds` when nothing is under way and nothing has come for so long.
    """

    address: str
    port: int
    bind: str = "0.0.0.0"
    bind_port: int = 0  # 0: the same as `port`
    egress_bind: str = "127.0.0.1"
    egress_address: str = ""
    egress_idle_seconds: float = 600.0
    weight: int = 1
    drain_seconds: float = 5.0
    drain_quiet_seconds: float = 1.0
    names_limit: int = 10_000
    refused_limit: int = 1_000
    namespace: str = SYSTEM_NAMESPACE
    account: str = "gateway"

    @property
    def listen_port(self) -> int:
        return self.bind_port or self.port

    def announced(self, *, draining: bool) -> Gateway:
        """This gateway as peers see it, and, for its agent, where workloads of its cluster do."""
        everywhere = ipaddress.ip_address(self.egress_bind).is_unspecified
        egress = self.egress_address or ("" if everywhere else self.egress_bind)
        return Gateway(
            name=self.name,
            address=self.address,
            port=self.port,
            locality=Locality(self.locality.region, self.locality.zone),
            weight=self.weight,
            draining=draining,
            egress="" if egress == self.address else egress,
        )

    def check(self) -> None:
        """Raises InvalidSettings or InvalidName, naming the key."""
        EdgeSettings.check(self)
        parse_label(self.name, what="name")
        check_port(self.port, key="port")
        check_port(self.bind_port, key="bind_port", zero=True)
        check_address(self.bind, key="bind")
        check_address(self.egress_bind, key="egress_bind")
        if self.address not in ("", VIA_SERVICE):
            check_address(self.address, key="address")
        elif ipaddress.ip_address(self.egress_bind).is_unspecified and not self.egress_address:
            raise InvalidSettings(
                f"address is {self.address!r} and egress_bind {self.egress_bind}: no workload would know where to call",
                hint="set egress_bind to the address of this pod or host, or egress_address",
            )
        if self.egress_address:
            check_address(self.egress_address, key="egress_address")
        if not 1 <= self.egress_idle_seconds <= 1_000_000:
            raise InvalidSettings(f"egress_idle_seconds {self.egress_idle_seconds} is not 1 to 1000000")
        if not 1 <= self.weight <= 1000:
            raise InvalidSettings(f"weight {self.weight} is not 1 to 1000")
        if not 0 <= self.drain_seconds <= 600:
            raise InvalidSettings(f"drain_seconds {self.drain_seconds} is not 0 to 600")
        if not 0 <= self.drain_quiet_seconds <= 600:
            raise InvalidSettings(f"drain_quiet_seconds {self.drain_quiet_seconds} is not 0 to 600")
        if not 1 <= self.names_limit <= 1_000_000:
            raise InvalidSettings(f"names_limit {self.names_limit} is not 1 to 1000000")
        if not 1 <= self.refused_limit <= 1_000_000:
            raise InvalidSettings(f"refused_limit {self.refused_limit} is not 1 to 1000000")


def read(path: Path, changes: Sequence[str] = ()) -> GatewaySettings:
    """The checked settings in `path`, with `changes` (see federation.settings.load); raises InvalidSettings or
    InvalidName."""
    settings = placed(load(path, GatewaySettings, changes), path)
    settings.check()
    return settings
