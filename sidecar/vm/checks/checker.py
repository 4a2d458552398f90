"""Runs the checks of all services of a VM: each by its own pauses, few at a time; tells at once when one turns.

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
from sidecar.vm.checks import grpc_health, http, script, tcp
from sidecar.vm.checks.machine import Health, Outcome, State, pause, step
from sidecar.vm.checks.result import Result, critical
from sidecar.vm.definition import Check, Grpc, Http, Tcp

AT_ONCE = 8
"""Checks that run at the same time."""
AT_ONCE_SCRIPTS = 2
"""Of these, scripts: each is a process."""


class Key(NamedTuple):
    """A check of a service."""

    service: ServiceName
    check: Check

    def __str__(self) -> str:
        return f"{self.service} {self.check.probe}"


async def probe(check: Check) -> Result:
    """One run of a check, without a limit of time."""
    what = check.probe
    if isinstance(what, Tcp):
        return await tcp.run(what)
    if isinstance(what, Http):
        return await http.run(what)
    if isinstance(what, Grpc):
        return await grpc_health.run(what, timeout=check.policy.timeout)
    return await script.run(what)


class Checker:
    """`run` until cancelled; `set` as often as the definitions change. `on_change` is called when a check turns."""

    def __init__(
        self,
        *,
        on_change: Callable[[], None],
        clock: Clock,
        log: Logger,
        rng: random.Random | None = None,
        run: Callable[[Check], Awaitable[Result]] = probe,
    ) -> None:
        self._on_change, self._clock, self._log = on_change, clock, log
        self._rng, self._probe = rng or random.Random(), run
        self._health: dict[Key, Health] = {}
        self._details: dict[Key, str] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._wanted = asyncio.Event()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._script_slots = asyncio.Semaphore(AT_ONCE_SCRIPTS)

    def set(self, keys: Iterable[Key]) -> None:
        """The checks are exactly these; one that was there before keeps its health."""
        self._health = {key: self._health.get(key, Health()) for key in keys}
        self._details = {key: detail for key, detail in self._details.items() if key in self._health}
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

    def count(self, state: State | None = None) -> int:
        """How many checks are in `state`; all of them without one."""
        return sum(1 for health in self._health.values() if state in (None, health.state))

    async def run(self) -> None:
        """Start what is missing, stop what is redundant, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                for key in self._tasks.keys() - self._health.keys():
                    self._tasks.pop(key).cancel()
                for key in self._health.keys() - self._tasks.keys():
                    self._tasks[key] = group.create_task(self._repeat(key), name=f"check-{key}")

    async def _repeat(self, key: Key) -> None:
        while True:
            slots = self._script_slots if key.check.is_script else self._slots
            async with slots:
                result = await self._once(key.check)
            self._learn(key, result)
            await self._clock.sleep(pause(key.check.policy, self._rng))

    async def _once(self, check: Check) -> Result:
        timeout = check.policy.timeout
        try:
            async with asyncio.timeout(timeout):
                return await self._probe(check)
        except TimeoutError:
            return critical(f"no answer within {timeout:g} s")

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
