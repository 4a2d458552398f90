"""The agent's settings: one YAML file, written by `fedctl cluster join`."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from discovery.consul.settings import ConsulSettings
from discovery.identity.allow import AllowTable
from discovery.kube.settings import KubernetesSettings
from federation import settings as files
from federation.dns.upstream import parse_server
from federation.errors import InvalidSettings
from federation.model.address import split_address
from federation.model.ids import SYSTEM_NAMESPACE, SpiffeId, parse_domain, parse_label, trust_domain_of
from federation.model.service import Locality
from federation.settings import LocalitySettings, LogSettings

S = TypeVar("S", bound="AgentSettings")

DEFAULT_LISTEN = "127.0.0.1:7445"
SETTINGS_FILE = "settings.yaml"
_RESERVED = frozenset({"agent", "registry"})
_WHO = {"vms": "VM", "pods": "pod"}
_SOCKET_PATH_LIMIT = 107 - len("/identity.sock")


class FilesSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The folder of manifests."""

    folder: str
    """Relative paths start at the settings file."""
    poll: float = 5.0
    """The whole folder is looked at after so many seconds, whatever the kernel reports."""
    confirm: float = 5.0
    """Many files that vanish at once are believed when a second look, so many seconds later, finds the same."""
    max_bytes: int = 16 << 20
    """Larger files are refused unread."""


class ClusterSetSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What imports are given in this cluster; the addresses are local to it."""

    v4: str = "241.0.0.0/16"
    v6: str = ""
    """Empty: no ClusterSetIPs of this family."""
    gateway_ports: tuple[int, int] = (10_000, 29_999)
    release: float = 600.0
    """Seconds after an import's end for which its address and ports are kept for it."""


class ClusterDnsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Global names for workloads without a sidecar; meant as the target of a stub domain of the cluster's DNS."""

    listen: str = ""
    """UDP and TCP; port 0 picks one that is free for both; empty: not served."""
    ttl: int = 5
    """Seconds for which clients may keep an answer."""
    upstream: tuple[str, ...] = ()
    """ADDRESS or ADDRESS:PORT of resolvers for all other names; empty: they are refused."""

    def servers(self) -> list[tuple[str, int]]:
        """`upstream` as (address, port); raises InvalidSettings."""
        return [parse_server(text, key="dns.upstream") for text in self.upstream]


class VmServicesSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What VMs register for themselves (docs/vm-services.md)."""

    grace: float = 15.0
    """Instances of a VM that was not heard of for this time are not ready."""
    forget: float = 3600.0
    """So much later they are forgotten."""
    any_address: bool = False
    """Endpoints without mutual TLS may have other addresses than the one that their VM connects from."""


class VmsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where virtual machines join and renew their identities, over TLS."""

    listen: str = ""
    """Port 0 picks a free one; empty: no machine is let in."""
    advertise: str | tuple[str, ...] = ""
    """How machines dial `listen`, where that differs; several where the agent has replicas."""
    services: VmServicesSettings = VmServicesSettings()


class PodsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Pods get and renew their identities, over TLS, by tokens that the API server of `kubernetes` reviews."""

    listen: str = ""
    """Port 0 picks a free one; empty: Pods get none."""
    advertise: str | tuple[str, ...] = ""
    """How Pods dial `listen`, where that differs."""
    accounts: tuple[str, ...] = ("gateway", "injector")
    """Service accounts of isthmus-system whose Pods may have an identity. Those of other namespaces all may."""


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Durations are seconds; addresses are host:port."""

    cluster: str
    federation: str
    registry: str
    """Where the registry serves Catalog."""
    files: FilesSettings | None = None
    kubernetes: KubernetesSettings | None = None
    consul: ConsulSettings | None = None
    """Where services come from, beside VMs: at least one of the three."""
    directory: str = "."
    """State: keys, last view, sockets. Relative paths start at the settings file."""
    listen: str = DEFAULT_LISTEN
    """Catalog for the gateways and sidecars of this cluster, mutual TLS. Port 0 picks a free one."""
    advertise: str | tuple[str, ...] = ""
    """How they dial `listen`, where that differs; several are tried in turn."""
    vms: VmsSettings = VmsSettings()
    pods: PodsSettings = PodsSettings()
    metrics: str = "127.0.0.1:0"
    """/metrics, /healthz, /readyz; empty: not served."""
    suffix: str = "global"
    """The domain of the short global names, as the sidecars have it; for `dns` and `fedctl resolve`."""
    dns: ClusterDnsSettings = ClusterDnsSettings()
    single_machine: bool = False
    """All members run on this machine: gateways may have loopback addresses."""
    network: str = ""
    """Clusters that name the same one reach each other's pods directly: headless services span them. Empty: none."""
    locality: LocalitySettings = LocalitySettings()
    clusterset: ClusterSetSettings = ClusterSetSettings()
    identities: dict[int | str, list[str]] = {}
    """User (id or name) → patterns NAMESPACE/ACCOUNT of the identities that its processes may have."""
    svid_ttl: float = 3600.0
    """Lifetime of the certificates that this agent issues, its own included; renewed at half of it."""
    gateway_lease: float = 5.0
    """A gateway whose stream broke is withdrawn after this time."""
    gateway_grace: float = 30.0
    """After a start of the agent the gateways known before are kept for this time."""
    consumer_memory: float = 60.0
    """A gateway or sidecar whose stream broke is shown as lost for this time."""
    heartbeat: float = 5.0
    write_timeout: float = 10.0
    """A consumer that does not take an update within this is closed."""
    save: float = 5.0
    """At least so many seconds lie between two writes of one state file."""
    drain_seconds: float = 0.0
    """After SIGTERM it goes on for so long: for what is led here by those that have not heard of it yet."""
    log: LogSettings = LogSettings()

    @property
    def path(self) -> Path:
        return Path(self.directory)

    @property
    def trust_domain(self) -> str:
        return trust_domain_of(self.cluster, self.federation)

    @property
    def place(self) -> Locality:
        return Locality(self.locality.region, self.locality.zone)


def load(path: Path, changes: Sequence[str] = ()) -> AgentSettings:
    """Read and check the settings at `path`, with `changes` (see federation.settings.load); raises InvalidSettings or
    InvalidName naming the key."""
    return check(below(files.load(path, AgentSettings, changes), path.resolve().parent))


def below(settings: S, here: Path) -> S:
    """`settings` with paths that start at `here` where they are relative."""
    settings = msgspec.structs.replace(settings, directory=str(here / settings.directory))
    if settings.files is not None:
        source = msgspec.structs.replace(settings.files, folder=str(here / settings.files.folder))
        settings = msgspec.structs.replace(settings, files=source)
    if settings.kubernetes is not None and settings.kubernetes.kubeconfig:
        kubernetes = msgspec.structs.replace(settings.kubernetes, kubeconfig=str(here / settings.kubernetes.kubeconfig))
        settings = msgspec.structs.replace(settings, kubernetes=kubernetes)
    if settings.consul is not None:
        settings = msgspec.structs.replace(settings, consul=settings.consul.below(here))
    return settings


def check(settings: AgentSettings) -> AgentSettings:
    """`settings` if every value can be used; raises InvalidSettings or InvalidName naming the key."""
    parse_label(settings.cluster, what="cluster")
    parse_domain(settings.federation, what="federation")
    parse_domain(settings.suffix, what="suffix")
    if settings.network:
        parse_label(settings.network, what="network")
    for key in ("registry", "listen", "metrics"):
        text = getattr(settings, key)
        if text or key in ("registry", "listen"):
            split_address(text, what=key)
    for text in addresses(settings.advertise):
        split_address(text, what="advertise", zero=False)
    for key in ("svid_ttl", "gateway_lease", "gateway_grace", "consumer_memory", "heartbeat", "write_timeout", "save"):
        if not getattr(settings, key) > 0:
            raise InvalidSettings(f"{key} must be above 0 seconds")
    if not 0 <= settings.drain_seconds <= 60:
        raise InvalidSettings(f"drain_seconds {settings.drain_seconds:g} is not 0 to 60")
    if settings.svid_ttl > 86_400:
        raise InvalidSettings(f"svid_ttl {settings.svid_ttl:g} is more than a day (86400)")
    _check_source(settings)
    settings.log.check()
    AllowTable(settings.identities)
    _check_clusterset(settings.clusterset)
    _check_dns(settings.dns)
    _check_vms(settings)
    _check_pods(settings)
    if len(settings.directory.encode()) > _SOCKET_PATH_LIMIT:
        raise InvalidSettings(
            f"directory {settings.directory} is too long for the UNIX sockets in it",
            hint=f"at most {_SOCKET_PATH_LIMIT} bytes",
        )
    return settings


def _check_source(settings: AgentSettings) -> None:
    files, kubernetes, consul = settings.files, settings.kubernetes, settings.consul
    if files is None and kubernetes is None and consul is None:
        raise InvalidSettings(
            "set files, kubernetes or consul, or several of them",
            hint="files: {folder: …} reads manifests, kubernetes: {} an API server, consul: {datacenters: …} a "
            "catalog; for VMs alone, an empty folder",
        )
    if files is not None and (not files.poll > 0 or not files.confirm > 0 or files.max_bytes < 1):
        raise InvalidSettings("files.poll, files.confirm and files.max_bytes must be above 0")
    if kubernetes is not None:
        kubernetes.check()
    if consul is not None:
        consul.check()


def _check_dns(settings: ClusterDnsSettings) -> None:
    if settings.listen:
        host, _ = split_address(settings.listen, what="dns.listen")
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise InvalidSettings(f"dns.listen {settings.listen}: {host} is no IP address") from None
    if not 0 <= settings.ttl <= 3600:
        raise InvalidSettings(f"dns.ttl {settings.ttl} is not 0 to 3600")
    settings.servers()


def _check_vms(settings: AgentSettings) -> None:
    vms = settings.vms
    for key in ("grace", "forget"):
        if not getattr(vms.services, key) > 0:
            raise InvalidSettings(f"vms.services.{key} must be above 0 seconds")
    _check_enrolment(settings, "vms", vms.listen, addresses(vms.advertise))


def _check_pods(settings: AgentSettings) -> None:
    pods = settings.pods
    for account in pods.accounts:
        if account in _RESERVED:
            raise InvalidSettings(
                f"pods.accounts: {account!r} is the identity of the {account} itself",
                hint="no pod gets that one; name other service accounts",
            )
        SpiffeId.workload("check", SYSTEM_NAMESPACE, account)
    if pods.listen and settings.kubernetes is None:
        raise InvalidSettings(
            "pods.listen is set and kubernetes is not", hint="the API server says whose token a pod shows: set both"
        )
    _check_enrolment(settings, "pods", pods.listen, addresses(pods.advertise))


def _check_enrolment(settings: AgentSettings, block: str, listen: str, told: tuple[str, ...]) -> None:
    """What those who come for an identity are told must lead here from where they are."""
    if listen:
        split_address(listen, what=f"{block}.listen")
    for text in told:
        split_address(text, what=f"{block}.advertise", zero=False)
    if not listen:
        if told:
            raise InvalidSettings(
                f"{block}.advertise is set and {block}.listen is not", hint=f"set {block}.listen, or neither"
            )
        return
    who = _WHO[block]
    host, _ = split_address(listen, what=f"{block}.listen")
    if not told and _unspecified(host):
        raise InvalidSettings(
            f"{block}.listen {listen} is no address that a {who} can dial",
            hint=f"set {block}.advertise to one that it can",
        )
    catalog = addresses(settings.advertise) or (settings.listen,)
    for text in catalog:
        at, _ = split_address(text, what="listen")
        if _unspecified(at) or (_loopback(at) and not _loopback(host)):
            raise InvalidSettings(
                f"{who}s are let in at {listen} and cannot dial the agent at {text}",
                hint=f"set listen, and advertise where it differs, to what {who}s can reach",
            )


def addresses(setting: str | tuple[str, ...]) -> tuple[str, ...]:
    """One or several addresses as a tuple; empty text is none."""
    if isinstance(setting, str):
        return (setting,) if setting else ()
    return setting


def _unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_clusterset(settings: ClusterSetSettings) -> None:
    for key, version, smallest in (("v4", 4, 28), ("v6", 6, 124)):
        text = getattr(settings, key)
        if not text:
            continue
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            raise InvalidSettings(f"clusterset.{key}: {error}") from None
        if network.version != version or network.prefixlen > smallest:
            raise InvalidSettings(f"clusterset.{key} {text} is no IPv{version} range of /{smallest} or larger")
    if not settings.v4 and not settings.v6:
        raise InvalidSettings("clusterset.v4 and clusterset.v6 are both empty")
    first, last = settings.gateway_ports
    if not 1 <= first <= last <= 65_535:
        raise InvalidSettings(f"clusterset.gateway_ports {first} to {last} is no range of ports", code="invalid_port")
    if settings.release < 0:
        raise InvalidSettings("clusterset.release must not be below 0 seconds")
