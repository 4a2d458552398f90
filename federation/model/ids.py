"""Names: parsed once at the edge, never checked again inside.

Cluster, namespace and service names are DNS labels (RFC 1123); trust domains and SPIFFE IDs follow the SPIFFE ID
specification 1.0, sections 2.1 to 2.4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering

from federation.errors import InvalidInput, InvalidName

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z", re.ASCII)
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}\Z", re.ASCII)
_PATH_SEGMENT = re.compile(r"[A-Za-z0-9._-]+\Z", re.ASCII)

REGISTRY_ORIGIN = "@registry"
"""The origin of the registry's own records (links). No cluster can have this name."""


def parse_label(text: str, *, what: str) -> str:
    """`text` if it is a DNS label; raises InvalidName naming `what` it should have been ("cluster", "service" …)."""
    if not _LABEL.match(text):
        raise InvalidName(
            f"{what} {text[:80]!r} is no DNS label",
            hint="use at most 63 lower-case letters, digits and '-', beginning and ending with a letter or digit",
        )
    return text


def parse_domain(text: str, *, what: str) -> str:
    """`text` if it is a lower-case domain name of DNS labels, at most 200 characters; raises InvalidName."""
    if len(text) > 200:
        raise InvalidName(f"{what} has {len(text)} characters; at most 200 leave room for service names")
    for label in text.split("."):
        parse_label(label, what=f"{what} {text[:80]!r}: its part")
    return text


def parse_port(number: int, *, what: str) -> int:
    """`number` if it is a port, 1 to 65535; raises InvalidInput naming `what` it is for."""
    if not 1 <= number <= 65535:
        raise InvalidInput(f"{what} {number} is out of range", hint="a port is 1 to 65535", code="invalid_port")
    return number


@total_ordering
@dataclass(frozen=True, slots=True)
class ServiceName:
    """A service within a cluster or, being the same everywhere, within the federation."""

    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str) -> ServiceName:
        """From "<namespace>/<service>" (the name of records); raises InvalidName."""
        namespace, slash, name = text.partition("/")
        if not slash:
            raise InvalidName(f"{text[:80]!r} is not NAMESPACE/SERVICE")
        return cls(parse_label(namespace, what="namespace"), parse_label(name, what="service"))

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    def __lt__(self, other: ServiceName) -> bool:
        return (self.namespace, self.name) < (other.namespace, other.name)


def trust_domain_of(cluster: str, federation: str) -> str:
    """The trust domain of a cluster: "<cluster>.<federation domain>"."""
    return f"{cluster}.{federation}"


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """spiffe://<trust domain>/<path>."""

    trust_domain: str
    path: str  # "/ns/shop/sa/echo"; never empty for a leaf

    @classmethod
    def parse(cls, uri: str) -> SpiffeId:
        """Raises InvalidName for anything that the SPIFFE ID specification does not allow in a leaf."""
        if len(uri.encode()) > 2048 or not uri.startswith("spiffe://"):
            raise InvalidName(f"{uri[:80]!r} is no SPIFFE ID")
        domain, slash, rest = uri[len("spiffe://") :].partition("/")
        segments = rest.split("/")
        if (
            not _TRUST_DOMAIN.match(domain)
            or not slash
            or any(not _PATH_SEGMENT.match(s) or s in (".", "..") for s in segments)
        ):
            raise InvalidName(f"{uri[:80]!r} is no SPIFFE ID of a workload")
        return cls(domain, "/" + rest)

    @classmethod
    def workload(cls, trust_domain: str, namespace: str, account: str) -> SpiffeId:
        """spiffe://<trust domain>/ns/<namespace>/sa/<account>; raises InvalidName."""
        parse_label(namespace, what="namespace")
        for label in account.split("."):  # service account names are DNS subdomains
            parse_label(label, what="service account")
        return cls.parse(f"spiffe://{trust_domain}/ns/{namespace}/sa/{account}")

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}{self.path}"


SYSTEM_NAMESPACE = "isthmus-system"
"""The namespace of our own identities: …/ns/isthmus-system/sa/agent, …/sa/gateway."""
