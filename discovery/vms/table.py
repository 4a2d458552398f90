"""The virtual machines of one cluster, on disk before a change counts; when and where each was seen last, behind.

Arrives: what operators and machines ask for. Leaves: decisions of discovery.vms.plans, durable. What a machine was seen
with (`vms.seen`) is worth less: it is written seldom, and lost without harm.

Where an agent has replicas, the table is on a shelf that they share: a change counts when it is there, made on what was
there, and the file is what a replica goes by while it cannot reach the shelf.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from discovery.state import load_or_none, set_aside
from discovery.vms import plans
from discovery.vms.plans import Invitation, Invited, Picture, Vm
from federation.aio.clock import Clock
from federation.aio.files import read_state, write_state
from federation.errors import CorruptState, Denied, IsthmusError, StorageFailed
from federation.log import Logger
from federation.model.cluster import Problem
from federation.model.ids import SpiffeId

VMS, SEEN = "vms.state", "vms.seen"
_ASK_AGAIN = 1.0
"""Seconds between two questions to the shelf for the sake of who was refused."""

T = TypeVar("T")


class Sight(msgspec.Struct, frozen=True):
    """When a machine was heard last, from which address, and with which version of isthmus."""

    seen_ns: int
    address: str = ""
    version: str = ""


_Sights = dict[str, Sight]


class Shelved(NamedTuple):
    """The table as it is on the shelf, and which version of it that is."""

    picture: Picture
    version: str


class Shelf(Protocol):
    """Where replicas keep the table together: discovery.kube.vmboard."""

    async def read(self) -> Shelved | None:
        """What is there now; None: nothing. Raises Unavailable, Unreadable."""

    async def write(self, picture: Picture, basis: str) -> str | None:
        """Replace the version `basis` ("": nothing is there); the new version, or None where another was faster.

        Raises Unavailable, QuotaExceeded.
        """


class VmTable:
    """All machines, by name. Changes are made one after the other, and each is on disk when it returns.

    Methods raise as their namesakes in discovery.vms.plans, and StorageFailed: nothing has changed then. With a shelf
    also Unavailable: then, too.
    """

    def __init__(self, directory: Path, *, clock: Clock, log: Logger) -> None:
        """A damaged file is put aside and told by `problem`: its machines are then refused until they join anew.

        Raises StorageFailed where the file cannot be read: what is not known must not be written over.
        """
        self._path, self._clock, self._log = directory / VMS, clock, log
        self.problem: Problem | None = None
        self.picture = self._load()
        self.sights: _Sights = load_or_none(directory / SEEN, _load_sights, log) or {}
        self._listeners: list[Callable[[str], None]] = []
        self.on_seen: Callable[[], None] = lambda: None
        """Called when `sights` have changed."""
        self.shelf: Shelf | None = None
        self._basis = ""  # the version on the shelf that `picture` is
        self._asked = -_ASK_AGAIN  # when the shelf was last asked because of a refusal
        self._changing = asyncio.Lock()

    @property
    def vms(self) -> Mapping[str, Vm]:
        return self.picture.vms

    def listen(self, removed: Callable[[str], None]) -> None:
        """From now on `removed` is called with the name of each machine that is no longer admitted."""
        self._listeners.append(removed)

    async def issue(self, asked: Invited, invitation: Invitation) -> Vm:
        """Invite a machine."""
        vm = await self._change(lambda picture, now: plans.issue(picture, asked, invitation, now_ns=now))
        self._log.info("vm invited", vm=vm.name, identity=f"{vm.namespace}/{vm.account}")
        return vm

    async def redeem(self, name: str, token: bytes, key: str) -> Vm:
        """Enrol a machine's key."""
        return await self._change(lambda picture, now: plans.redeem(picture, name, token, key, now_ns=now))

    async def remove(self, name: str) -> Vm:
        """Forget a machine."""
        vm = await self._change(lambda picture, now: plans.remove(picture, name, now_ns=now))
        self._log.info("vm removed", vm=name)
        return vm

    async def renew(self, name: str, key: str) -> Vm:
        """Whose key this is."""
        return await self._known(lambda picture: plans.renew(picture, name, key))

    async def admit(self, name: str, label: str, identity: SpiffeId) -> Vm:
        """Whose certificate this is. What is decided is returned at once: nothing can come in between."""
        return await self._known(lambda picture: plans.admit(picture, name, label, identity))

    def seen(self, name: str, *, address: str = "", version: str = "") -> None:
        """A machine was heard now; what is empty stays as it was."""
        if name not in self.picture.vms:
            return
        before = self.sights.get(name, Sight(0))
        self.sights[name] = Sight(self._clock.wall_ns(), address or before.address, version or before.version)
        self.on_seen()

    def dump_sights(self) -> bytes:
        return msgspec.json.encode(self.sights)

    async def follow(self, shelved: Shelved) -> None:
        """This is on the shelf now."""
        async with self._changing:
            if not _older(shelved.version, self._basis):
                await self._take(shelved)

    async def restore(self) -> None:
        """The shelf seems empty: if it is, what is known here is put there again. Raises Unavailable."""
        async with self._changing:
            if self.shelf is None or not (self.picture.vms or self.picture.removed):
                return
            shelved = await self.shelf.read()
            if shelved is not None:
                await self._take(shelved)
                return
            self._log.warning("the shared table of vms is gone, writing it again", vms=len(self.picture.vms))
            self._basis = await self.shelf.write(self.picture, "") or ""

    async def _known(self, decide: Callable[[Picture], Vm]) -> Vm:
        """What another replica has just done may not have come here yet: a refusal is made on the newest there is."""
        try:
            return decide(self.picture)
        except Denied:
            if self.shelf is None or self._clock.monotonic() - self._asked < _ASK_AGAIN:
                raise
        self._asked = self._clock.monotonic()
        async with self._changing:
            try:
                await self._refresh()
            except IsthmusError as error:
                self._log.info("the shared table of vms cannot be asked", error=str(error))
        return decide(self.picture)

    async def _change(self, plan: Callable[[Picture, int], tuple[Picture, T]]) -> T:
        async with self._changing:
            if self.shelf is not None:
                await self._refresh()  # made on what is there, or not at all
            while True:
                picture, result = plan(self.picture, self._clock.wall_ns())
                if picture is self.picture:
                    return result
                # Once the write has begun it is waited for, whoever gave up: memory must not differ from the disk.
                if await _to_the_end(asyncio.create_task(self._write(picture), name="vms-write")):
                    return result
                await self._refresh()

    async def _refresh(self) -> None:
        """Take what is on the shelf."""
        assert self.shelf is not None  # noqa: S101 - the callers ask only then
        shelved = await self.shelf.read()
        if shelved is not None:
            await self._take(shelved)

    async def _take(self, shelved: Shelved) -> None:
        if shelved.picture != self.picture:
            try:
                await asyncio.to_thread(write_state, self._path, plans.dump(shelved.picture))
            except StorageFailed as error:
                self._log.error("table of vms not written", error=str(error))  # the shelf has it
        self._basis = shelved.version
        self._set(shelved.picture)

    async def _write(self, picture: Picture) -> bool:
        """Whether it is kept: another replica may have been faster."""
        if self.shelf is not None:
            version = await self.shelf.write(picture, self._basis)
            if version is None:
                return False
            await self._take(Shelved(picture, version))
            return True
        await asyncio.to_thread(write_state, self._path, plans.dump(picture))
        self._set(picture)
        return True

    def _set(self, picture: Picture) -> None:
        before, self.picture = self.picture, picture
        for name, vm in before.vms.items():
            now = picture.vms.get(name)
            if now is None and self.sights.pop(name, None) is not None:
                self.on_seen()
            if vm.joined and (now is None or now.key != vm.key):
                for removed in self._listeners:
                    removed(name)

    def _load(self) -> Picture:
        try:
            data = read_state(self._path)
            return plans.load(data) if data is not None else Picture()
        except CorruptState as error:
            set_aside(self._path, self._log, error)
            self.problem = Problem(
                "vms_lost",
                self._path.name,
                f"it was damaged and is kept as {self._path.name}.corrupt: its VMs are refused until each is "
                "bootstrapped anew, or the file is restored and the agent started again",
                self._clock.wall_ns(),
            )
            return Picture()


async def _to_the_end(task: asyncio.Task[bool]) -> bool:
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        task.exception()  # nobody waits for it any more
        raise


def _older(version: str, than: str) -> bool:
    """A watch may tell what was before one's own write. Versions of an API server are numbers."""
    return version.isdigit() and than.isdigit() and int(version) < int(than)


def _load_sights(data: bytes) -> _Sights:
    try:
        return msgspec.json.decode(data, type=_Sights)
    except msgspec.MsgspecError as error:
        raise CorruptState(f"not the sights of VMs: {error}") from error
