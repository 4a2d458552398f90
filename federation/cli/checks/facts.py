"""What was seen of an API server, of this machine, of the registry, of agents. Plain values, gathered elsewhere.

Where something could not be seen stands why, as the error it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from federation.cli.replicas import Answer, Served, served
from federation.errors import IsthmusError
from federation.proto.v1 import agent_pb2, registry_pb2


@dataclass(frozen=True, slots=True)
class Right:
    """One thing that the caller has to be allowed to do; `reason`: what for."""

    verb: str
    resource: str
    namespace: str
    allowed: bool
    reason: str = ""

    def __str__(self) -> str:
        where = f" in {self.namespace}" if self.namespace else ""
        return f"{self.verb} {self.resource}{where}"


@dataclass(frozen=True, slots=True)
class Crd:
    """A CustomResourceDefinition: the versions that it serves (None: it is not there) and those that are read."""

    name: str
    served: tuple[str, ...] | None
    wanted: tuple[str, ...]
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment or StatefulSet of ours."""

    kind: str
    name: str
    component: str
    wanted: int
    ready: int
    images: tuple[str, ...] = ()
    reason: str = ""
    version: str = ""
    """Of its pods, by their image or by their label; empty where neither tells."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook of ours; `not_after_ns`: the end of the certificate by which the API server knows it (wall time)."""

    name: str
    not_after_ns: int | None
    failure_policy: str = "Fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeFacts:
    """What an API server tells. `failure`: it could not be asked at all. None elsewhere: that was not to be learnt."""

    context: str
    server: str = ""
    failure: IsthmusError | None = None
    version: tuple[int, int] | None = None
    version_text: str = ""
    rights: Sequence[Right] = ()
    crds: Sequence[Crd] | None = None
    namespace: str = ""
    namespace_there: bool | None = None
    pod_security: Mapping[str, str] = field(default_factory=dict)
    """Namespace → level that is enforced, of our own namespace and of those whose pods get a sidecar."""
    corefile: str | None = None
    corefile_missing: str = ""
    suffix: str = "global"
    pod_ranges: tuple[str, ...] | None = None
    service_ranges: tuple[str, ...] | None = None
    native_sidecars: bool | None = None
    native_sidecars_detail: str = ""
    webhooks: Sequence[Webhook] | None = None
    workloads: Sequence[Workload] | None = None
    uninjected: Sequence[str] | None = None
    """NAMESPACE/NAME of pods that asked for a sidecar and have none."""
    cluster_name: str = ""
    """What the About API calls the cluster (cluster.clusterset.k8s.io); empty: nothing."""


@dataclass(frozen=True, slots=True)
class PortFact:
    """Whether a port of this machine can be listened on; `problem` is empty where it can."""

    what: str
    address: str
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """This machine. `nft` and `ip`: why they cannot be used, empty where they can."""

    system: str
    release: str
    nft: str
    ip: str
    ports: Sequence[PortFact] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryFacts:
    """A registry as it is seen from here. `clock_ns`: (its clock, our clock in the middle of the question)."""

    address: str
    failure: IsthmusError | None = None
    pinned: bool = False
    token: registry_pb2.LookReply | None = None
    token_failure: IsthmusError | None = None
    token_cluster: str = ""
    status: registry_pb2.RegistryStatus | None = None
    clock_ns: tuple[int, int] | None = None
    not_before_ns: int | None = None
    members: Sequence[registry_pb2.ClusterInfo] | None = None
    links: Sequence[registry_pb2.LinkInfo] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFacts:
    """One cluster's agent. `asked_ns`: our clock in the middle of the question."""

    cluster: str
    failure: IsthmusError | None = None
    identity: agent_pb2.AgentIdentity | None = None
    status: agent_pb2.AgentStatus | None = None
    seen: agent_pb2.ExamineReply | None = None
    seen_failure: IsthmusError | None = None
    asked_ns: int = 0
    answers: Sequence[Answer] = ()
    """What each of its replicas says; empty: it is alone."""

    @property
    def served(self) -> Sequence[Served]:
        """The gateways and sidecars of all replicas."""
        return served(self.answers or (Answer("", self.status, self.failure),))


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationFacts:
    """Everything after the installation. `now_ns`: our wall clock."""

    now_ns: int
    version: str
    agents: Sequence[AgentFacts] = ()
    registry: RegistryFacts | None = None
    clusters: Sequence[KubeFacts] = ()
    """API servers that were looked at: what nobody of the above knows runs there."""

    @property
    def links(self) -> Sequence[registry_pb2.LinkInfo]:
        return self.registry.links if self.registry is not None else ()
