"""A finding of `fedctl check`: what was looked at, whether it is well, and what to do where it is not."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

PAGE = "docs/checks.md"


class Level(enum.StrEnum):
    """How much it matters."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Code(enum.StrEnum):
    """What is looked at. A code never changes its meaning; docs/checks.md has a paragraph for each."""

    # Before the installation.
    API_SERVER = "api-server"
    API_VERSION = "api-version"
    RIGHTS = "rights"
    CRDS = "crds"
    POD_SECURITY = "pod-security"
    COREDNS = "coredns"
    STUB_DOMAIN = "stub-domain"
    RANGES = "ranges"
    NATIVE_SIDECARS = "native-sidecars"
    WEBHOOK = "webhook"
    KERNEL = "kernel"
    NFTABLES = "nftables"
    PORTS = "ports"
    REGISTRY = "registry"
    TOKEN = "token"  # noqa: S105 - what is looked at, not one
    CLOCK = "clock"
    CLUSTER_NAME = "cluster-name"
    # After it.
    DEPLOYMENTS = "deployments"
    INJECTION = "injection"
    AGENT = "agent"
    CONNECTION = "connection"
    EPOCH = "epoch"
    LEADER = "leader"
    CERTIFICATES = "certificates"
    PINS = "pins"
    GATEWAYS = "gateways"
    GATEWAY_REACH = "gateway-reach"
    LINKS = "links"
    VERSIONS = "versions"
    PROBLEMS = "problems"
    CONSUMERS = "consumers"
    EXPORTS = "exports"
    NAMESPACES = "namespaces"
    ADDRESSES = "addresses"
    DNS = "dns"
    CLUSTER_DNS = "cluster-dns"

    @property
    def anchor(self) -> str:
        """Where it is explained."""
        return f"{PAGE}#{self.value}"


@dataclass(frozen=True, slots=True)
class Finding:
    """`subject`: who or what; `next`: what to do, empty where all is well."""

    code: Code
    level: Level
    subject: str
    detail: str
    next: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As `-o json` prints it."""
        return {
            "code": self.code.value,
            "level": self.level.value,
            "subject": self.subject,
            "detail": self.detail,
            "next": self.next,
            "see": self.code.anchor,
        }


def ok(code: Code, subject: str, detail: str) -> Finding:
    return Finding(code, Level.OK, subject, detail)


def warning(code: Code, subject: str, detail: str, next: str) -> Finding:
    return Finding(code, Level.WARNING, subject, detail, next)


def error(code: Code, subject: str, detail: str, next: str) -> Finding:
    return Finding(code, Level.ERROR, subject, detail, next)


def worst(findings: Iterable[Finding]) -> Level:
    """The level that the whole has."""
    levels = {finding.level for finding in findings}
    return next((level for level in (Level.ERROR, Level.WARNING) if level in levels), Level.OK)


def shown(names: Iterable[str], most: int = 3) -> str:
    """The first few of many."""
    listed = sorted(names)
    rest = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {rest} more" if rest > 0 else "")
