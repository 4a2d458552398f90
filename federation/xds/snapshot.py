"""The xDS resources of one Envoy at one moment: immutable, named, hashed.

Arrives: the protobuf messages that the pure build functions made. Leaves: a `Snapshot`, which `consistency` checks and
`server` publishes. A resource is serialised once, here, and travels as these bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from federation.errors import Conflict, InvalidInput
from federation.xds.references import Reference, references


class InconsistentSnapshot(Conflict):
    """A set of resources that Envoy could not live with; it is refused whole and the last good one stays."""

    code = "inconsistent_snapshot"


class TypeUrl(StrEnum):
    """The resource types, in the order in which additions are pushed; removals go the other way.

    Secrets come first: an update of one changes in place what clusters and listeners already use (a new peer's bundle
    has to be there before the first connection to that peer), and a new one is sent when Envoy asks for it anyway.
    """

    SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type's name
    CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    ENDPOINT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
    ROUTE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"

    @property
    def label(self) -> str:
        """A short name for logs and metrics: `cluster`, `endpoint` …"""
        return self.name.lower()

    @property
    def message_name(self) -> str:
        """The full name of the protobuf message."""
        return self.value.rpartition("/")[2]


_BY_MESSAGE = {kind.message_name: kind for kind in TypeUrl}
_REFER = frozenset({TypeUrl.CLUSTER, TypeUrl.LISTENER, TypeUrl.ROUTE})
_NAME_FIELD = {TypeUrl.ENDPOINT: "cluster_name"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One named resource: its serialised message and a version that is the hash of it.

    `references` are the other resources that it cannot do without; see `federation.xds.references`.
    """

    kind: TypeUrl
    name: str
    version: str
    body: bytes = field(repr=False)
    references: frozenset[Reference] = frozenset()

    @classmethod
    def of(cls, name: str, message: Any, *, previous: Resource | None = None) -> Resource:
        """`message` as the resource `name`; `previous` itself where nothing changed (that is the cheap way).

        Raises InvalidInput for a message of another type, or one that names itself differently.
        """
        kind = _BY_MESSAGE.get(message.DESCRIPTOR.full_name)
        if kind is None:
            raise InvalidInput(f"{message.DESCRIPTOR.full_name} is no resource that is served over xDS")
        own = getattr(message, _NAME_FIELD.get(kind, "name"))
        if own != name or not name:
            raise InvalidInput(f"the {kind.label} {name!r} calls itself {own!r}")
        body: bytes = message.SerializeToString(deterministic=True)
        if previous is not None and previous.kind is kind and previous.body == body:
            return previous
        needs = references(message) if kind in _REFER else frozenset()
        return cls(kind=kind, name=name, version=_hash(body), body=body, references=needs)

    @property
    def content(self) -> str:
        """The hash of the body alone, without the cluster's stamp."""
        return self.version.partition(".")[0]


Table = Mapping[str, Resource]
_NONE: Table = MappingProxyType({})
_STEPS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All resources of one Envoy, by type and name.

    The version of an endpoint resource carries a stamp of the cluster that uses it: a changed cluster warms anew and
    waits for its endpoints, so they count as changed too and are sent again, also after a reconnect in between.
    """

    tables: Mapping[TypeUrl, Table] = field(default_factory=dict)
    # Endpoint resource → the clusters that use it, sorted.
    _users: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    # The last steps that led here, the newest last: what stood before the step, and what the step touched.
    _mark: object = field(default_factory=object, repr=False, compare=False)
    _steps: tuple[tuple[object, tuple[tuple[TypeUrl, frozenset[str]], ...]], ...] = field(
        default=(), repr=False, compare=False
    )

    def touched_since(self, old: Snapshot) -> Mapping[TypeUrl, frozenset[str]] | None:
        """Names in which this may differ from `old`, by type: a few, whatever the number of resources.

        None when this was not made from `old`, or too many steps ago: then the tables have to be compared.
        """
        touched: dict[TypeUrl, frozenset[str]] = {}
        if old._mark is self._mark:
            return touched
        for before, names in reversed(self._steps):
            for kind, some in names:
                touched[kind] = touched.get(kind, frozenset()) | some
            if before is old._mark:
                return touched
        return None

    @classmethod
    def of(cls, resources: Mapping[TypeUrl, Iterable[Resource]]) -> Snapshot:
        """The snapshot of exactly these resources; raises InconsistentSnapshot for a name that stands twice."""
        snapshot = cls()
        for kind in TypeUrl:
            if kind in resources:
                snapshot = snapshot.with_(kind, put=resources[kind])
        return snapshot

    @classmethod
    def built(cls, messages: Mapping[str, Iterable[tuple[str, Any]]], *, previous: Snapshot | None = None) -> Snapshot:
        """The snapshot of what a build function returned: type URL → (name, message).

        `previous` lends its resources where nothing changed, so that only what changed is walked for references. Raises
        InvalidInput for an unknown type, InconsistentSnapshot for a name that stands twice.
        """
        resources: dict[TypeUrl, list[Resource]] = {}
        for url, pairs in messages.items():
            try:
                kind = TypeUrl(url)
            except ValueError as error:
                raise InvalidInput(f"{url!r} is no resource type that is served over xDS") from error
            old = previous.table(kind) if previous is not None else _NONE
            resources[kind] = [Resource.of(name, message, previous=_plain(old.get(name))) for name, message in pairs]
        return cls.of(resources)

    def table(self, kind: TypeUrl) -> Table:
        """The resources of one type by name."""
        return self.tables.get(kind, _NONE)

    def get(self, kind: TypeUrl, name: str) -> Resource | None:
        return self.table(kind).get(name)

    def names(self, kind: TypeUrl) -> frozenset[str]:
        return frozenset(self.table(kind))

    def with_(self, kind: TypeUrl, *, put: Iterable[Resource] = (), remove: Iterable[str] = ()) -> Snapshot:
        """A snapshot with some resources of one type replaced, added or left out; the rest is shared.

        Raises InconsistentSnapshot when `put` names one twice, InvalidInput for a resource of another type.
        """
        table = dict(self.table(kind))
        gone = tuple(remove)
        for name in gone:
            table.pop(name, None)
        seen: set[str] = set()
        for resource in put:
            if resource.kind is not kind:
                raise InvalidInput(f"{resource.name!r} is a {resource.kind.label}, not a {kind.label}")
            if resource.name in seen:
                raise InconsistentSnapshot(f"the {kind.label} {resource.name!r} stands twice in one snapshot")
            seen.add(resource.name)
            table[resource.name] = resource
        tables = dict(self.tables)
        users = self._users
        touched = [(kind, frozenset((*seen, *gone)))]
        if kind is TypeUrl.CLUSTER:
            users = dict(users)
            endpoints = dict(self.table(TypeUrl.ENDPOINT))
            stamped = _changed_users(users, self.table(kind), table, {*seen, *gone})
            touched.append((TypeUrl.ENDPOINT, frozenset(stamped)))
            for name in stamped:
                if name in endpoints:
                    endpoints[name] = _stamped(endpoints[name], _stamp(table, users.get(name, ())))
            tables[TypeUrl.ENDPOINT] = endpoints
        elif kind is TypeUrl.ENDPOINT:
            for name in seen:
                table[name] = _stamped(table[name], _stamp(self.table(TypeUrl.CLUSTER), users.get(name, ())))
        tables[kind] = table
        steps = (*self._steps, (self._mark, tuple(touched)))[-_STEPS:]
        return Snapshot(tables=tables, _users=users, _steps=steps)

    @property
    def digest(self) -> str:
        """A hash over every type, name and version: equal for equal snapshots, however they came to be."""
        digest = hashlib.blake2b(digest_size=16)
        for kind in TypeUrl:
            for name, resource in sorted(self.table(kind).items()):
                digest.update(f"{kind}\0{name}\0{resource.version}\n".encode())
        return digest.hexdigest()


def _hash(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=12).hexdigest()


def _plain(resource: Resource | None) -> Resource | None:
    """The resource as `Resource.of` made it."""
    return None if resource is None else _stamped(resource, "")


def _stamped(resource: Resource, stamp: str) -> Resource:
    version = f"{resource.content}.{stamp}" if stamp else resource.content
    return resource if version == resource.version else replace(resource, version=version)


def _changed_users(users: dict[str, tuple[str, ...]], before: Table, after: Table, clusters: Iterable[str]) -> set[str]:
    """Bring `users` up to date with what happened to `clusters`; the endpoint resources that they use or used."""
    touched: set[str] = set()
    for cluster in clusters:
        old, new = _endpoints(before.get(cluster)), _endpoints(after.get(cluster))
        for name in old - new:
            users[name] = tuple(user for user in users[name] if user != cluster)
        for name in new - old:
            users[name] = tuple(sorted((*users.get(name, ()), cluster)))
        touched |= old | new
    return touched


def _endpoints(cluster: Resource | None) -> frozenset[str]:
    """The endpoint resources that a cluster uses."""
    references = cluster.references if cluster is not None else ()
    return frozenset(r.name for r in references if r.kind == TypeUrl.ENDPOINT)


def _stamp(clusters: Table, users: Iterable[str]) -> str:
    """A stamp of the clusters that use one endpoint resource."""
    versions = "".join(clusters[user].version for user in users)
    return versions if len(versions) <= 24 else _hash(versions.encode())
