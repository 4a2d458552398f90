"""What there should be of an import in a datacenter, put together from the view, the gateways and the names of others.

No I/O: discovery.consul.imports.plan compares it with what is registered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from discovery.consul.imports.actual import Actual
from discovery.consul.imports.desired import Instance, Site, instances
from discovery.consul.imports.gateways import Gateways
from discovery.consul.imports.names import Book, claims
from discovery.consul.imports.plan import Change, foreign, plan
from discovery.consul.imports.settings import WriteSettings
from discovery.view import ClusterView
from federation.aio.clock import Clock
from federation.errors import Conflict, InvalidName
from federation.model.cluster import Problem
from federation.model.ids import ServiceName
from federation.model.service import Port

FREED_SECONDS = 300.0
"""A name that somebody else had is taken when he has been gone for so long: a service that is only restarted must not
send its callers to another one meanwhile."""
_STILL = float("inf")


class NotOurs(Conflict):
    """Something that is needed is registered by somebody else."""

    code = "import_not_ours"


class Verdict(NamedTuple):
    """What is to be done about an import. `problem`: why it is not all there; `rest`: seconds until the next look."""

    changes: tuple[Change, ...]
    problem: Problem | None
    rest: float


class Wants:
    """`on_concerned` gets imports whose names are had by others now."""

    def __init__(
        self,
        settings: WriteSettings,
        view: ClusterView,
        actual: Actual,
        gateways: Gateways,
        *,
        namespace: str,
        cluster: str,
        on_concerned: Callable[[Collection[ServiceName]], None],
        clock: Clock,
    ) -> None:
        self._settings, self._view, self._actual, self._gateways = settings, view, actual, gateways
        self._cluster, self._on_concerned, self._clock = cluster, on_concerned, clock
        self._rule = settings.rule(namespace)
        self._book = Book(self._rule)
        self._withheld: dict[str, float] = {}  # names that somebody else had when they were wanted; until when
        self._others: frozenset[str] | None = None

    # --- the names of others -----------------------------------------------------------------------------------------

    @property
    def known(self) -> bool:
        """Whether it is known which names others have."""
        return self._others is not None

    def forget_others(self) -> None:
        """It is not known any more."""
        self._others = None

    def others(self, found: frozenset[str]) -> set[ServiceName]:
        """Others register services under these names; the imports that are concerned."""
        before, self._others = self._others, found
        if before is None:
            return self.all()
        concerned: set[ServiceName] = set()
        for service in before ^ found:
            if service in self._withheld:
                self._withheld[service] = self._clock.monotonic() + FREED_SECONDS
            concerned |= self._book.claimants(service)
        return concerned

    # --- one import --------------------------------------------------------------------------------------------------

    def all(self) -> set[ServiceName]:
        """All imports, and what is registered of former ones."""
        return self._actual.names() | self._view.imports.keys()

    def claim(self, name: ServiceName) -> tuple[Mapping[str, Port], Problem | None]:
        """The names that the import would have, told to the book."""
        imported = self._view.imports.get(name)
        named: Mapping[str, Port] = {}
        problem = None
        if imported is not None and self._settings.covers(name):
            try:
                named = claims(imported, self._rule, self._main(name))
            except InvalidName as error:
                problem = Problem(error.error_code, f"import {name}", str(error))
        self._on_concerned(self._book.claim(name, named))
        return named, problem

    def _main(self, name: ServiceName) -> int | None:
        """The port that has the plain name: in Consul, or else when it was claimed last."""
        claimed = self._book.claimed(name).get(self._rule.plain(name))
        return self._actual.main(name) or (claimed.port if claimed is not None else None)

    def judge(self, name: ServiceName) -> Verdict:
        """What is to be done about it now."""
        imported = self._view.imports.get(name)
        named, problem = self._named(name)
        site = Site(cluster=self._cluster, gateways=self._gateways.present, absent=self._gateways.absent)
        wanted: dict[str, Instance] = {}
        if imported is not None and named:
            wanted = instances(imported, named, self._rule.plain(name), site)
        held = self._actual.of(name)
        held |= {id_: one for id_ in wanted if (one := self._actual.get(id_)) is not None}
        deletable = all(self._settled(one.sources) for one in held.values())
        changes = plan(name, wanted, held, kept=named, absent=site.absent, deletable=deletable)
        if (id_ := foreign(wanted, held)) is not None:
            problem = Problem(NotOurs.code, f"import {name}", f"{id_} under our node is somebody else's in Consul")
        return Verdict(changes, problem, self._until_free(name))

    def _named(self, name: ServiceName) -> tuple[dict[str, Port], Problem | None]:
        """The names in Consul that the import has, and why it has not all that it would have."""
        claimed, problem = self.claim(name)
        imported = self._view.imports.get(name)
        exported = imported is not None and any(backend.local for backend in imported.backends)
        named = {}
        for service, port in claimed.items():
            holder = self._book.holder(service)
            if holder != name:
                problem = Problem(
                    "import_name_taken", f"import {name}", f"the import {holder} has the name {service} in Consul"
                )
            elif service in (self._others or ()) or self._is_withheld(service):
                self._withheld.setdefault(service, _STILL)
                if not exported:  # otherwise it is the same service, and who asks here gets that of the datacenter
                    detail = (
                        f"the datacenter has, or lately had, a service {service} of its own, so the import is not "
                        "written to Consul: give that one another name, or imports a rule in consul.write.name"
                    )
                    problem = Problem(NotOurs.code, f"import {name}", detail)
            else:
                named[service] = port
        return named, problem

    def _is_withheld(self, service: str) -> bool:
        """Whether it was somebody else's until a short while ago. Of names that are nobody else's now."""
        now, until = self._clock.monotonic(), self._withheld.get(service)
        if until == _STILL:  # he went while this agent did not lead
            until = self._withheld[service] = now + FREED_SECONDS
        if until is not None and until <= now:
            del self._withheld[service]
        return until is not None and until > now

    def _until_free(self, name: ServiceName) -> float:
        """Seconds until a name that the import claims is not withheld any more; 0: there is none to wait for."""
        ends = [
            self._withheld[service]
            for service in self._book.claimed(name)
            if service in self._withheld and service not in (self._others or ())
        ]
        return max(0.01, min(ends) - self._clock.monotonic()) if ends else 0.0

    def _settled(self, sources: frozenset[str] | None) -> bool:
        clusters = sources if sources is not None else {neighbour.name for neighbour in self._view.linked}
        return all(self._view.settled(cluster) for cluster in clusters)
