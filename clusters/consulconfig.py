"""Where an agent of a Consul datacenter is, and what its configuration file says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clusters.network import free_port


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where one agent is."""

    name: str
    directory: Path
    address: str
    http: int
    """Of its API, by HTTP or by HTTPS."""
    dns: int
    rpc: int
    lan: int
    wan: int
    wrap: tuple[str, ...] = ()

    @classmethod
    def pick(cls, name: str, directory: Path, address: str, *, wrap: Sequence[str] = ()) -> Site:
        """Free ports at `address`; with `wrap` the address may be one of another network, where all are free."""
        where = "127.0.0.1" if wrap else address
        http, dns, rpc, lan, wan = (free_port(where) for _ in range(5))
        return cls(
            name=name,
            directory=directory,
            address=address,
            http=http,
            dns=dns,
            rpc=rpc,
            lan=lan,
            wan=wan,
            wrap=tuple(wrap),
        )

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def pki(self) -> Path:
        return self.directory / "pki"


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """How a datacenter is guarded."""

    management: str = ""
    """The secret of the token that may do everything; empty: there is no access control."""
    tls: bool = False
    """TLS everywhere; the API demands a certificate of its clients."""


def configuration(
    site: Site,
    *,
    datacenter: str,
    servers: Sequence[Site],
    guard: Guard,
    agent_token: str = "",
    meta: Mapping[str, str] | None = None,
    wan: Sequence[Site] = (),
) -> dict[str, object]:
    """What the agent's configuration file says: a server when `site` is one of `servers`, else a client of them.

    `wan`: servers of other datacenters, which those of this one join.
    """
    serving = site in servers
    ports = {
        "dns": site.dns,
        "server": site.rpc,
        "serf_lan": site.lan,
        "serf_wan": site.wan,
        "grpc": -1,
        "grpc_tls": -1,
    }
    tree: dict[str, object] = {
        "datacenter": datacenter,
        "node_name": site.name,
        "node_meta": dict(meta or {}),
        "data_dir": str(site.data),
        "bind_addr": site.address,
        "client_addr": site.address,
        "advertise_addr": site.address,
        "advertise_addr_wan": site.address,
        "ports": {**ports, **({"http": -1, "https": site.http} if guard.tls else {"http": site.http, "https": -1})},
        "server": serving,
        "retry_join": [f"{one.address}:{one.lan}" for one in servers if one != site],
        "retry_interval": "500ms",
        "retry_max": 0,
        # One second for an election instead of five. Gossip notices a node that is gone within about three.
        "performance": {"raft_multiplier": 1, "leave_drain_time": "0s"},
        "gossip_lan": {"probe_interval": "500ms", "probe_timeout": "400ms", "gossip_interval": "100ms"},
        "enable_local_script_checks": True,
        "disable_update_check": True,
        "ui_config": {"enabled": False},
        "connect": {"enabled": False},
        "peering": {"enabled": False},
    }
    if serving:
        tree["bootstrap_expect"] = len(servers)
        tree |= {"retry_join_wan": [f"{one.address}:{one.wan}" for one in wan], "retry_interval_wan": "500ms"}
        tree["session_ttl_min"] = "1s"  # instead of ten: tests wait until sessions end
        # A server that was killed is still a member: it comes back as the voter that it was.
        tree["autopilot"] = {"cleanup_dead_servers": False, "server_stabilization_time": "1s"}
    if guard.management:
        tree["acl"] = {
            "enabled": True,
            "default_policy": "deny",
            # A token that is revoked is noticed by client agents within this time instead of half a minute.
            "token_ttl": "1s",
            "policy_ttl": "1s",
            "tokens": {
                **({"initial_management": guard.management} if serving else {}),
                "agent": agent_token or guard.management,
            },
        }
    if guard.tls:
        files = {
            "ca_file": str(site.pki / "ca.crt"),
            "cert_file": str(site.pki / "agent.crt"),
            "key_file": str(site.pki / "agent.key"),
        }
        tree["tls"] = {
            "defaults": {**files, "verify_incoming": True, "verify_outgoing": True},
            "internal_rpc": {"verify_server_hostname": True},
        }
    return tree
