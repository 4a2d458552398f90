"""What the API server has of the objects that are ours to write, reduced to what a decision needs.

Tens of thousands of objects stay in memory, so of each only a digest is kept of what it says, and the pairs of its
metadata as hashes: other controllers and people may add labels of their own.
"""

from __future__ import annotations

import enum
import hashlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from discovery.kube.types import MANAGER, MCS_SERVICE_NAME, Condition
from discovery.sources.manifests import MANAGED_BY
from federation.errors import InvalidInput

EPOCH = "isthmus.io/epoch"
"""Annotation: the epoch of the lease under which it was written last. It is no content."""
APPLIED = "isthmus.io/applied"
"""Annotation of a ServiceImport: a digest of the labels and annotations that we set, so that one is missed when it is
no longer to be there."""


class Kind(enum.StrEnum):
    """The kinds of objects that the agent writes for imports and exports."""

    NAMESPACE = "Namespace"
    IMPORT = "ServiceImport"
    SERVICE = "Service"
    SLICE = "EndpointSlice"
    EXPORT = "ServiceExport"


class Facts(NamedTuple):
    """`pairs`: hashes of labels, annotations and owners, 8 bytes each. `content`: a digest of all else that counts."""

    pairs: bytes
    content: bytes

    def covers(self, wanted: Facts) -> bool:
        """Whether the object says what is wanted; labels and annotations of others may be there, too."""
        return self.content == wanted.content and set(_split(self.pairs)) >= set(_split(wanted.pairs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One object; `epoch`: of the lease under which it was written last.

    The last fields are of ServiceImports (`clusters`, `ready`) and Services (the others).
    """

    kind: Kind
    namespace: str
    name: str
    uid: str
    resource_version: str
    facts: Facts
    ours: bool = True
    deleting: bool = False
    epoch: int = 0
    clusters: tuple[str, ...] = ()
    ready: Condition | None = None
    service: str = ""
    ips: tuple[str, ...] = ()
    ports: Mapping[int, int] = field(default_factory=dict)
    selects: bool = False

    @property
    def version(self) -> int:
        """resourceVersions of one kind are ordered, and are decimal numbers (KEP-5504)."""
        return int(self.resource_version) if self.resource_version.isdigit() else 0


class _Owner(msgspec.Struct):
    uid: str = ""


class _Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[_Owner] | None = None


class _Cluster(msgspec.Struct):
    cluster: str


class _Status(msgspec.Struct):
    clusters: list[_Cluster] | None = None
    conditions: list[Condition] | None = None


class _Object(msgspec.Struct, rename="camel"):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    spec: dict[str, Any] | None = None
    status: msgspec.Raw = msgspec.Raw(b"{}")
    address_type: str = ""
    endpoints: list[Any] | None = None
    ports: list[Any] | None = None


_object = msgspec.json.Decoder(_Object)
_status = msgspec.json.Decoder(_Status)
_canonical = msgspec.json.Encoder(order="sorted")

_SERVICE_FIELDS = (
    "type",
    "selector",
    "sessionAffinity",
    "ipFamilyPolicy",
    "externalName",
    "externalIPs",
    "publishNotReadyAddresses",
)
"""Of a derived Service; its addresses are the API server's to give, and what is not here is none of our business."""


def read(kind: Kind, data: bytes | msgspec.Raw) -> Held:
    """The object in `data`. Raises InvalidInput for what is none."""
    try:
        found = _object.decode(data)
        status = _status.decode(found.status) if kind is Kind.IMPORT else _Status()
    except msgspec.MsgspecError as error:
        raise InvalidInput(f"no {kind}: {error}") from error
    meta, spec = found.metadata, found.spec or {}
    labels = meta.labels or {}
    ready = next((c for c in status.conditions or () if c.type == "Ready"), None)
    of_service = kind is Kind.SERVICE
    if kind is Kind.SLICE:
        content = _of_slice(found.address_type, found.endpoints, found.ports)
    else:
        content = _of_spec(kind, spec)
    return Held(
        kind=kind,
        namespace=sys.intern(meta.namespace),
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        facts=_facts(labels, meta.annotations or {}, (o.uid for o in meta.owner_references or ()), content),
        ours=labels.get(MANAGED_BY) == MANAGER or APPLIED in (meta.annotations or {}),
        deleting=meta.deletion_timestamp is not None,
        epoch=_epoch(meta.annotations or {}),
        clusters=tuple(sys.intern(c.cluster) for c in status.clusters or ()),
        ready=ready,
        service=sys.intern(meta.name if kind in (Kind.IMPORT, Kind.EXPORT) else labels.get(MCS_SERVICE_NAME, "")),
        ips=tuple(_addresses(spec)) if of_service else (),
        ports=_targets(spec) if of_service else _NO_PORTS,
        selects=of_service and bool(spec.get("selector")),
    )


_NO_PORTS: Mapping[int, int] = {}


def _epoch(annotations: Mapping[str, str]) -> int:
    text = annotations.get(EPOCH, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def facts(kind: Kind, body: Mapping[str, Any]) -> Facts:
    """What `read` would find of an object that was written as `body`."""
    meta = body["metadata"]
    if kind is Kind.SLICE:
        content = _of_slice(body["addressType"], body["endpoints"], body["ports"])
    else:
        content = _of_spec(kind, body.get("spec") or {})
    owners = (owner["uid"] for owner in meta.get("ownerReferences", ()))
    return _facts(meta.get("labels", {}), meta.get("annotations", {}), owners, content)


def digest(value: object) -> str:
    """16 hexadecimal digits that stand for `value`."""
    return hashlib.blake2b(_canonical.encode(value), digest_size=8).hexdigest()


def _facts(labels: Mapping[str, str], annotations: Mapping[str, str], owners: Iterable[str], content: object) -> Facts:
    pairs = [f"l{k}={v}" for k, v in labels.items()]
    pairs += [f"a{k}={v}" for k, v in annotations.items() if k != EPOCH]
    pairs += [f"o{owner}" for owner in owners]
    hashes = b"".join(sorted([hashlib.blake2b(p.encode(), digest_size=8).digest() for p in pairs]))
    return Facts(hashes, hashlib.blake2b(_canonical.encode(_clean(content)), digest_size=16).digest())


def _of_slice(address_type: str, endpoints: list[Any] | None, ports: list[Any] | None) -> object:
    return [address_type, endpoints or [], ports or []]  # the API server answers null


def _of_spec(kind: Kind, spec: Mapping[str, Any]) -> object:
    if kind is Kind.IMPORT:
        return spec
    if kind is not Kind.SERVICE:
        return None
    content: dict[str, Any] = {key: spec.get(key) for key in _SERVICE_FIELDS}
    content["ports"] = sorted(map(_port, spec.get("ports") or ()))
    if spec.get("sessionAffinity") == "ClientIP":
        content["sessionAffinityConfig"] = spec.get("sessionAffinityConfig")
    return content


def _clean(value: Any) -> Any:
    """`value` without members that say nothing: a field that is absent and one that is empty are the same."""
    if isinstance(value, dict):
        return {k: c for k, v in value.items() if (c := _clean(v)) not in (None, "", [], {}, False)}
    return [_clean(v) for v in value] if isinstance(value, list | tuple) else value


def _port(port: Mapping[str, Any]) -> tuple[Any, ...]:
    at = port.get("port", 0)
    return (
        at,
        port.get("protocol") or "TCP",
        port.get("name") or "",
        str(port.get("targetPort") or at),
        port.get("appProtocol") or "",
    )


def _addresses(spec: Mapping[str, Any]) -> Iterable[str]:
    ips = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return (ip for ip in ips if isinstance(ip, str) and ip not in ("", "None"))


def _targets(spec: Mapping[str, Any]) -> Mapping[int, int]:
    return {
        p["port"]: p["targetPort"]
        for p in spec.get("ports") or ()
        if (p.get("protocol") or "TCP") == "TCP" and isinstance(p.get("targetPort"), int)
    }


def _split(pairs: bytes) -> Iterable[bytes]:
    return (pairs[at : at + 8] for at in range(0, len(pairs), 8))
