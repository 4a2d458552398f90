"""The objects that make an import usable in a Kubernetes cluster: ServiceImport, derived Service, EndpointSlices.

Pure. kube-proxy routes the derived Service's ClusterIPs, which are the import's ClusterSetIPs, to what its
EndpointSlices name: the gateways of this cluster, at the gateway port of the import (KEP-1645, "Tracking Endpoints").
"""

from __future__ import annotations

import enum
import functools
import hashlib
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from discovery.kube.resources import MCS
from discovery.kube.types import MANAGER, MCS_SERVICE_NAME, MCS_SOURCE_CLUSTER, SLICE_MANAGED_BY, SLICE_MANAGER
from discovery.mcs.held import APPLIED, EPOCH, Facts, Kind, digest, facts
from discovery.sources.manifests import MANAGED_BY, SERVICE_NAME
from federation.model.ids import ServiceName
from federation.model.service import Backend, Endpoint, Import, Port, Protocol

SLICE_ENDPOINTS = 500
"""Endpoints per slice; the API takes 1000. A change rewrites one slice, or all after it when one fills up."""
ANNOTATION_BYTES = 256 * 1024 - 4096
"""What exported annotations may have together: the API server takes 256 KiB, and some are ours."""
_NAME_LENGTH = 63

Body = dict[str, Any]


class Namespace(enum.Enum):
    """Whether there is somewhere to write to."""

    ABSENT = "absent"
    ACTIVE = "active"
    TERMINATING = "terminating"


class LocalGateway(NamedTuple):
    """A gateway of this cluster as its workloads reach it."""

    address: str
    zone: str = ""

    @property
    def family(self) -> str:
        return "IPv6" if ":" in self.address else "IPv4"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What is the same for all imports of this cluster.

    `families`: those that its Services can have, the default first. `version`: of the MCS API; `epoch`: of the lease
    under which it is written.
    """

    version: str = "v1beta1"
    epoch: int = 1
    families: tuple[str, ...] = ("IPv4",)
    gateways: tuple[LocalGateway, ...] = ()
    create_namespaces: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What there should be of one service name. `import_` None: nothing.

    `settled` names the clusters of which it is known what they export, or that they are gone: nothing that came from
    others is deleted. `ports`: gateway ports that the derived Service is to have. `ips`: ClusterSetIPs that a derived
    Service is to be given again.
    """

    name: ServiceName
    namespace: Namespace = Namespace.ACTIVE
    import_: Import | None = None
    ports: Mapping[int, int] = field(default_factory=dict)
    ips: tuple[str, ...] = ()
    settled: frozenset[str] | None = None
    """None: all are."""
    patient: bool = True
    """Worth waiting for an address before it is shown; not after it was asked for in vain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An object as it should be."""

    kind: Kind
    namespace: str
    name: str
    body: Body
    facts: Facts


@functools.lru_cache(maxsize=4096)
def derived_name(name: ServiceName) -> str:
    """The name of the derived Service: a DNS label that no two services share (but for the odds of 40 bits)."""
    tail = hashlib.sha256(str(name).encode()).hexdigest()[:10]
    head = f"{MANAGER}-{name.name}"[: _NAME_LENGTH - len(tail) - 1].rstrip("-")
    return f"{head}-{tail}"


def namespace_object(name: str) -> Wanted:
    """The namespace of an import, where they are to be created."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {MANAGED_BY: MANAGER}}}
    return Wanted(kind=Kind.NAMESPACE, namespace="", name=name, body=body, facts=facts(Kind.NAMESPACE, body))


def service_import(imported: Import, site: Site) -> Wanted:
    """The ServiceImport without its status."""
    labels, annotations, _ = exported_metadata(imported)
    spec: Body = {
        "type": "Headless" if imported.headless else "ClusterSetIP",
        "ports": [_import_port(port) for port in imported.ports],
        "ips": list(imported.ips),
        "ipFamilies": list(imported.ip_families) if imported.ips or imported.headless else [],
        "sessionAffinity": imported.session_affinity,
        **_affinity(imported),
    }
    if imported.internal_traffic_policy:
        spec["internalTrafficPolicy"] = imported.internal_traffic_policy
    if imported.traffic_distribution:
        spec["trafficDistribution"] = imported.traffic_distribution
    metadata = {"labels": {**labels, MANAGED_BY: MANAGER}, "annotations": annotations}
    metadata["annotations"] = {**annotations, APPLIED: digest(metadata)}
    return _object(Kind.IMPORT, f"{MCS}/{site.version}", imported.name, imported.name.name, metadata, site, spec=spec)


def derived_service(imported: Import, desired: Desired, site: Site, *, owner: str) -> Wanted | None:
    """The Service whose ClusterIPs are the ClusterSetIPs; None for an import without.

    `owner`: the import's uid; empty as long as it has none.
    """
    if imported.headless or not imported.ports:
        return None
    families = [f for f in imported.ip_families if f in site.families] or list(site.families[:1])
    spec: Body = {
        "type": "ClusterIP",
        "ports": [_service_port(port, desired.ports) for port in imported.ports],
        "sessionAffinity": imported.session_affinity,
        **_affinity(imported),
        "ipFamilyPolicy": "PreferDualStack" if len(families) > 1 else "SingleStack",
    }
    if ips := [ip for ip in desired.ips if family_of(ip) in families]:
        spec |= {"clusterIP": ips[0], "clusterIPs": ips}
        families = [family_of(ip) for ip in ips] + [f for f in families if f not in map(family_of, ips)]
    if families:
        spec["ipFamilies"] = families
    metadata = {
        "labels": {MANAGED_BY: MANAGER, MCS_SERVICE_NAME: imported.name.name},
        **({"ownerReferences": _owned(imported, site, owner)} if owner else {}),
    }
    return _object(Kind.SERVICE, "v1", imported.name, derived_name(imported.name), metadata, site, spec=spec)


def slices(imported: Import, desired: Desired, site: Site, *, owner: str) -> Iterator[Wanted]:
    """The EndpointSlices, each of one source cluster and address family."""
    service = derived_name(imported.name)
    for backend in imported.backends:
        if imported.headless:
            made = _endpoint_slices(imported, backend)
        else:
            made = _gateway_slices(imported, backend, desired, site)
        labels = {
            MANAGED_BY: MANAGER,
            SLICE_MANAGED_BY: SLICE_MANAGER,
            MCS_SERVICE_NAME: imported.name.name,
            MCS_SOURCE_CLUSTER: backend.cluster,
            **({} if imported.headless else {SERVICE_NAME: service}),
        }
        metadata = {"labels": labels, "ownerReferences": _owned(imported, site, owner)}
        for suffix, content in made:
            name = f"{service}-{backend.cluster}-{suffix}"
            yield _object(Kind.SLICE, "discovery.k8s.io/v1", imported.name, name, metadata, site, **content)


def _gateway_slices(imported: Import, backend: Backend, desired: Desired, site: Site) -> Iterator[tuple[str, Body]]:
    """The gateways once for each source cluster, so that each shows where its endpoints come from.

    A cluster without a ready endpoint has an empty slice rather than gateways that are not ready: kube-proxy believes
    the first of two slices that name one address, and it would be the same address in the slice of another cluster.
    """
    ports = [
        {"name": port.name, "protocol": "TCP", "port": desired.ports[port.port], **_app_protocol(port)}
        for port in imported.ports
        if port.protocol is Protocol.TCP and port.port in backend.ports and port.port in desired.ports
    ]
    if not ports:
        return
    families = [family_of(ip) for ip in imported.ips] or [f for f in imported.ip_families if f in site.families][:1]
    for family in families or site.families[:1]:
        gateways = [g for g in site.gateways if g.family == family] if backend.ready else []
        endpoints = [_gateway_endpoint(gateway) for gateway in sorted(gateways)]
        yield family.lower(), {"addressType": family, "endpoints": endpoints, "ports": ports}


def _gateway_endpoint(gateway: LocalGateway) -> Body:
    return _endpoint(gateway.address, ready=True, serving=True, terminating=False, zone=gateway.zone)


def _endpoint_slices(imported: Import, backend: Backend) -> Iterator[tuple[str, Body]]:
    """A headless service's own endpoints, where they are known: those that callers here reach directly."""
    names = {port.port: port for port in imported.ports}
    groups: dict[tuple[str, tuple[tuple[int, int], ...]], list[Endpoint]] = {}
    for endpoint in backend.endpoints:
        targets = tuple(sorted((p, to) for p, to in endpoint.ports.items() if p in names))
        groups.setdefault((family_of(endpoint.address), targets), []).append(endpoint)
    number = 0
    for (family, targets), members in sorted(groups.items()):
        ports = [
            {"name": names[p].name, "protocol": names[p].protocol.value, "port": to, **_app_protocol(names[p])}
            for p, to in targets
        ]
        for chunk in _chunks(members, SLICE_ENDPOINTS):
            endpoints = [
                _endpoint(
                    e.address,
                    ready=e.ready and not e.terminating,
                    serving=e.ready or e.terminating,
                    terminating=e.terminating,
                    zone=e.locality.zone,
                    hostname=e.hostname,
                )
                for e in chunk
            ]
            yield f"{family.lower()}-{number}", {"addressType": family, "endpoints": endpoints, "ports": ports}
            number += 1


def _endpoint(
    address: str, *, ready: bool, serving: bool, terminating: bool, zone: str = "", hostname: str = ""
) -> Body:
    made: Body = {
        "addresses": [address],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
    }
    if zone:
        made["zone"] = zone
    if hostname:
        made["hostname"] = hostname
    return made


def usable(address: str) -> bool:
    """Whether the API takes it as an endpoint (ValidateNonSpecialIP of Kubernetes)."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (
        ip.is_unspecified or ip.is_loopback or ip.is_link_local or (ip.is_multicast and str(ip).startswith(_LINK))
    )


_LINK = ("224.0.0.", "ff02")


# --- parts ------------------------------------------------------------------------------------------------------------


def family_of(address: str) -> str:
    return "IPv6" if ":" in address else "IPv4"


def _app_protocol(port: Port) -> Body:
    """As the exported Service has it. What is only concluded from a port's name is not said in its stead."""
    return {"appProtocol": port.declared} if port.declared else {}


def _import_port(port: Port) -> Body:
    name = {"name": port.name} if port.name else {}
    return {**name, "port": port.port, "protocol": port.protocol.value, **_app_protocol(port)}


def _service_port(port: Port, gateway_ports: Mapping[int, int]) -> Body:
    carried = port.protocol is Protocol.TCP
    target = gateway_ports.get(port.port, port.port) if carried else port.port
    return {**_import_port(port), "targetPort": target}


def _affinity(imported: Import) -> Body:
    if imported.session_affinity != "ClientIP":
        return {}
    return {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": imported.session_affinity_seconds or 10_800}}}


def _owned(imported: Import, site: Site, owner: str) -> list[Body]:
    """The garbage collector takes what its ServiceImport leaves behind."""
    api = f"{MCS}/{site.version}"
    return [{"apiVersion": api, "kind": "ServiceImport", "name": imported.name.name, "uid": owner}]


def _object(
    kind: Kind,
    api_version: str,
    service: ServiceName,
    name: str,
    metadata: Mapping[str, Any],
    site: Site,
    **content: Any,
) -> Wanted:
    annotations = {**metadata.get("annotations", {}), EPOCH: str(site.epoch)}
    body = {
        "apiVersion": api_version,
        "kind": kind.value,
        "metadata": {"name": name, "namespace": service.namespace, **metadata, "annotations": annotations},
        **content,
    }
    return Wanted(kind=kind, namespace=service.namespace, name=name, body=body, facts=facts(kind, body))


_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?\Z", re.ASCII)
_KEY_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?\Z", re.ASCII)
_KEY_PREFIX = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*\Z", re.ASCII)
_OURS = ("isthmus.io/", "app.kubernetes.io/managed-by")


def exported_metadata(imported: Import) -> tuple[dict[str, str], dict[str, str], tuple[str, ...]]:
    """(labels, annotations, keys left out): what the API server can take, and what is not ours to say."""
    left = []
    labels, annotations = {}, {}
    for key, value in sorted(imported.labels.items()):
        if _is_key(key) and _LABEL_VALUE.match(value) and not key.startswith(_OURS):
            labels[key] = value
        else:
            left.append(key)
    room = ANNOTATION_BYTES
    for key, value in sorted(imported.annotations.items()):
        size = len(key.encode()) + len(value.encode())
        if _is_key(key.lower()) and not key.startswith(_OURS) and size <= room:
            annotations[key] = value
            room -= size
        else:
            left.append(key)
    return labels, annotations, tuple(left)


def _is_key(key: str) -> bool:
    """A qualified name: an optional DNS prefix and a name."""
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > 253 or not _KEY_PREFIX.match(prefix)):
        return False
    return bool(_KEY_NAME.match(name))


def _chunks(values: Sequence[Endpoint], size: int) -> Iterable[Sequence[Endpoint]]:
    return (values[at : at + size] for at in range(0, len(values), size))
