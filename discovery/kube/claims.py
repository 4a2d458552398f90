"""What a Kubernetes cluster exports, from stores of its objects: builds only the services whose objects changed.

Arrives: keys that changed in the stores of discovery.kube.watch. Leaves: exported services (discovery.sources.convert)
and what is wrong with them. No I/O; a build costs what changed, not what there is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime

from discovery.kube.types import HeldSlice, Node, Service, ServiceExport
from discovery.kube.watch import Key, Store
from discovery.sources.convert import Refused, convert, unsupported, with_slices
from discovery.sources.manifests import EndpointSlice
from federation.errors import IsthmusError
from federation.model.address import collapsed
from federation.model.cluster import Problem
from federation.model.ids import ServiceName
from federation.model.service import Locality
from federation.model.service import Service as Claim
from federation.model.shared import SharedMap

_LAST_NS = (1 << 63) - 1


class Claims:
    """The exports of a cluster. `on_dirty` is called when `build` has something to do."""

    def __init__(self, *, locality: Locality) -> None:
        self.services: Store[Service] = Store(self._services_changed)
        self.exports: Store[ServiceExport] = Store(self._exports_changed)
        self.slices: Store[HeldSlice] = Store(self._slices_changed)
        self.nodes: Store[Node] = Store(self._nodes_changed)
        self.dirty: set[Key] = set()
        self.claims: SharedMap[ServiceName, Claim] = SharedMap()
        self.names: SharedMap[ServiceName, None] = SharedMap()
        """Every Service, exported or not, that is not being deleted."""
        self._locality = locality
        self._places: dict[str, Locality] = {}
        self._of_service: dict[Key, set[Key]] = {}
        self._service_of: dict[Key, str] = {}
        self._unplaced: dict[str, set[Key]] = {}
        self._made_of: dict[Key, tuple[ServiceExport, Service]] = {}
        """What a claim was made of besides slices: those change a thousand times as often."""
        self._problems: dict[Key, tuple[Problem, ...]] = {}
        self._shown: tuple[Problem, ...] | None = ()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with exports, in the order of their names."""
        if self._shown is None:
            self._shown = tuple(p for key in sorted(self._problems) for p in self._problems[key])
        return self._shown

    def problems_of(self, key: Key) -> tuple[Problem, ...]:
        """What is wrong with one export."""
        return self._problems.get(key, ())

    def take_dirty(self) -> list[Key]:
        """What is to be built; it is not dirty any more. (A set that was large once is slow to take single keys of.)"""
        taken, self.dirty = list(self.dirty), set()
        return taken

    def build(self, keys: Iterable[Key]) -> frozenset[ServiceName]:
        """Build the exports of `keys`; the names of those that were built anew."""
        put: dict[ServiceName, Claim] = {}
        gone: list[ServiceName] = []
        built: set[ServiceName] = set()
        for key in keys:
            name = ServiceName(*key)
            held = self.claims.get(name)
            claim, problems = self._claim(key, held)
            self._note(key, problems)
            if claim is None:
                self._made_of.pop(key, None)
                if held is not None:
                    built.add(name)
                    gone.append(name)
                continue
            built.add(name)
            if claim is not held and claim != held:
                put[name] = claim
        if put or gone:
            self.claims = self.claims.with_(put, gone)
        return frozenset(built)

    def parts(self, key: Key) -> tuple[ServiceExport, Service | None, list[HeldSlice]] | None:
        """The objects that an export is made of; None where nothing is exported."""
        export = self.exports.objects.get(key)
        if export is None or export.deleting:
            return None
        return export, self.services.objects.get(key), self._slices_of(key)

    def preview(self, key: Key, export: ServiceExport) -> tuple[Claim | None, tuple[Problem, ...]]:
        """What would be claimed by this export in place of what there is, and what would be wrong with it."""
        return self._claim_of(key, export, self.services.objects.get(key), self._slices_of(key))

    def _slices_of(self, key: Key) -> list[HeldSlice]:
        return [self.slices.objects[at] for at in sorted(self._of_service.get(key, ()))]

    def _claim(self, key: Key, held: Claim | None) -> tuple[Claim | None, tuple[Problem, ...]]:
        """What is claimed, and what is wrong with it; `held`: what was claimed last."""
        parts = self.parts(key)
        if parts is None:
            return None, ()
        export, service, slices = parts
        made_of = self._made_of.get(key)
        if (
            held is not None
            and made_of is not None
            and made_of[0] is export
            and made_of[1] is service
            and key not in self._problems
            and not any(s.invalid for s in slices)
        ):
            unpacked = self._unpack(key, slices)
            return with_slices(held, made_of[1], unpacked, locality=self._locality, nodes=self._places), ()
        claim, problems = self._claim_of(key, export, service, slices)
        if claim is not None and service is not None:
            self._made_of[key] = (export, service)
        return claim, problems

    def _unpack(self, key: Key, slices: Iterable[HeldSlice]) -> list[EndpointSlice]:
        """Those that are valid; notes nodes of which it is not known where they are."""
        unpacked = [s.unpack() for s in slices if not s.invalid]
        for one in unpacked:
            for endpoint in one.endpoints or ():
                if endpoint.node and endpoint.node not in self._places:
                    self._unplaced.setdefault(endpoint.node, set()).add(key)
        return unpacked

    def _claim_of(
        self, key: Key, export: ServiceExport, service: Service | None, slices: list[HeldSlice]
    ) -> tuple[Claim | None, tuple[Problem, ...]]:
        where = f"ServiceExport {key[0]}/{key[1]}"
        if service is None or service.deleting:
            why = "there is no such Service" if service is None else "its Service is being deleted"
            return None, (Problem("no_service", where, f"{key[0]}/{key[1]} is exported and {why} (NoService)"),)
        problems = [
            Problem("endpoints_refused", f"EndpointSlice {s.namespace}/{s.name}", f"is left out: {s.invalid}")
            for s in slices
            if s.invalid
        ]
        try:
            claim = convert(
                service,
                export,
                self._unpack(key, slices),
                exported_at_ns=_nanoseconds(export.metadata.creation_timestamp),
                locality=self._locality,
                nodes=self._places,
            )
        except Refused as error:
            return None, (Problem(error.code, where, error.detail),)
        except IsthmusError as error:  # the annotation that says who may see it
            return None, (Problem("invalid_consumers", where, f"nobody sees it: {error}"),)
        problems += [Problem("unsupported_protocol", where, told) for told in unsupported(service)]
        return claim, tuple(problems)

    def _note(self, key: Key, problems: tuple[Problem, ...]) -> None:
        if problems != self._problems.get(key, ()):
            self._shown = None
            if problems:
                self._problems[key] = problems
            else:
                del self._problems[key]

    # --- what changed ------------------------------------------------------------------------------------------------

    def _services_changed(self, keys: Collection[Key]) -> None:
        new: dict[ServiceName, None] = {}
        lost: list[ServiceName] = []
        for key in keys:
            service, name = self.services.objects.get(key), ServiceName(*key)
            if service is None or service.deleting:
                lost.append(name)
            elif name not in self.names:
                new[name] = None
        if new or lost:
            self.names = self.names.with_(new, lost)
        self._touch(keys)

    def _exports_changed(self, keys: Collection[Key]) -> None:
        self.dirty.update(keys)

    def _slices_changed(self, keys: Collection[Key]) -> None:
        for key in keys:
            slice_ = self.slices.objects.get(key)
            old, new = self._service_of.get(key, ""), slice_.service if slice_ else ""
            if old != new:
                if old:
                    siblings = self._of_service[(key[0], old)]
                    siblings.discard(key)
                    if not siblings:
                        del self._of_service[(key[0], old)]
                    self._touch([(key[0], old)])
                    del self._service_of[key]
                if new:
                    self._of_service.setdefault((key[0], new), set()).add(key)
                    self._service_of[key] = new
            if new:
                self._touch([(key[0], new)])

    def _nodes_changed(self, keys: Collection[Key]) -> None:
        """A node that comes matters to those that waited for it; one that moves, to all; one that goes, to nobody: its
        endpoints are going, too."""
        for _, name in keys:
            node = self.nodes.objects.get(("", name))
            if node is None:
                self._places.pop(name, None)
                continue
            held = self._places.get(name)
            if held != node.locality:
                self._places[name] = node.locality
                if held is not None:
                    self.dirty.update(self.exports.objects)
            self._touch(self._unplaced.pop(name, ()))

    def _touch(self, keys: Iterable[Key]) -> None:
        self.dirty.update(key for key in keys if key in self.exports.objects)


def places(nodes: Mapping[Key, Node]) -> dict[str, tuple[str, str]]:
    """name → (region, zone) of the nodes that say where they are."""
    return {n.name: (n.locality.region, n.locality.zone) for n in nodes.values() if n.locality != Locality()}


def pod_ranges(nodes: Iterable[Node]) -> tuple[str, ...]:
    """From which all pods have their addresses, in as few networks as say the same."""
    return collapsed(text for node in nodes for text in node.pods)


def _nanoseconds(created: datetime | None) -> int:
    """An API server sets creationTimestamp, by its clock, on everything; a wrong clock loses conflicts, no more."""
    if created is None:
        return _LAST_NS
    utc = created if created.tzinfo else created.replace(tzinfo=UTC)
    return min(int(utc.timestamp()) * 1_000_000_000 + utc.microsecond * 1000, _LAST_NS)
