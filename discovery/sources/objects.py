"""All manifests of a folder, indexed by service; builds only the services whose manifests changed.

Arrives: what each file holds (discovery.sources.parse). Leaves: exported services (discovery.sources.convert) and what
is wrong with them. No I/O. A build costs what changed, not what there is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import NamedTuple, TypeAlias

from discovery.sources.convert import Refused, convert, unsupported
from discovery.sources.manifests import (
    EndpointSlice,
    Manifest,
    Placed,
    Service,
    ServiceExport,
    identity,
    service_of,
)
from federation.model.cluster import Problem
from federation.model.ids import ServiceName
from federation.model.service import Locality
from federation.model.service import Service as Claim
from federation.model.shared import SharedMap

Identity: TypeAlias = tuple[str, str, str]


class Built(NamedTuple):
    """`names` of all services, None where these did not change; `dirty`: exports that may differ from before."""

    exports: Mapping[ServiceName, Claim]
    names: Collection[ServiceName] | None
    problems: tuple[Problem, ...]
    dirty: frozenset[ServiceName]


class Objects:
    """The manifests of all files. An object that two files hold is taken from the file whose name sorts first."""

    def __init__(self, *, locality: Locality, first_seen: dict[str, int] | None = None) -> None:
        """`first_seen`: "<namespace>/<service>" → when its export was first seen, ns; for exports that do not say."""
        self._locality = locality
        self.first_seen = dict(first_seen or {})
        self._files: dict[str, dict[Identity, Placed]] = {}
        self._mtimes: dict[str, int] = {}
        self._holders: dict[Identity, dict[str, Placed]] = {}
        self._contested: set[Identity] = set()
        self._slices: dict[ServiceName, set[Identity]] = {}
        self._dirty: set[ServiceName] = set()
        self._exports: SharedMap[ServiceName, Claim] = SharedMap()
        self._names: SharedMap[ServiceName, None] = SharedMap()
        self._problems: dict[ServiceName, tuple[Problem, ...]] = {}
        self._shown: tuple[Problem, ...] | None = ()  # all problems; None: to be put together anew

    def put(self, file: str, manifests: tuple[Placed, ...], *, mtime_ns: int) -> None:
        """`file` now holds exactly `manifests`."""
        old = self._files.get(file, {})
        new = {identity(placed.manifest): placed for placed in manifests}
        self._files[file] = new
        self._mtimes[file] = mtime_ns
        for key in old.keys() - new.keys():
            self._place(key, file, None)
        for key, placed in new.items():
            if old.get(key) != placed:
                self._place(key, file, placed)

    def remove(self, file: str) -> None:
        """`file` and all that it held is gone."""
        for key in self._files.pop(file, {}):
            self._place(key, file, None)
        self._mtimes.pop(file, None)

    def build(self) -> Built:
        """Build what is dirty."""
        put: dict[ServiceName, Claim] = {}
        gone: list[ServiceName] = []
        new: dict[ServiceName, None] = {}
        lost: list[ServiceName] = []
        for name in self._dirty:
            known = self._winner(("Service", name.namespace, name.name)) is not None
            if known and name not in self._names:
                new[name] = None
            elif not known and name in self._names:
                lost.append(name)
            claim = self._build(name)
            held = self._exports.get(name)
            if claim is None:
                gone.append(name)
            elif claim != held:
                put[name] = claim
        built, self._dirty = frozenset(self._dirty), set()
        if put or gone:
            self._exports = self._exports.with_(put, gone)
        if new or lost:
            self._names = self._names.with_(new, lost)
        if self._shown is None:
            problems = [p for name in sorted(self._problems) for p in self._problems[name]]
            problems += [p for key in sorted(self._contested) for p in self._duplicates(key)]
            self._shown = tuple(problems)
        return Built(self._exports, self._names if new or lost else None, self._shown, built)

    def find(self, kind: str, name: ServiceName) -> tuple[str, Placed] | None:
        """The file and the manifest that count for (kind, name)."""
        return self._winner((kind, name.namespace, name.name))

    def preview(
        self, name: ServiceName, export: ServiceExport, *, where: str
    ) -> tuple[Claim | None, tuple[Problem, ...]]:
        """What would be claimed of `name` by this export in place of what there is, and what would be wrong with it."""
        created = export.metadata.creation_timestamp
        at = _nanoseconds(created) if created is not None else self.first_seen.get(str(name), 0)
        return self._claim_of(name, export, where, at)

    def holds(self, file: str) -> tuple[Placed, ...]:
        """What `file` holds."""
        return tuple(self._files.get(file, {}).values())

    def _place(self, key: Identity, file: str, placed: Placed | None) -> None:
        before = self._winner(key)
        holders = self._holders.setdefault(key, {})
        if placed is None:
            holders.pop(file, None)
            if not holders:
                del self._holders[key]
        else:
            holders[file] = placed
        if len(holders) > 1 or key in self._contested:
            (self._contested.add if len(holders) > 1 else self._contested.discard)(key)
            self._shown = None
        after = self._winner(key)
        old = before[1].manifest if before else None
        new = after[1].manifest if after else None
        if old == new and before and after and before[0] == after[0] and before[1].line == after[1].line:
            return
        for manifest, is_new in ((old, False), (new, True)):
            name = service_of(manifest) if manifest is not None else None
            if name is None:
                continue
            if isinstance(manifest, EndpointSlice):
                slices = self._slices.setdefault(name, set())
                (slices.add if is_new else slices.discard)(key)
                if not slices:
                    del self._slices[name]
            self._dirty.add(name)

    def _winner(self, key: Identity) -> tuple[str, Placed] | None:
        holders = self._holders.get(key)
        if not holders:
            return None
        file = min(holders) if len(holders) > 1 else next(iter(holders))
        return file, holders[file]

    def _manifest(self, key: Identity) -> tuple[str, Manifest | None]:
        found = self._winner(key)
        return (f"{found[0]}:{found[1].line}", found[1].manifest) if found else ("", None)

    def _build(self, name: ServiceName) -> Claim | None:
        """What is claimed of `name`, None where nothing is; notes what is wrong with it."""
        claim, problems = self._claim(name)
        if problems != self._problems.get(name, ()):
            self._shown = None
            if problems:
                self._problems[name] = problems
            else:
                del self._problems[name]
        return claim

    def _claim(self, name: ServiceName) -> tuple[Claim | None, tuple[Problem, ...]]:
        where, export = self._manifest(("ServiceExport", name.namespace, name.name))
        if not isinstance(export, ServiceExport):
            self.first_seen.pop(str(name), None)
            return None, ()
        return self._claim_of(name, export, where, self._exported_at(name, export, where.rpartition(":")[0]))

    def _claim_of(
        self, name: ServiceName, export: ServiceExport, where: str, exported_at_ns: int
    ) -> tuple[Claim | None, tuple[Problem, ...]]:
        at, service = self._manifest(("Service", name.namespace, name.name))
        if not isinstance(service, Service):
            detail = f"{name} is exported and there is no such Service (NoService)"
            return None, (Problem("no_service", where, detail),)
        slices = [self._manifest(key)[1] for key in sorted(self._slices.get(name, ()))]
        try:
            claim = convert(
                service,
                export,
                [s for s in slices if isinstance(s, EndpointSlice)],
                exported_at_ns=exported_at_ns,
                locality=self._locality,
            )
        except Refused as error:
            return None, (Problem(error.code, at, f"{name}: {error.detail}"),)
        return claim, tuple(Problem("unsupported_protocol", at, f"{name}: {told}") for told in unsupported(service))

    def _exported_at(self, name: ServiceName, export: ServiceExport, file: str) -> int:
        """The export's creationTimestamp; else when its file was written, as first seen; stable from then on."""
        created = export.metadata.creation_timestamp
        if created is not None:
            self.first_seen.pop(str(name), None)
            return _nanoseconds(created)
        return self.first_seen.setdefault(str(name), self._mtimes.get(file, 0))

    def _duplicates(self, key: Identity) -> list[Problem]:
        kind, namespace, name = key
        holders = self._holders[key]
        first, *others = sorted(holders)
        return [
            Problem(
                "duplicate_object", f"{file}:{holders[file].line}", f"{kind} {namespace}/{name} is taken from {first}"
            )
            for file in others
        ]


def _nanoseconds(created: datetime) -> int:
    utc = created if created.tzinfo else created.replace(tzinfo=UTC)
    return int(utc.timestamp()) * 1_000_000_000 + utc.microsecond * 1000
