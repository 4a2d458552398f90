"""plan(desired, actual): what has to be written so that the objects of one service name are as they should be.

Pure. It gives what can be written now: a ServiceImport is made when its address is known, nothing can be owned by it
while it has no uid, and an object that was just written is looked at again before its status is. So plan and apply in
turns end with nothing to do.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from discovery.kube.resources import MCS
from discovery.kube.types import Condition
from discovery.mcs.conditions import ExportFacts, State, export_states, same, settle
from discovery.mcs.desired import (
    Body,
    Desired,
    Namespace,
    Site,
    Wanted,
    derived_service,
    exported_metadata,
    namespace_object,
    service_import,
    slices,
)
from discovery.mcs.held import Held, Kind
from federation.model.cluster import Problem
from federation.model.ids import ServiceName
from federation.model.service import Import


class Verb(enum.StrEnum):
    """How a write is made: CREATE takes nothing from others, APPLY and STATUS are about the version that was seen."""

    CREATE = "create"
    APPLY = "apply"
    STATUS = "status"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One request. `uid` and `resource_version` are preconditions; `wanted` is what the object should say then."""

    verb: Verb
    kind: Kind
    namespace: str
    name: str
    body: Body = field(default_factory=dict)
    uid: str = ""
    resource_version: str = ""
    wanted: Wanted | None = None

    def __str__(self) -> str:
        return f"{self.verb} {self.kind} {self.namespace}/{self.name}".rstrip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Actual:
    """What there is of one service name."""

    import_: Held | None = None
    service: Held | None = None
    slices: Mapping[str, Held] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldExport:
    """A ServiceExport and the conditions that stand in it, by type."""

    name: ServiceName
    uid: str
    resource_version: str
    generation: int
    conditions: Mapping[str, Condition]


def plan(desired: Desired, actual: Actual, site: Site, *, now: str, stamp: bool = False) -> tuple[Write, ...]:
    """The writes for an import; `now` is RFC 3339.

    `stamp`: what was written under another lease is written again under this one. Its resourceVersion is then another
    one, so that nothing counts any more that an earlier leader, which does not know, is about to write.
    """
    if desired.namespace is Namespace.TERMINATING:
        return ()  # all that is in it goes with it
    if desired.import_ is None:
        return tuple(_take_away(desired, actual))
    if desired.namespace is Namespace.ABSENT:
        return (_create(namespace_object(desired.name.namespace)),) if site.create_namespaces else ()
    held = actual.import_
    if held is None:
        return (_first(desired, desired.import_, actual, site),)
    if held.deleting:
        return ()  # a finalizer of somebody holds it; its end is a reason to plan again
    if not held.ours:
        return tuple(_delete(h) for h in _derived(actual))
    return tuple(_writes(desired, desired.import_, actual, held, site, now, stamp))


def unstamped(actual: Actual, epoch: int) -> bool:
    """Whether something of ours was written under another lease last."""
    held = (actual.import_, actual.service, *actual.slices.values())
    return any(h is not None and h.ours and h.epoch != epoch for h in held)


def foreign(desired: Desired, actual: Actual) -> Problem | None:
    """A ServiceImport of another controller stands in the way."""
    if desired.import_ is None or actual.import_ is None or actual.import_.ours:
        return None
    return Problem(
        "import_not_ours",
        f"ServiceImport {desired.name}",
        "another controller wrote it, so it is left alone; delete it, or end that controller, to import the service",
    )


def plan_export(held: HeldExport, facts: ExportFacts, api_version: str, *, now: str) -> Write | None:
    """The status of a ServiceExport, None where it says all that it should."""
    states = export_states(facts, held.conditions, generation=held.generation)
    conditions = settle(states, held.conditions, now=now, generation=held.generation)
    if same(conditions, held.conditions):
        return None
    body = {
        "apiVersion": api_version,
        "kind": Kind.EXPORT.value,
        "metadata": {"name": held.name.name, "namespace": held.name.namespace},
        "status": {"conditions": [_condition(c) for c in conditions]},
    }
    return Write(
        verb=Verb.STATUS,
        kind=Kind.EXPORT,
        namespace=held.name.namespace,
        name=held.name.name,
        body=body,
        uid=held.uid,
        resource_version=held.resource_version,
    )


def _first(desired: Desired, imported: Import, actual: Actual, site: Site) -> Write:
    """The derived Service comes first, so that the ServiceImport is complete when it is seen; it is owned later."""
    service = derived_service(imported, desired, site, owner="")
    if service is not None and actual.service is None and desired.patient:
        return _create(service)
    return _create(service_import(imported, site))


def _writes(
    desired: Desired, imported: Import, actual: Actual, held: Held, site: Site, now: str, stamp: bool
) -> Iterator[Write]:
    wanted = service_import(imported, site)
    service = derived_service(imported, desired, site, owner=held.uid)
    epoch = site.epoch if stamp else None
    if not _says(held, wanted, epoch):
        yield _apply(wanted, held)
    elif held.ready is None and service is not None and actual.service is None and desired.patient:
        pass  # it is about to have an address: one status instead of two
    elif (status := _status(imported, actual, held, site, now)) is not None:
        yield status
    if service is not None:
        yield from _one(service, actual.service, epoch)
    elif actual.service is not None and not actual.service.deleting:
        yield _delete(actual.service)
    there = dict(actual.slices)
    for one in slices(imported, desired, site, owner=held.uid):
        yield from _one(one, there.pop(one.name, None), epoch)
    yield from (_delete(h) for _, h in sorted(there.items()) if not h.deleting)


def _says(held: Held, wanted: Wanted, epoch: int | None) -> bool:
    return held.facts.covers(wanted.facts) and epoch in (None, held.epoch)


def _one(wanted: Wanted, held: Held | None, epoch: int | None) -> Iterator[Write]:
    if held is None:
        yield _create(wanted)
    elif held.selects and not held.deleting:
        # Somebody gave it a selector, and Kubernetes made EndpointSlices for that, which stay without it: they go with
        # the Service only. The next one is given the same address.
        yield _delete(held)
    elif not held.deleting and not _says(held, wanted, epoch):
        yield _apply(wanted, held)


def _take_away(desired: Desired, actual: Actual) -> Iterator[Write]:
    held = actual.import_
    if held is not None and held.ours:
        if desired.settled is not None and not desired.settled.issuperset(held.clusters):
            return  # what one of them exports is not known yet
        if not held.deleting:
            yield _delete(held)
    yield from (_delete(h) for h in _derived(actual))


def _derived(actual: Actual) -> Iterator[Held]:
    if actual.service is not None and not actual.service.deleting:
        yield actual.service
    yield from (h for _, h in sorted(actual.slices.items()) if not h.deleting)


def _status(imported: Import, actual: Actual, held: Held, site: Site, now: str) -> Write | None:
    clusters = tuple(b.cluster for b in imported.backends)
    known = {"Ready": held.ready} if held.ready is not None else {}
    (ready,) = settle([import_state(imported, actual.service, site)], known, now=now)
    if clusters == held.clusters and same([ready], known):
        return None
    body = {
        "apiVersion": f"{MCS}/{site.version}",
        "kind": Kind.IMPORT.value,
        "metadata": {"name": held.name, "namespace": held.namespace},
        "status": {"clusters": [{"cluster": c} for c in clusters], "conditions": [_condition(ready)]},
    }
    return Write(
        verb=Verb.STATUS,
        kind=Kind.IMPORT,
        namespace=held.namespace,
        name=held.name,
        body=body,
        uid=held.uid,
        resource_version=held.resource_version,
    )


def import_state(imported: Import, service: Held | None, site: Site) -> State:
    """The condition Ready of a ServiceImport."""
    left = exported_metadata(imported)[2]
    note = f"left out, because the API cannot take them or they are ours: {', '.join(left)[:400]}" if left else ""
    if imported.headless:
        families = imported.ip_families
        if families and not set(families) & set(site.families):
            missing = f"its endpoints are {', '.join(families)}, this cluster has {', '.join(site.families)}"
            return State("Ready", "False", "IPFamilyNotSupported", missing)
        if apart := ", ".join(b.cluster for b in imported.backends if b.ready and not b.endpoints):
            told = f"the endpoints in {apart} are on another network: without a sidecar nobody here reaches them"
            note = f"{told}; {note}" if note else told
        return State("Ready", "True", "Ready", note)
    if not imported.ports:
        return State("Ready", "False", "Pending", "the service has no port, so there is nothing to give an address to")
    if service is None or not service.ips or not imported.ips:
        return State("Ready", "False", "Pending", "it has no ClusterSetIP yet")
    if not site.gateways:
        return State("Ready", "False", "Pending", "no gateway of this cluster is known at an address that pods reach")
    return State("Ready", "True", "Ready", note)


def _condition(condition: Condition) -> Body:
    made: Body = {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": condition.last_transition_time,
    }
    if condition.observed_generation:
        made["observedGeneration"] = condition.observed_generation
    return made


def _create(wanted: Wanted) -> Write:
    return Write(
        verb=Verb.CREATE,
        kind=wanted.kind,
        namespace=wanted.namespace,
        name=wanted.name,
        body=wanted.body,
        wanted=wanted,
    )


def _apply(wanted: Wanted, held: Held) -> Write:
    return Write(
        verb=Verb.APPLY,
        kind=wanted.kind,
        namespace=wanted.namespace,
        name=wanted.name,
        body=_kept(wanted, held),
        uid=held.uid,
        resource_version=held.resource_version,
        wanted=wanted,
    )


def _kept(wanted: Wanted, held: Held) -> Body:
    """A Service keeps the addresses that it has."""
    if wanted.kind is not Kind.SERVICE or not held.ips:
        return wanted.body
    spec = {**wanted.body["spec"], "clusterIP": held.ips[0], "clusterIPs": list(held.ips)}
    families = ["IPv6" if ":" in ip else "IPv4" for ip in held.ips]
    spec["ipFamilies"] = families + [f for f in spec.get("ipFamilies", ()) if f not in families]
    if spec["ipFamilyPolicy"] == "SingleStack":
        spec |= {"clusterIPs": spec["clusterIPs"][:1], "ipFamilies": families[:1]}
    return {**wanted.body, "spec": spec}


def _delete(held: Held) -> Write:
    return Write(
        verb=Verb.DELETE,
        kind=held.kind,
        namespace=held.namespace,
        name=held.name,
        uid=held.uid,
        resource_version=held.resource_version,
    )
