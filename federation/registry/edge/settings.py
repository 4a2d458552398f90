"""The parts of a settings file that the gateway and the sidecar share; checked once, here."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TypeVar

import msgspec

from federation.errors import InvalidSettings
from federation.model.address import split_address
from federation.model.ids import SpiffeId, parse_domain, parse_label
from federation.settings import LocalitySettings, LogSettings

E = TypeVar("E", bound="EdgeSettings")

SOCKET_PATH_LIMIT = 107
"""Bytes in the path of a UNIX socket (sun_path of Linux, without its NUL)."""

LONGEST_SOCKET_NAME = "identity.sock"


class MetricsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where /metrics, /healthz and /readyz are served; port 0 picks one and writes it to ports.json.

    `host` is loopback unless somebody elsewhere has to ask: a kubelet does. Who reaches it reads the metrics.
    """

    host: str = "127.0.0.1"
    port: int = 0


class EnvoySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`path` null: the envoy beside this interpreter, then the one on PATH. `concurrency`: worker threads."""

    path: str | None = None
    concurrency: int = 1
    max_connections: int = 50_000
    log_level: str = "warning"


class RemoteAgentSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An agent on another machine, for a virtual machine, as `fedctl vm bootstrap` writes it; or, with a
    `service_account_token`, for a process in a Pod.

    Several addresses are tried in turn, and besides them those that the agent told last.
    """

    trust_domain: str = ""
    """May be empty in a Pod: whatever the anchors vouch for."""
    enrolment: tuple[str, ...]
    """host:port where the agent lets machines in (its `vms.listen`), or Pods (its `pods.listen`)."""
    addresses: tuple[str, ...] = ()
    """host:port of its Catalog service; it tells them itself at the first contact."""
    anchors: str
    """A PEM file of the roots that it may prove itself by. Relative paths start at the settings file."""
    token_file: str = ""
    """The join token; needed until the machine has joined."""
    service_account_token: str = ""
    """A projected token of the Pod's service account, for the audience `isthmus`; read anew at each renewal."""

    def check(self) -> None:
        """Raises InvalidSettings, InvalidName or InvalidInput, naming the key."""
        if self.service_account_token and self.token_file:
            raise InvalidSettings(
                "agent.service_account_token and agent.token_file are both set",
                hint="the one is a pod's, the other a virtual machine's",
            )
        if self.trust_domain or not self.service_account_token:
            parse_domain(self.trust_domain, what="agent.trust_domain")
        if not self.enrolment:
            where = "pods.listen" if self.service_account_token else "vms.listen"
            raise InvalidSettings("agent.enrolment is empty", hint=f"name the agent's {where}, HOST:PORT")
        for key in ("enrolment", "addresses"):
            for text in getattr(self, key):
                split_address(text, what=f"agent.{key}", zero=False)
        if not self.anchors:
            raise InvalidSettings("agent.anchors is empty", hint="name the file with the cluster's root")

    def below(self, folder: Path) -> RemoteAgentSettings:
        """With absolute paths; relative ones start at `folder`."""
        keys = ("anchors", "token_file", "service_account_token")
        paths = {key: str(folder / path) for key in keys if (path := getattr(self, key))}
        return msgspec.structs.replace(self, **paths)


class EdgeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What both processes need; `check` refuses what cannot work before anything is started."""

    name: str
    state_directory: str
    agent_directory: str = ""
    agent: RemoteAgentSettings | None = None
    """Where the agent is: exactly one of the two."""
    namespace: str
    account: str
    suffix: str = "global"
    locality: LocalitySettings = LocalitySettings()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()
    envoy: EnvoySettings = EnvoySettings()

    @property
    def state(self) -> Path:
        return Path(self.state_directory)

    @property
    def in_pod(self) -> bool:
        """Whether it proves itself by a service account token."""
        return self.agent is not None and bool(self.agent.service_account_token)

    @property
    def identity_socket(self) -> Path:
        return Path(self.agent_directory) / "identity.sock"

    def check(self) -> None:
        """Raises InvalidSettings or InvalidName, naming the key."""
        if self.in_pod:
            parse_domain(self.name, what="name")  # a Pod may be called so
        else:
            parse_label(self.name, what="name")
        SpiffeId.workload("check", self.namespace, self.account)
        parse_domain(self.suffix, what="suffix")
        self.log.check()
        if not 1 <= self.envoy.concurrency <= 64:
            raise InvalidSettings(f"envoy.concurrency {self.envoy.concurrency} is not 1 to 64")
        if self.envoy.log_level not in ("trace", "debug", "info", "warning", "error", "critical"):
            raise InvalidSettings(f"envoy.log_level is {self.envoy.log_level!r}", hint="use info, warning or error")
        if self.envoy.max_connections < 100:
            raise InvalidSettings(f"envoy.max_connections {self.envoy.max_connections} is below 100")
        if bool(self.agent_directory) == (self.agent is not None):
            raise InvalidSettings(
                "set either agent_directory or agent" + (", not both" if self.agent is not None else ""),
                hint="agent_directory for an agent on this machine; `fedctl vm bootstrap` writes agent for another one",
            )
        if self.agent is not None:
            self.agent.check()
        check_port(self.metrics.port, key="metrics.port", zero=True)
        check_address(self.metrics.host, key="metrics.host")
        for key, directory in (("state_directory", self.state_directory), ("agent_directory", self.agent_directory)):
            if len(str(Path(directory) / LONGEST_SOCKET_NAME).encode()) > SOCKET_PATH_LIMIT:
                raise InvalidSettings(
                    f"{key} {directory} is too long for the UNIX sockets in it",
                    hint=f"at most {SOCKET_PATH_LIMIT - len(LONGEST_SOCKET_NAME) - 1} bytes",
                )


def placed(settings: E, path: Path) -> E:
    """`settings` as they were read from `path`, with the paths in them made absolute."""
    if settings.agent is None:
        return settings
    return msgspec.structs.replace(settings, agent=settings.agent.below(path.resolve().parent))


def check_port(number: int, *, key: str, zero: bool = False) -> None:
    """Raises InvalidSettings unless `number` is a port (or 0, where `zero` lets the system choose)."""
    if not (0 if zero else 1) <= number <= 65535:
        raise InvalidSettings(f"{key} {number} is out of range", hint="a port is 1 to 65535", code="invalid_port")


def check_address(text: str, *, key: str) -> None:
    """Raises InvalidSettings unless `text` is an IP address literal."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise InvalidSettings(f"{key} {text!r} is no IP address") from None
