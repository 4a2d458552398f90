"""The services that the VMs of this cluster register: one more source of its services, under leases.

Arrives: what each VM's sidecar says on its stream, and how streams end. Leaves: SourceState. A VM whose stream broke
keeps its instances for a grace period; then they are not ready, and much later they are forgotten: a machine that boots
is still known by name. One that says goodbye drains. What is known is kept on disk, so that an agent that starts tells
the same until the VMs are back. What several VMs register is united (discovery.sources.unite): the first to register
decides.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NoReturn

import msgspec

from discovery.sources.base import Preview, SourceState, no_service
from discovery.sources.convert import readiness
from discovery.sources.unite import Offer, unite
from discovery.vms.registration import MAX_SERVICES, Registration, Site, check, parse
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.catalog.leases import Leases
from federation.errors import Conflict, CorruptState, IsthmusError
from federation.log import Logger
from federation.model.cluster import Problem
from federation.model.ids import ServiceName, SpiffeId
from federation.model.service import Grant, Locality, Service
from federation.model.shared import SharedMap
from federation.proto.v1 import catalog_pb2 as pb

_SHOWN = 5


class _State(enum.Enum):
    HERE = "here"
    LOST = "lost"
    """Its stream broke, a moment ago."""
    LEFT = "left"
    """It said goodbye, a moment ago."""
    AWAY = "away"
    """It said goodbye and its time is over."""
    MISSED = "missed"
    """It said nothing, and its time is over."""


class _Saved(msgspec.Struct, frozen=True):
    """A VM as it is kept on disk. `services`: (Workload, first registered at, first exported at or 0). `away`: it is
    known not to serve."""

    vm: str
    identity: str
    host: str
    away: bool
    services: list[tuple[bytes, int, int]]


class Shared(msgspec.Struct, frozen=True, array_like=True):
    """A VM as the replica of the agent that it is, or was last, connected to tells the others (discovery.kube.offers).

    `number` rises with each stream of the VM, wherever it ends: of two replicas the higher one counts. `state` as
    _State; `services` as in _Saved.
    """

    vm: str
    number: int
    state: str
    identity: str
    host: str
    services: list[tuple[bytes, int, int]]


_AGE = {_State.HERE: 0, _State.LOST: 1, _State.LEFT: 1, _State.AWAY: 2, _State.MISSED: 2}
"""A VM that is not heard of goes on from one to the next."""


@dataclass(frozen=True, slots=True)
class _Item:
    data: bytes
    registration: Registration
    since_ns: int
    exported_ns: int


@dataclass(slots=True, kw_only=True)
class _Vm:
    name: str
    identity: SpiffeId
    host: str
    token: object = None
    stream: object = None
    """The newest one here, as long as it is open; another replica may know better all the same."""
    holder: str = ""
    """The replica that speaks for it; empty: this one."""
    number: int = 0
    state: _State = _State.LOST
    items: dict[ServiceName, _Item] = field(default_factory=dict)
    refused: tuple[Problem, ...] = ()
    said: bytes = b""


class Workloads:
    """Source of what VMs register. `on_change` is called when what is to be kept on disk has changed."""

    def __init__(
        self,
        *,
        may_register: Callable[[str, ServiceName], bool],
        site: Site,
        locality: Locality,
        grace: float,
        forget: float,
        clock: Clock,
        log: Logger,
    ) -> None:
        """`may_register` says which VM may register what (discovery.vms.table). Seconds since a VM was heard of: after
        `grace` it is not ready, after `forget` more it is not known."""
        self.on_change: Callable[[], None] = lambda: None
        self.on_share: Callable[[], None] = lambda: None
        """Called when other replicas have to be told something (`shared`)."""
        self._may_register, self._site, self._locality = may_register, site, locality
        self._grace, self._forget, self._clock, self._log = grace, forget, clock, log
        self._vms: dict[str, _Vm] = {}
        self._holders: dict[ServiceName, set[str]] = {}
        self._names: SharedMap[ServiceName, None] = SharedMap()
        self.state: Latest[SourceState] = Latest(SourceState(complete=True, services=self._names))
        self._leases = Leases()
        self._conflicts: dict[ServiceName, tuple[Problem, ...]] = {}
        self._told: dict[str, tuple[Problem, ...]] = {}  # by VM, of those that have any
        self._armed = asyncio.Event()

    # --- what arrives ------------------------------------------------------------------------------------------------

    def present(self, vm: str, token: object, workloads: pb.Workloads, *, identity: SpiffeId, host: str) -> None:
        """`vm`, proven by the stream `token` of `identity` from the address `host`, registers exactly these.

        One that cannot be taken is not registered, which is a problem, and takes no other with it.
        """
        known = self._vms.setdefault(vm, _Vm(name=vm, identity=identity, host=host))
        if known.token is not token:
            known.number += 1
            self.on_share()
        was, known.token, known.state = known.state, token, _State.HERE
        known.stream, known.holder = token, ""
        self._leases.drop(vm)
        said = workloads.SerializeToString(deterministic=True)
        if (said, identity, host) == (known.said, known.identity, known.host) and was is _State.HERE:
            return
        known.said, known.identity, known.host = said, identity, host
        before = known.items
        known.items, known.refused = self._read(known, workloads.items)
        self.on_share()
        for problem in known.refused:
            self._log.warning("vm service refused", vm=vm, code=problem.code, error=problem.detail)
        self._settle(vm, before, anew=was is not _State.HERE)

    def closed(self, vm: str, token: object, *, clean: bool) -> None:
        """A stream of `vm` has ended, by a goodbye (`clean`) or unexpectedly."""
        known = self._vms.get(vm)
        if known is not None and known.stream is token:
            known.stream = None
        if known is None or known.token is not token:
            return  # a newer stream speaks for it
        known.token, known.state = None, _State.LEFT if clean else _State.LOST
        self.on_share()
        if not known.items:
            self._drop(known)
            return
        self._log.info("vm gone", vm=vm, goodbye=clean, not_ready_in=self._grace)
        self._lease(vm, self._grace)
        if clean:
            self._settle(vm, known.items, anew=True)

    def removed(self, vm: str) -> None:
        """`vm` is none of this cluster's any more."""
        if (known := self._vms.get(vm)) is not None:
            self._drop(known)
            self.on_share()

    def expire(self) -> None:
        """What the time that has passed means for those that were not heard of."""
        for vm in self._leases.expired(self._clock.monotonic()):
            known = self._vms[vm]
            if known.state in (_State.LOST, _State.LEFT):
                known.state = _State.MISSED if known.state is _State.LOST else _State.AWAY
                self._log.warning("vm not ready", vm=vm, services=len(known.items))
                self._lease(vm, self._forget)
                self._settle(vm, known.items, anew=True)
            else:
                self._log.warning("vm forgotten", vm=vm, services=len(known.items))
                self._drop(known)
            self.on_share()

    def next_deadline(self) -> float | None:
        """Monotonic time at which `expire` has something to do."""
        return self._leases.next_deadline()

    async def run(self) -> None:
        """Expire what is due, until cancelled."""
        while True:
            deadline = self.next_deadline()
            if deadline is None:
                self._armed.clear()
                await self._armed.wait()
                continue
            await self._clock.sleep(min(1.0, max(0.01, deadline - self._clock.monotonic())))
            self.expire()

    # --- other replicas ----------------------------------------------------------------------------------------------

    def shared(self) -> list[Shared]:
        """The VMs that this replica speaks for."""
        return [
            Shared(vm.name, vm.number, vm.state.value, str(vm.identity), vm.host, _kept(vm))
            for _, vm in sorted(self._vms.items())
            if not vm.holder and (vm.items or vm.stream is not None)
        ]

    def heard(self, holder: str, told: Collection[Shared]) -> None:
        """The replica `holder` speaks for exactly these. What it says of a VM counts unless this one, or a third, has
        heard of the VM since."""
        for one in told:
            known = self._vms.get(one.vm)
            if known is None:
                known = _Vm(name=one.vm, identity=SpiffeId.parse(one.identity), host=one.host, number=-1)
            speaks, here = known.holder == holder, _State(one.state) is _State.HERE
            if one.number < known.number and not speaks:
                continue
            if known.stream is not None and (not here or (one.number == known.number and not known.holder)):
                self._reclaim(known, max(one.number, known.number) + 1)
            elif one.number > known.number or speaks:
                self._hear(known, holder, one)
        spoken = {one.vm for one in told}
        for vm in [v for v in self._vms.values() if v.holder == holder and v.name not in spoken]:
            self._lose(vm)

    def unheard(self, holder: str) -> None:
        """The replica `holder` is no more: its VMs have to find another one."""
        for vm in [v for v in self._vms.values() if v.holder == holder]:
            self._lose(vm)

    def _hear(self, known: _Vm, holder: str, one: Shared) -> None:
        state = _State(one.state)
        anew = one.number != known.number
        if not anew and _AGE[state] < _AGE[known.state]:
            state = known.state  # it was not heard of for longer, by the clock here
        before, was = known.items, known.state
        known.identity, known.host = SpiffeId.parse(one.identity), one.host
        known.holder, known.number, known.token, known.state = holder, one.number, None, state
        known.said, known.refused = b"", ()
        known.items = self._restored(known, one.services)
        if not known.items and known.stream is None:
            self._leases.drop(known.name)
            self._vms.pop(known.name, None)
            self._settle(known.name, before)
            return
        self._vms[known.name] = known
        if state is _State.HERE:
            self._leases.drop(known.name)
        elif anew or was is not state:
            self._lease(known.name, self._grace if _AGE[state] == 1 else self._forget)
        self._settle(known.name, before, anew=was is not state)

    def _reclaim(self, known: _Vm, number: int) -> None:
        """Another replica spoke for it, and has lost it; its stream here is open."""
        known.holder, known.number, known.token, known.state = "", number, known.stream, _State.HERE
        self._leases.drop(known.name)
        self._settle(known.name, known.items, anew=True)
        self.on_share()

    def _lose(self, vm: _Vm) -> None:
        """Who spoke for it does so no more."""
        if vm.stream is not None:
            self._reclaim(vm, vm.number + 1)
        elif vm.state is _State.HERE:
            vm.state = _State.LOST
            self._log.info("vm gone", vm=vm.name, replica=vm.holder, not_ready_in=self._grace)
            self._lease(vm.name, self._grace)

    # --- on disk -----------------------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """All that is known, for the next start."""
        return msgspec.msgpack.encode(
            [
                _Saved(
                    vm.name,
                    str(vm.identity),
                    vm.host,
                    vm.state in (_State.LEFT, _State.AWAY, _State.MISSED),
                    _kept(vm),
                )
                for _, vm in sorted(self._vms.items())
                if vm.items
            ]
        )

    def load(self, data: bytes) -> None:
        """Keep what was known before the start for the grace period. Raises CorruptState."""
        try:
            saved = msgspec.msgpack.decode(data, type=list[_Saved])
        except msgspec.MsgspecError as error:
            raise CorruptState(f"the known services of VMs are of another version: {error}") from error
        for one in saved:
            vm = _Vm(name=one.vm, identity=SpiffeId.parse(one.identity), host=one.host)
            vm.state = _State.AWAY if one.away else _State.LOST
            vm.items = self._restored(vm, one.services)
            if vm.items:
                self._vms[vm.name] = vm
                self._lease(vm.name, self._forget if one.away else self._grace)
                self._settle(vm.name, {})

    # --- what is asked -----------------------------------------------------------------------------------------------

    @property
    def what(self) -> str:
        return "what VMs register"

    def has_namespace(self, namespace: str) -> bool | None:
        """VMs know of no namespaces but those in names."""
        return True

    async def export(self, name: ServiceName, grants: tuple[Grant, ...]) -> tuple[str, bool]:
        """Raises Conflict: a VM exports its services by its own file. NotFound."""
        self._refuse(name, "exported", "export: true")

    async def unexport(self, name: ServiceName) -> tuple[str, bool]:
        """Raises as `export`."""
        self._refuse(name, "unexported", "export: false")

    async def preview(self, name: ServiceName, grants: tuple[Grant, ...] | None) -> Preview:
        """Raises as `export` and `unexport`."""
        if grants is None:
            self._refuse(name, "unexported", "export: false")
        self._refuse(name, "exported", "export: true")

    def _refuse(self, name: ServiceName, what: str, key: str) -> NoReturn:
        holders = sorted(self._holders.get(name, ()))
        if not holders:
            raise no_service(name, self.state.value, what=self.what)
        shown = ", ".join(holders[:_SHOWN]) + (f" and {len(holders) - _SHOWN} more" * (len(holders) > _SHOWN))
        raise Conflict(
            f"{name} is registered by VM {shown}: it is {what} where it is registered",
            hint=f"set `{key}` in the services file of the VM",
            code="registered_by_vm",
        )

    def whence(self, name: ServiceName) -> dict[str, str]:
        """Address → the VM that has it."""
        items = ((vm, self._vms[vm].items[name]) for vm in sorted(self._holders.get(name, ()), reverse=True))
        return {item.registration.service.endpoints[0].address: f"vm {vm}" for vm, item in items}

    # --- parts -------------------------------------------------------------------------------------------------------

    def _read(self, vm: _Vm, messages: Collection[pb.Workload]) -> tuple[dict[ServiceName, _Item], tuple[Problem, ...]]:
        items: dict[ServiceName, _Item] = {}
        refused: list[Problem] = []
        now = self._clock.wall_ns()
        for message in list(messages)[:MAX_SERVICES]:
            subject = f"vm {vm.name}: " + ascii(f"{message.namespace[:63]}/{message.name[:63]}")[1:-1]
            try:
                registration = self._check(vm, message)
            except IsthmusError as error:
                refused.append(Problem(error.error_code, subject, str(error)))
                continue
            name = registration.name
            if name in items:
                refused.append(Problem("duplicate_service", subject, "it is registered twice; the first one counts"))
                continue
            held = vm.items.get(name)
            exported_ns = (held.exported_ns if held is not None else 0) or now
            items[name] = _Item(
                message.SerializeToString(deterministic=True),
                registration,
                held.since_ns if held is not None else now,
                exported_ns if registration.exported else 0,
            )
        if len(messages) > MAX_SERVICES:
            detail = f"registers {len(messages)} services; the first {MAX_SERVICES} are taken"
            refused.append(Problem("too_many_services", f"vm {vm.name}", detail))
        return items, tuple(refused)

    def _restored(self, vm: _Vm, services: Iterable[tuple[bytes, int, int]]) -> dict[ServiceName, _Item]:
        """What was taken before, or elsewhere, as far as it is taken here and now."""
        items: dict[ServiceName, _Item] = {}
        for data, since_ns, exported_ns in services:
            try:
                registration = self._check(vm, parse(data))
            except IsthmusError as error:  # settings or table are others now
                self._log.warning("kept service of a vm not taken", vm=vm.name, error=str(error))
            else:
                items[registration.name] = _Item(data, registration, since_ns, exported_ns)
        return items

    def _check(self, vm: _Vm, message: pb.Workload) -> Registration:
        registration = check(message, identity=vm.identity, host=vm.host, site=self._site)
        if not self._may_register(vm.name, registration.name):
            raise Conflict(
                f"VM {vm.name} may not register {registration.name}",
                hint="what it may is said when it is made: fedctl vm bootstrap",
                code="service_denied",
            )
        return registration

    def _lease(self, vm: str, seconds: float) -> None:
        self._leases.drop(vm)
        self._leases.renew(vm, seconds, self._clock.monotonic())
        self._armed.set()

    def _drop(self, vm: _Vm) -> None:
        before, vm.items, vm.refused = vm.items, {}, ()
        del self._vms[vm.name]
        self._leases.drop(vm.name)
        self._settle(vm.name, before)

    def _settle(self, vm: str, before: Mapping[ServiceName, _Item], *, anew: bool = False) -> None:
        """Tell what has changed now that `vm` registered `before` and what it does now; `anew`: all of it may have."""
        known = self._vms.get(vm)
        items = known.items if known is not None else {}
        names = {n for n in {*before, *items} if anew or before.get(n) != items.get(n)}
        for name in names:
            holders = self._holders.setdefault(name, set())
            (holders.add if name in items else holders.discard)(vm)
            if not holders:
                del self._holders[name]
        if told := self._problems_of(known):
            self._told[vm] = told
        else:
            self._told.pop(vm, None)
        self._publish(names)
        if names:
            self.on_change()

    # --- what leaves -------------------------------------------------------------------------------------------------

    def _publish(self, names: Iterable[ServiceName]) -> None:
        last = self.state.value
        put: dict[bool, dict[ServiceName, Service]] = {True: {}, False: {}}
        gone: dict[bool, list[ServiceName]] = {True: [], False: []}
        changed = set()
        for name in names:
            offers = self._offers(name)
            service, conflicts = unite(name, offers) if offers else (None, ())
            exported = any(offer.exported for offer in offers)
            for kind, held in ((True, last.exports), (False, last.unexported)):
                wanted = service if kind is exported else None
                if wanted is None and name in held:
                    gone[kind].append(name)
                elif wanted is not None and wanted != held.get(name):
                    put[kind][name] = wanted
                else:
                    continue
                changed.add(name)
            if conflicts:
                self._conflicts[name] = conflicts
            else:
                self._conflicts.pop(name, None)
            known = bool(offers)
            if known is not (name in self._names):
                self._names = self._names.with_({name: None} if known else {}, () if known else (name,))
        problems = (
            *(p for vm in sorted(self._told) for p in self._told[vm]),
            *(p for name in sorted(self._conflicts) for p in self._conflicts[name]),
        )
        if not changed and problems == last.problems and self._names is last.services:
            return
        self.state.set(
            SourceState(
                exports=_shared(last.exports).with_(put[True], gone[True]),
                unexported=_shared(last.unexported).with_(put[False], gone[False]),
                services=self._names,
                problems=problems,
                complete=True,
                number=last.number + 1,
                changed=frozenset(changed),
            )
        )

    def _offers(self, name: ServiceName) -> list[Offer]:
        """What the VMs say of `name`, the first to register first."""
        vms = [self._vms[vm] for vm in self._holders.get(name, ())]
        vms.sort(key=lambda vm: (vm.items[name].since_ns, vm.name))
        return [self._offer(vm, vm.items[name]) for vm in vms]

    def _offer(self, vm: _Vm, item: _Item) -> Offer:
        service = item.registration.service
        (endpoint,) = service.endpoints
        place = endpoint.locality if endpoint.locality != Locality() else self._locality
        if vm.state is _State.LEFT:
            endpoint = replace(endpoint, ready=False, terminating=endpoint.ready or endpoint.terminating)
        elif vm.state in (_State.AWAY, _State.MISSED):
            endpoint = replace(endpoint, ready=False, terminating=False)
        endpoint = replace(endpoint, locality=place)
        service = replace(
            service,
            exported_at_ns=item.exported_ns,
            endpoints=(endpoint,),
            readiness=readiness((endpoint,)),
        )
        return Offer(place=f"vm {vm.name}", service=service, exported=item.registration.exported)

    def _problems_of(self, vm: _Vm | None) -> tuple[Problem, ...]:
        if vm is None:
            return ()
        if vm.state is not _State.MISSED:
            return vm.refused
        names = sorted(vm.items)
        shown = ", ".join(map(str, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")
        detail = f"it was not heard of for {self._grace:g} s: its {shown} counts as not ready"
        return (*vm.refused, Problem("vm_lost", f"vm {vm.name}", detail))


def _kept(vm: _Vm) -> list[tuple[bytes, int, int]]:
    return [(item.data, item.since_ns, item.exported_ns) for _, item in sorted(vm.items.items())]


def _shared(held: Mapping[ServiceName, Service]) -> SharedMap[ServiceName, Service]:
    return held if isinstance(held, SharedMap) else SharedMap(held)
