"""The virtual machines of one cluster, on disk before a change counts; when and where each was seen last, behind.

Arrives: what operators and machines ask for. Leaves: decisions of discovery.vms.plans, durable. What a machine was seen
with (`vms.seen`) is worth less: it is written seldom, and lost without harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from discovery.state import load_or_none, set_aside
from discovery.vms import plans
from discovery.vms.plans import Invitation, Invited, Picture, Vm
from federation.aio.clock import Clock
from federation.aio.files import read_state, write_state
from federation.errors import CorruptState
from federation.log import Logger
from federation.model.cluster import Problem
from federation.model.ids import SpiffeId

VMS, SEEN = "vms.state", "vms.seen"

T = TypeVar("T")


class Sight(msgspec.Struct, frozen=True):
    """When a machine was heard last, from where (host:port), and with which version of isthmus."""

    seen_ns: int
    address: str = ""
    version: str = ""


_Sights = dict[str, Sight]


class VmTable:
    """All machines, by name. Changes are made one after the other, and each is on disk when it returns.

    Methods raise as their namesakes in discovery.vms.plans, and StorageFailed: nothing has changed then.
    """

    def __init__(self, directory: Path, *, clock: Clock, log: Logger) -> None:
        """A damaged file is put aside and told by `problem`: its machines are then refused until they join anew.

        Raises StorageFailed where the file cannot be read: what is not known must not be written over.
        """
        self._path, self._clock, self._log = directory / VMS, clock, log
        self.problem: Problem | None = None
        self.picture = self._load()
        self.sights: _Sights = load_or_none(directory / SEEN, _load_sights, log) or {}
        self.on_removed: Callable[[str], None] = lambda _: None
        """Called with the name of a machine that is no longer admitted."""
        self.on_seen: Callable[[], None] = lambda: None
        """Called when `sights` have changed."""
        self._changing = asyncio.Lock()

    @property
    def vms(self) -> Mapping[str, Vm]:
        return self.picture.vms

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
        self.on_removed(name)
        if self.sights.pop(name, None) is not None:
            self.on_seen()
        return vm

    def renew(self, name: str, key: str) -> Vm:
        """Whose key this is."""
        return plans.renew(self.picture, name, key)

    def admit(self, name: str, label: str, identity: SpiffeId) -> Vm:
        """Whose certificate this is."""
        return plans.admit(self.picture, name, label, identity)

    def seen(self, name: str, *, address: str = "", version: str = "") -> None:
        """A machine was heard now; what is empty stays as it was."""
        if name not in self.picture.vms:
            return
        before = self.sights.get(name, Sight(0))
        self.sights[name] = Sight(self._clock.wall_ns(), address or before.address, version or before.version)
        self.on_seen()

    def dump_sights(self) -> bytes:
        return msgspec.json.encode(self.sights)

    async def _change(self, plan: Callable[[Picture, int], tuple[Picture, T]]) -> T:
        async with self._changing:
            picture, result = plan(self.picture, self._clock.wall_ns())
            if picture is not self.picture:
                # Once the write has begun it is waited for, whoever gave up: memory must not differ from the disk.
                await _to_the_end(asyncio.create_task(self._write(picture), name="vms-write"))
            return result

    async def _write(self, picture: Picture) -> None:
        await asyncio.to_thread(write_state, self._path, plans.dump(picture))
        self.picture = picture

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


async def _to_the_end(task: asyncio.Task[None]) -> None:
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        task.exception()  # nobody waits for it any more
        raise


def _load_sights(data: bytes) -> _Sights:
    try:
        return msgspec.json.decode(data, type=_Sights)
    except msgspec.MsgspecError as error:
        raise CorruptState(f"not the sights of VMs: {error}") from error
