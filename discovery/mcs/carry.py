"""Makes one write and keeps its answer; what an API server refuses is told apart by what it is good for.

Between plan, which decides, and apply, which asks: nothing is written twice because the watch has not told of it yet.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection

from discovery.kube.errors import Conflict, Invalid, NotFound, TooMany
from discovery.kube.types import ServiceExport
from discovery.kube.watch import Store
from discovery.mcs.actual import Actuals
from discovery.mcs.apply import Applier
from discovery.mcs.derived import DerivedAllocations
from discovery.mcs.held import Kind
from discovery.mcs.plan import Verb, Write
from federation.errors import AlreadyExists, IsthmusError
from federation.log import Logger
from federation.model.ids import ServiceName

_QUICK, _TRIES = 3, 7
"""So often a derived Service is made at the address that it had: within some 0.1 s, and within some 1 s."""


class Done(enum.Enum):
    """KNOWN: what there is now is known. TOLD: a watch is going to tell."""

    KNOWN = enum.auto()
    TOLD = enum.auto()


class Carrier:
    """`refresh` is told names whose addresses the API server has refused."""

    def __init__(
        self,
        applier: Applier,
        actuals: Actuals,
        exports: Store[ServiceExport],
        allocations: DerivedAllocations,
        *,
        refresh: Callable[[Collection[ServiceName]], None],
        log: Logger,
    ) -> None:
        self._applier, self._actuals, self._exports = applier, actuals, exports
        self._allocations, self._refresh, self._log = allocations, refresh, log
        self._tries: dict[ServiceName, int] = {}

    async def carry(self, name: ServiceName, write: Write) -> Done | IsthmusError:
        """An error is returned, for the other writes of the name go on."""
        try:
            done = await self._do(write)
            if write.kind is Kind.SERVICE:
                self._tries.pop(name, None)
            return done
        except Invalid as error:
            return self._refused(name, write, error)
        except (Conflict, AlreadyExists) as error:
            return await self._outdated(write, error)
        except NotFound as error:
            if error.kind_missing or write.verb is Verb.CREATE:
                return error
            return await self._outdated(write, error)
        except IsthmusError as error:
            return Done.TOLD if _terminating(error) else error

    async def _do(self, write: Write) -> Done:
        version = self._actuals.version
        if write.kind is Kind.EXPORT:
            written = await self._applier.export_status(write, version)
            if (written.namespace, written.name) in self._exports.objects:
                self._exports.put(written)
            self._log.debug("wrote", write=str(write))
            return Done.KNOWN
        held = await self._applier.do(write, version)
        self._log.debug("wrote", write=str(write))
        if held is None or write.kind is Kind.NAMESPACE:
            return Done.TOLD
        self._actuals.wrote(held)
        return Done.KNOWN

    def _refused(self, name: ServiceName, write: Write, error: Invalid) -> Done | IsthmusError:
        """A Service that was just deleted still has its address for a moment; after that another Service has it, or it
        is of a range that is no more."""
        if write.kind is not Kind.SERVICE or not write.body["spec"].get("clusterIP"):
            return error
        tries = self._tries[name] = self._tries.get(name, 0) + 1
        if tries <= _QUICK:
            return Conflict(error.message)
        if tries <= _TRIES:
            return TooMany(error.message)
        del self._tries[name]
        if not self._allocations.forget_addresses(name):
            return error
        self._log.warning("derived Service gets another address", service=str(name), error=error.message)
        self._refresh([name])
        return Done.KNOWN

    async def _outdated(self, write: Write, error: IsthmusError) -> Done | IsthmusError:
        """It was changed, is there already, or is gone, since it was looked at: what it is now decides."""
        if write.kind in (Kind.EXPORT, Kind.NAMESPACE):
            return Done.TOLD
        try:
            held = await self._applier.look(write.kind, write.namespace, write.name, self._actuals.version)
        except IsthmusError as failed:
            return failed
        if held is None:
            self._actuals.gone(write.kind, write.namespace, write.name)
        else:
            self._actuals.wrote(held)
        return error


def _terminating(error: IsthmusError) -> bool:
    """The namespace is going, with all that is in it."""
    return "because it is being terminated" in error.message
