"""Runs the checks of all services of a VM: each by its own pauses; tells at once when one turns.

Arrives: the checks that there are to be. Leaves: the health of each, and what is wrong with those that are down.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

from federation.aio.clock import Clock
from federation.log import Logger
from federation.model.ids import ServiceName
from sidecar.vm.checks import grpc_health, http, tcp
from sidecar.vm.checks.machine import Health, Outcome, State, pause, step
from sidecar.vm.checks.result import Result, critical
from sidecar.vm.checks.script import Scripts
from sidecar.vm.definition import Check, Grpc, Http, Tcp

AT_ONCE_SCRIPTS = 2
"""Scripts of one service that run at the same time: each is a process. All others run whenever they are due, which is
a socket each: a service that hangs holds up nobody else, and of its own at most scripts."""
LATE_SECONDS = 1.0
"""A check that is kept waiting for longer than this, and than its interval, is late."""


class Key(NamedTuple):
    """A check of a service."""

    service: ServiceName
    check: Check

    def __str__(self) -> str:
        return f"{self.service} {self.check.probe}"


class Prober:
    """One run of a check, without a limit of time."""

    def __init__(self) -> None:
        self._scripts = Scripts()

    async def __call__(self, check: Check) -> Result:
        what = check.probe
        if isinstance(what, Tcp):
            return await tcp.run(what)
        if isinstance(what, Http):
            return await http.run(what)
        if isinstance(what, Grpc):
            return await grpc_health.run(what, timeout=check.policy.timeout)
        return await self._scripts.run(what)


class Checker:
    """`run` until cancelled; `set` as often as the definitions change. `on_change` is called when a check turns."""

    def __init__(
        self,
        *,
        on_change: Callable[[], None],
        clock: Clock,
        log: Logger,
        rng: random.Random | None = None,
        run: Callable[[Check], Awaitable[Result]] | None = None,
    ) -> None:
        self._on_change, self._clock, self._log = on_change, clock, log
        self._rng, self._probe = rng or random.Random(), run or Prober()
        self._health: dict[Key, Health] = {}
        self._details: dict[Key, str] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._wanted = asyncio.Event()
        self._script_slots: dict[ServiceName, asyncio.Semaphore] = {}
        self._due: dict[Key, float] = {}  # of those that wait for their turn, since when
        self._late: frozenset[Key] = frozenset()

    def set(self, keys: Iterable[Key]) -> None:
        """The checks are exactly these; one that was there before keeps its health."""
        self._health = {key: self._health.get(key, Health()) for key in keys}
        self._details = {key: detail for key, detail in self._details.items() if key in self._health}
        services = {key.service for key in self._health}
        self._script_slots = {service: slots for service, slots in self._script_slots.items() if service in services}
        self._wanted.set()

    def ready(self, service: ServiceName) -> bool:
        """Whether all checks of `service` pass; without checks it is."""
        return all(health.ready for key, health in self._health.items() if key.service == service)

    def problems(self) -> Mapping[str, str]:
        """What is wrong, by check."""
        found = {}
        for key, health in self._health.items():
            if health.flapping:
                found[str(key)] = f"it goes to and fro; last: {self._details.get(key) or 'passed'}"
            elif key in self._details and not health.ready:
                found[str(key)] = self._details[key]
        return found

    def late(self) -> Mapping[str, str]:
        """The checks that cannot begin when they should, and why."""
        why = f"it waits for other scripts of its service, of which {AT_ONCE_SCRIPTS} run at once: a shorter timeout?"
        return {str(key): why for key in self._late}

    def count(self, state: State | None = None) -> int:
        """How many checks are in `state`; all of them without one."""
        return sum(1 for health in self._health.values() if state in (None, health.state))

    async def run(self) -> None:
        """Start what is missing, stop what is redundant, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_late(), name="late-checks")
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                for key in self._tasks.keys() - self._health.keys():
                    self._tasks.pop(key).cancel()
                for key in self._health.keys() - self._tasks.keys():
                    self._tasks[key] = group.create_task(self._repeat(key), name=f"check-{key}")

    async def _repeat(self, key: Key) -> None:
        while True:
            if key.check.is_script:
                result = await self._in_turn(key)
            else:
                result = await self._once(key.check)
            self._learn(key, result)
            await self._clock.sleep(pause(key.check.policy, self._rng))

    async def _in_turn(self, key: Key) -> Result:
        self._due[key] = self._clock.monotonic()
        try:
            async with self._script_slots.setdefault(key.service, asyncio.Semaphore(AT_ONCE_SCRIPTS)):
                self._due.pop(key, None)
                return await self._once(key.check)
        finally:
            self._due.pop(key, None)

    async def _watch_late(self) -> None:
        """One that was late is told until it begins."""
        while True:
            await self._clock.sleep(LATE_SECONDS)
            now = self._clock.monotonic()
            late = frozenset(
                k for k, due in self._due.items() if now - due > max(LATE_SECONDS, k.check.policy.interval)
            )
            if late != self._late:
                self._late = late
                self._on_change()

    async def _once(self, check: Check) -> Result:
        timeout = check.policy.timeout
        try:
            async with asyncio.timeout(timeout):
                return await self._probe(check)
        except TimeoutError:
            return critical(f"no answer within {timeout:g} s")
        except OSError as error:  # of this process, such as no more files: the next run may find better times
            return critical(f"could not be run: {error.strerror or error}")

    def _learn(self, key: Key, result: Result) -> None:
        before = self._health.get(key)
        if before is None:
            return  # it is not wanted any more
        after = step(before, result.outcome, key.check.policy)
        self._health[key] = after
        told = self._details.get(key)
        if result.outcome is Outcome.PASSING:
            self._details.pop(key, None)
        else:
            self._details[key] = result.detail or result.outcome.value
        turned = before.state is not after.state
        if turned:
            self._log.info("check", check=str(key), state=after.state.value, detail=result.detail)
        if turned or before.flapping != after.flapping or (not after.ready and told != self._details.get(key)):
            self._on_change()
