"""What a cluster of a topology is to kind(1): its name, its nodes, its configuration, and how one of ours is known.

Docker gives containers no label that kind would set for us. So each node has a mount that tells whose it is: /dev/null
at a path with the topology's name. It needs no file of ours, outlives every restart, and is seen by `docker inspect`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

import yaml

from clusters.kind.ranges import Ranges, assign
from clusters.topology import ClusterSpec, Topology
from federation.errors import InvalidInput

PREFIX = "isthmus"
MARKS = "/isthmus-harness"
"""The folder of the mounts that mark a node; the entry is `<prefix>.<topology>`."""
MADE = "/isthmus-harness.made"
"""The file in a control plane that is written when its cluster is whole; it holds the digest of the configuration."""

_LONGEST = 49
"""Characters of a name to which kind adds `-control-plane`: together they are a host name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A cluster as it should be; all but `cluster` in the words of kind and Docker."""

    cluster: str
    """Its name in the topology."""
    name: str
    """Its name for kind."""
    spec: ClusterSpec
    ranges: Ranges
    config: str
    """The YAML that kind reads."""

    @property
    def digest(self) -> str:
        """Of all that cannot be changed in a cluster once it is made."""
        return hashlib.sha256(self.config.encode()).hexdigest()[:16]

    @property
    def control_plane(self) -> str:
        """The container."""
        return f"{self.name}-control-plane"

    @property
    def nodes(self) -> tuple[str, ...]:
        """The containers, the control plane first, as kind names them."""
        workers = range(1, self.spec.nodes.workers + 1)
        return self.control_plane, *(f"{self.name}-worker{n if n > 1 else ''}" for n in workers)

    @property
    def context(self) -> str:
        """In its kubeconfig."""
        return f"kind-{self.name}"


def mark(topology: str, prefix: str = PREFIX) -> str:
    """Where a node of the topology has its mount."""
    return f"{MARKS}/{prefix}.{topology}"


def wanted(topology: Topology, *, prefix: str = PREFIX, taken: Iterable[IPv4Network] = ()) -> Mapping[str, Wanted]:
    """The clusters of the topology by name; raises InvalidInput as `assign` does, and for a name that is too long."""
    ranges = assign(topology, taken=taken)
    found: dict[str, Wanted] = {}
    for spec in topology.clusters:
        name = f"{prefix}-{topology.name}-{spec.name}"
        if len(name) > _LONGEST:
            raise InvalidInput(
                f"{name} is too long a name for a kind cluster",
                hint=f"shorten the topology's or the cluster's: at most {_LONGEST} characters together",
                code="invalid_topology",
            )
        config = render(spec, ranges[spec.name], mark=mark(topology.name, prefix))
        found[spec.name] = Wanted(cluster=spec.name, name=name, spec=spec, ranges=ranges[spec.name], config=config)
    return found


def render(spec: ClusterSpec, ranges: Ranges, *, mark: str) -> str:
    """The configuration that kind reads (kind.x-k8s.io/v1alpha4)."""
    labels = {
        f"topology.kubernetes.io/{key}": value
        for key, value in (("region", spec.locality.region), ("zone", spec.locality.zone))
        if value
    }
    mount = {"hostPath": "/dev/null", "containerPath": mark, "readOnly": True}
    roles = ["control-plane", *["worker"] * spec.nodes.workers]
    return yaml.safe_dump(
        {
            "kind": "Cluster",
            "apiVersion": "kind.x-k8s.io/v1alpha4",
            "networking": {"podSubnet": str(ranges.pods), "serviceSubnet": str(ranges.services)},
            "nodes": [{"role": role, "labels": labels, "extraMounts": [mount]} for role in roles],
        },
        sort_keys=False,
    )
