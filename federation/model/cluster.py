"""Clusters, their gateways, the links between them, and whom they trust."""

from __future__ import annotations

from dataclasses import dataclass

from federation.model.service import Locality

MOST_RANGES = 64
"""Networks of pods that a cluster tells: neighbours are told as one, so that few have more."""
VIA_SERVICE = "service"
"""As the address of a gateway, said to its agent: peers reach it where the cluster's Service of the gateways says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """An east-west gateway: where peers reach it; no `address`: they do not. `weight` 1 or more.

    `egress`: where workloads of its own cluster reach it, if at another address; peers do not see it.
    """

    name: str
    address: str
    port: int
    locality: Locality = Locality()
    weight: int = 1
    draining: bool = False
    egress: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The X.509 roots (DER) of exactly one trust domain; `sequence` only rises (SPIFFE Trust Domain and Bundle, 4)."""

    trust_domain: str
    sequence: int
    roots: tuple[bytes, ...]
    refresh_hint_seconds: int = 300
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: a stable code, where it is, and what to do about it."""

    code: str
    subject: str
    detail: str
    since_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What a cluster says of itself (payload of CLUSTER).

    `network`: clusters that name the same one reach each other's endpoints directly; empty: through gateways only.
    `pod_ranges`: the networks of its pods, as far as it knows them, and on a `network` alone; at most MOST_RANGES.
    `outbound_only`: it has gateways, and none that others reach: it calls, and is not called.
    """

    name: str
    trust_domain: str
    locality: Locality = Locality()
    bundle: Bundle
    agent_version: str = ""
    problems: tuple[Problem, ...] = ()
    network: str = ""
    pod_ranges: tuple[str, ...] = ()
    outbound_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkGrant:
    """`origin` lets `consumer` see the services that match; "*" matches every namespace or service."""

    origin: str
    consumer: str
    namespace: str = "*"
    service: str = "*"
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Two clusters see each other's exports (payload of LINK). a < b. No grants: everything each side exports."""

    a: str
    b: str
    created_ns: int = 0
    grants: tuple[LinkGrant, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.a}/{self.b}"

    def other(self, cluster: str) -> str:
        """The far end as `cluster` sees it."""
        return self.b if cluster == self.a else self.a


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A cluster that this one may talk to, itself included (payload of PEER); `bundle` is pinned and verified."""

    cluster: str
    trust_domain: str
    locality: Locality = Locality()
    own: bool = False
    bundle: Bundle
    gateways: tuple[Gateway, ...] = ()

    @property
    def verifiable(self) -> bool:
        """Whether its identities can be verified here: its own roots are known."""
        return bool(self.bundle.roots) and self.bundle.trust_domain == self.trust_domain

    def vouches_for(self, identity: str) -> bool:
        """Whether `identity`, a SPIFFE ID, can be proven by the roots of this cluster, and by them alone."""
        return self.verifiable and identity.startswith(f"spiffe://{self.trust_domain}/")
