"""The `consul.write:` block of the agent's settings: imports as services of a Consul datacenter."""

from __future__ import annotations

import re
import string

import msgspec

from discovery.consul.imports.names import NameRule
from federation.errors import InvalidSettings
from federation.model.ids import ServiceName, parse_domain

_NODE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,126}[A-Za-z0-9])?\Z", re.ASCII)
_PART = re.compile(r"(?:\*|[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)\Z", re.ASCII)


class WriteSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Durations are seconds."""

    enabled: bool = False
    name: str = ""
    """How an import is called in Consul: a template of {service} and {namespace}. Empty: `<service>`, and
    `<service>-<namespace>` outside of the namespace that was given to the datacenter."""
    domain: str = "consul"
    """Of Consul's DNS: gateways take `<name>.service.<domain>` for the Host of an import."""
    node: str = ""
    """The node that the services are registered under; empty: isthmus-<cluster>."""
    services: tuple[str, ...] = ("*/*",)
    """Patterns NAMESPACE/SERVICE of the imports that are written; "*" matches all."""
    rate: float = 500.0
    """Operations a second; one transaction carries up to 63."""
    ttl: float = 30.0
    """When nothing was heard of the agent for twice this time, what it wrote turns critical."""

    def check(self) -> None:
        """Raises InvalidSettings naming the key."""
        if self.name:
            try:
                fields = {field for _, field, spec, how in string.Formatter().parse(self.name) if field is not None}
                plain = all(not spec and not how for _, _, spec, how in string.Formatter().parse(self.name))
            except ValueError:
                fields, plain = set(), False
            if not plain or "service" not in fields or fields - {"service", "namespace"}:
                raise InvalidSettings(
                    f"consul.write.name {self.name!r} is no template", hint="for example: {service}-{namespace}"
                )
        parse_domain(self.domain, what="consul.write.domain")
        if self.node and not _NODE.match(self.node):
            raise InvalidSettings(f"consul.write.node {self.node[:80]!r} is no name of a node")
        for pattern in self.services:
            namespace, slash, service = pattern.partition("/")
            if not slash or not _PART.match(namespace) or not _PART.match(service):
                raise InvalidSettings(
                    f"consul.write.services: {pattern[:80]!r} is not NAMESPACE/SERVICE", hint='either may be "*"'
                )
        if not 1 <= self.rate <= 10_000:
            raise InvalidSettings(f"consul.write.rate {self.rate:g} is not between 1 and 10000 operations a second")
        if not 10 <= self.ttl <= 86_400:
            raise InvalidSettings(
                f"consul.write.ttl {self.ttl:g} is not between 10 and 86400 seconds, as Consul has it"
            )

    def node_of(self, cluster: str) -> str:
        """The node of the cluster's imports."""
        return self.node or f"isthmus-{cluster}"

    def rule(self, namespace: str) -> NameRule:
        """The rule for a datacenter whose services are in `namespace`."""
        return NameRule(namespace, self.name)

    def covers(self, name: ServiceName) -> bool:
        """Whether the import is to be written at all."""
        return any(
            namespace in ("*", name.namespace) and service in ("*", name.name)
            for namespace, _, service in (pattern.partition("/") for pattern in self.services)
        )
