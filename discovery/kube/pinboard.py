"""The pins of a cluster whose agent has replicas: one ConfigMap, changed by compare-and-set, read by all of them.

    Pins here ─ pending ┐
    watch ──────────────┴→ merge → ConfigMap isthmus-pins, and Pins here

Pins hold nothing secret; who can write the ConfigMap decides whom the cluster believes, so only the agent and the
operator may. A replica that cannot reach it goes on with what it has on disk, and tells what happened there later.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Mapping
from typing import ClassVar

import msgspec

from discovery.kube.board import Board
from discovery.kube.client import KubeClient
from discovery.kube.errors import Conflict, NotFound
from discovery.kube.resources import CONFIG_MAPS
from discovery.kube.types import ConfigMap
from discovery.kube.watch import Store
from discovery.pins import Pin, Pins
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.errors import AlreadyExists, IsthmusError, TimedOut, Unavailable
from federation.log import Logger
from federation.model.cluster import Problem

NAME = "isthmus-pins"
"""Of the ConfigMap."""
WRITTEN = "isthmus.io/written-ns"
"""Annotation: when it was last written (ns since 1970), so that a replica knows what it has not told yet."""


_DROPPED = "dropped.json"
"""Beside the pins in its data."""
MAX_DROPPED = 1000
"""So many peers are remembered as dropped, those dropped last."""


class Change(msgspec.Struct, frozen=True):
    """What was done here to the pin of a peer, and when (ns since 1970). `pin` None: dropped."""

    pin: Pin | None
    at_ns: int


class Shared(msgspec.Struct, frozen=True):
    """What the ConfigMap says: the pins, and when a peer that has none lost it (ns since 1970).

    Without the latter a replica that follows a peer's bundle while another one drops the peer would bring it back.
    """

    pins: Mapping[str, Pin] = {}
    dropped: Mapping[str, int] = {}


def merge(shared: Shared, pending: Mapping[str, Change]) -> Shared:
    """`shared` with the changes that are newer: by the operator's last word on a peer, then by its bundle."""
    pins, dropped = dict(shared.pins), dict(shared.dropped)
    for name, change in pending.items():
        held = pins.get(name)
        if change.pin is None:
            if held is None or held.pinned_ns <= change.at_ns:
                pins.pop(name, None)
                dropped[name] = max(change.at_ns, dropped.get(name, 0))
        elif held is None:
            if dropped.get(name, -1) < change.pin.pinned_ns:
                pins[name] = change.pin
                dropped.pop(name, None)
        elif _age(held) <= _age(change.pin):
            pins[name] = change.pin
    newest = sorted(dropped, key=lambda name: (dropped[name], name))[-MAX_DROPPED:]
    return Shared(pins, {name: dropped[name] for name in newest})


def _age(pin: Pin) -> tuple[int, int]:
    return pin.pinned_ns, pin.sequence


class Pinboard(Board):
    """`run` until cancelled. `on_changed` gets the peers whose pin another replica changed."""

    name: ClassVar[str] = NAME
    key: ClassVar[str] = "pins.json"
    what: ClassVar[str] = "pins"

    def __init__(
        self,
        client: KubeClient,
        store: Store[ConfigMap],
        synced: Latest[bool],
        pins: Pins,
        *,
        namespace: str,
        on_changed: Callable[[Collection[str]], None],
        on_problem: Callable[[Problem | None], None],
        clock: Clock,
        log: Logger,
        rng: random.Random,
    ) -> None:
        super().__init__(
            client, store, synced, namespace=namespace, on_problem=on_problem, clock=clock, log=log, rng=rng
        )
        self._pins, self._on_changed = pins, on_changed
        self._pending: dict[str, Change] = {}
        self._settled: Latest[bool] = Latest(False)
        pins.on_change = self._changed

    async def share(self, *, seconds: float = 5.0) -> None:
        """Wait until what was changed here is known to the other replicas.

        Raises Unavailable when that is not so after `seconds`; it is told as soon as it can be.
        """
        try:
            async with asyncio.timeout(seconds):
                while self._pending:
                    await self._settled.newer(self._settled.version)
        except TimeoutError:
            raise TimedOut(
                "the pin is set here, and the other replicas of this agent could not be told yet",
                hint="it is told as soon as the API server can be reached; see `fedctl status`",
            ) from None

    def _begin(self) -> None:
        """What was changed here while there was no way to tell."""
        held = self._held()
        written = _number((held.metadata.annotations or {}).get(WRITTEN, "")) if held is not None else 0
        for name, pin in self._pins.all().items():
            if pin.pinned_ns > written:
                self._pending.setdefault(name, Change(pin, pin.pinned_ns))

    def _settle(self) -> None:
        self._settled.set(True)

    def _changed(self, name: str, pin: Pin | None) -> None:
        self._pending[name] = Change(pin, self._clock.wall_ns())
        self._wake.set()

    async def _turn(self) -> None:
        held = self._held()
        if held is None and not self._pins.all() and not self._pending:
            return
        pending = dict(self._pending)
        # It was deleted, or never was: what is here counts.
        shared = self._decode(held) if held is not None else Shared(self._pins.all())
        merged = merge(shared, pending)
        if merged != shared or held is None:
            await self._write(merged, held)
        for name, change in pending.items():
            if self._pending.get(name) is change:
                del self._pending[name]
        changed = self._pins.adopt(merge(merged, self._pending).pins)
        if changed:
            self._log.info("pins of another replica", peers=sorted(changed))
            self._on_changed(changed)

    def _decode(self, held: ConfigMap) -> Shared:
        """Raises Unreadable: what is here stays."""
        data = held.data or {}
        try:
            pins = msgspec.json.decode(data.get(self.key, ""), type=dict[str, Pin])
            return Shared(pins, msgspec.json.decode(data.get(_DROPPED, "{}"), type=dict[str, int]))
        except msgspec.MsgspecError as error:
            raise Unreadable(
                f"the ConfigMap {self._namespace}/{NAME} cannot be read: {error}",
                hint="delete it: the agent writes it again with the pins that it has",
            ) from error

    async def _write(self, shared: Shared, held: ConfigMap | None) -> None:
        content, dropped = (msgspec.json.encode(dict(sorted(part.items()))) for part in (shared.pins, shared.dropped))
        body = self._body(
            content,
            besides={_DROPPED: dropped.decode()} if shared.dropped else None,
            basis=held,
            notes={WRITTEN: str(self._clock.wall_ns())},
        )
        try:
            if held is None:
                data = await self._client.create(CONFIG_MAPS, self._namespace, body)
            else:
                data = await self._client.update(CONFIG_MAPS, self._namespace, NAME, body)
        except (Conflict, AlreadyExists):
            self._take(await self._client.get(CONFIG_MAPS, self._namespace, NAME))
            raise Unavailable("another replica has changed the pins") from None
        except NotFound:
            if held is not None:
                self._store.delete(self._namespace, NAME)
            raise
        self._take(data)


class Unreadable(IsthmusError):
    """Somebody has edited the ConfigMap."""

    code = "pins_unreadable"


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
