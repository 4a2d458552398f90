"""The settings of the injector: one YAML file, described in docs/settings.md; `fedctl inject` reads the same one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import yaml

from federation.dns.upstream import parse_server
from federation.errors import InvalidSettings, IsthmusError
from federation.model.address import split_address
from federation.model.ids import SYSTEM_NAMESPACE, parse_domain
from federation.registry.edge.settings import EdgeSettings, check_address, placed
from federation.settings import convert, load
from sidecar.injector.options import ClusterDns, Options, Resources, Way
from sidecar.settings import SidecarSettings
from sidecar.vm import resolvconf

ACCOUNT = "injector"
SERVER_NAME = f"isthmus-injector.{SYSTEM_NAMESPACE}.svc"
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
RESOLV_CONF = Path("/etc/resolv.conf")
DOMAIN = "cluster.local"


class ApiSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The API server, as every pod has it; the files are read anew for each connection."""

    server: str = "https://kubernetes.default.svc"
    ca_file: str = f"{SERVICE_ACCOUNT}/ca.crt"
    token_file: str = f"{SERVICE_ACCOUNT}/token"

    def check(self) -> None:
        """Raises InvalidSettings."""
        if not self.server.startswith("https://"):
            raise InvalidSettings(f"api.server {self.server[:80]!r} is no https:// URL")


class DnsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How pods of the cluster resolve names; what is empty is read from the injector's own resolv.conf."""

    servers: tuple[str, ...] = ()
    domain: str = ""
    searches: tuple[str, ...] = ()
    """What nodes add to the search list of pods."""
    gateway: str = ""
    """Who answers pods of the gateway way, where the cluster's own DNS does not know the global names."""


class ResourceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a sidecar's container, as quantities; an empty limit: none."""

    cpu: str = Resources().cpu
    memory: str = Resources().memory
    cpu_limit: str = Resources().cpu_limit
    memory_limit: str = Resources().memory_limit

    def made(self) -> Resources:
        """Raises InvalidInput."""
        return Resources(cpu=self.cpu, memory=self.memory, cpu_limit=self.cpu_limit, memory_limit=self.memory_limit)


class PodSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What pods get, where their annotations do not say something else."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    way: Literal["redirect", "loopback", "gateway"] = "redirect"
    range: str = ""
    """Of virtual addresses; empty: the way's own default."""
    names_limit: int = 1000
    log_level: str = "info"
    resources: ResourceSettings = ResourceSettings()
    dns: DnsSettings = DnsSettings()


class InjectorSettings(EdgeSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`listen`: where the API server calls, HOST:PORT.

    `webhook`: the MutatingWebhookConfiguration whose caBundle is kept to the cluster's roots; empty: nobody's.
    """

    name: str = ACCOUNT
    namespace: str = SYSTEM_NAMESPACE
    account: str = ACCOUNT
    listen: str = "0.0.0.0:8443"
    webhook: str = "isthmus-injector"
    api: ApiSettings = ApiSettings()
    drain_seconds: float = 3.0
    """After SIGTERM, for an API server that has not heard of it yet."""
    image: str
    """That of sidecars."""
    pods: PodSettings = PodSettings()

    def check(self) -> None:
        """Raises InvalidSettings or InvalidName, naming the key."""
        EdgeSettings.check(self)
        if self.agent is None:
            raise InvalidSettings(
                "agent is missing: pods are to reach it from wherever they run", hint="see docs/settings.md"
            )
        split_address(self.listen, what="listen")
        self.api.check()
        if not 0 <= self.drain_seconds <= 60:
            raise InvalidSettings(f"drain_seconds {self.drain_seconds:g} is not 0 to 60")
        if not self.image:
            raise InvalidSettings("image is empty", hint="the image that has isthmus-sidecar on its PATH")
        for text in self.pods.dns.servers:
            parse_server(text, key="pods.dns.servers")
        if self.pods.dns.gateway:
            check_address(self.pods.dns.gateway, key="pods.dns.gateway")
        for text in filter(None, (self.pods.dns.domain, *self.pods.dns.searches)):
            parse_domain(text, what="pods.dns")
        try:
            self.pods.resources.made()
        except IsthmusError as error:
            raise InvalidSettings(f"pods.resources.{error.message}", hint=error.hint) from error
        self._check_sidecar()

    def _check_sidecar(self) -> None:
        """What ends up in a sidecar's settings has to be what a sidecar takes."""
        if self.pods.way == "gateway":
            return
        probe = SidecarSettings(
            name=self.name,
            namespace=self.namespace,
            account=self.account,
            state_directory=self.state_directory,
            agent=self.agent,
            suffix=self.suffix,
            way=self.pods.way,
            range=self.pods.range,
            names_limit=self.pods.names_limit,
            log=msgspec.structs.replace(self.log, level=self.pods.log_level),
        )
        try:
            probe.check()
        except IsthmusError as error:
            raise InvalidSettings(f"pods: {error.message}", hint=error.hint) from error


def read(path: Path, changes: Sequence[str] = ()) -> InjectorSettings:
    """The checked settings in `path`, with `changes` (see federation.settings.load); raises InvalidSettings or
    InvalidName."""
    settings = placed(load(path, InjectorSettings, changes), path)
    settings.check()
    return settings


def parse(text: str, *, where: str) -> InjectorSettings:
    """The checked settings in `text`, whose paths mean nothing here. Raises InvalidSettings or InvalidName."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidSettings(f"{where}: no YAML: {getattr(error, 'problem', error)}") from error
    settings = convert(tree, InjectorSettings, where=where)
    settings.check()
    return settings


def options(
    settings: InjectorSettings, *, trust_domain: str, enrolment: tuple[str, ...], roots: str, dns: ClusterDns
) -> Options:
    """What pods get, with what was found out: the agent's addresses, its roots (PEM) and the cluster's DNS."""
    pods = settings.pods
    return Options(
        image=settings.image,
        image_pull_policy=pods.image_pull_policy,
        trust_domain=trust_domain,
        enrolment=enrolment,
        roots=roots,
        dns=dns,
        way=Way(pods.way),
        suffix=settings.suffix,
        range=pods.range,
        gateway_dns=pods.dns.gateway,
        resources=pods.resources.made(),
        log_level=pods.log_level,
        names_limit=pods.names_limit,
        own_namespace=settings.namespace,
    )


def cluster_dns(given: DnsSettings, resolv_conf: str, *, namespace: str) -> ClusterDns:
    """How pods resolve names: as the settings say, and for the rest as `resolv_conf` of a pod in `namespace` shows.

    Raises InvalidSettings where neither names a server.
    """
    found = resolvconf.parse(resolv_conf)
    searches: list[str] = []
    for words in map(str.split, found.others):
        if words[0] == "search":
            searches = words[1:]  # the last one counts, resolv.conf(5)
    own = next((one for one in searches if one.startswith(f"{namespace}.svc.")), "")
    domain = given.domain or own.removeprefix(f"{namespace}.svc.") or DOMAIN
    cluster = (f"{namespace}.svc.{domain}", f"svc.{domain}", domain)
    servers = given.servers or found.nameservers
    if not servers:
        raise InvalidSettings("it is not known who answers names in this cluster", hint="set pods.dns.servers")
    return ClusterDns(
        servers=servers,
        domain=domain,
        searches=given.searches or tuple(one for one in searches if one not in cluster),
    )
