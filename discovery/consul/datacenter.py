"""Reads one datacenter into the Exports: what is watched, what is looked at in turn, what is looked at again.

    catalog watch ─ names, tags ─┬─ look by filter ─ which say isthmus-export ─┐
                                 └──────────── Exports.wanted ─────────────────┴─ Turns ─┬─ a watch per service
    watches of failing checks ─ which services differ ─┐                                 │
    census when the catalog moves ─────────────────────┴─ reads of the others ───────────┴─→ Exports.health

A service with its own watch needs nothing else. Of the others a change of health is told by two watches, of the checks
that warn and of those that fail (most pass, so these lists are short), and any other change by a census
(discovery.consul.census) when the index of the catalog moves. Where Consul gives none, all of them are looked at in
turn instead, for as long as the index moves.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable
from functools import partial

import msgspec

from discovery.consul.belief import Doubt, doubt, is_filtered, is_whole
from discovery.consul.census import Comparison, read_census
from discovery.consul.client import Answer, ConsulClient
from discovery.consul.convert import EXPORT
from discovery.consul.errors import NoDatacenter, NoLeader, ServerFailed, TooLarge, TooMany, Unreachable
from discovery.consul.exports import Exports
from discovery.consul.imports.desired import written_by_us
from discovery.consul.settings import ConsulSettings
from discovery.consul.turns import Move, Turns
from discovery.consul.types import FailingCheck, read_checks, read_health, read_services
from discovery.consul.watch import Watch
from federation.aio.backoff import Backoff
from federation.aio.clock import Clock
from federation.errors import Denied, InvalidInput, IsthmusError
from federation.log import Logger
from federation.model.cluster import Problem

WORKERS = 8
"""Reads of services without a watch that are under way at the same time."""
_LOOK_SECONDS = 1.0
"""Between two looks by filter: each makes Consul go through all instances."""
_SWEEP_PART = 10
_CENSUS_SHARE = 5.0
"""A census is followed by a pause so many times as long as it took, at most `_CENSUS_PAUSE` seconds: it costs Consul a
sixth of a core at most, unless it is very slow."""
_CENSUS_PAUSE = 10.0
_CENSUS_QUIET = 60.0
"""After so many seconds there is one though the catalog has not moved: a node with another address does not move it."""
_QUIET_FAILURES = 1
"""So many failures in a row are ordinary: a server restarts, a connection is cut."""
_FAILING = ("critical", "warning")
_CENSUS = "census"
FLAGGED = f'"{EXPORT}" in ServiceMeta'


class Datacenter:
    """`run` until cancelled. `on_change` is called when the Exports, or the problems, may be others than before."""

    def __init__(
        self,
        client: ConsulClient,
        settings: ConsulSettings,
        name: str,
        exports: Exports,
        *,
        watches: int,
        on_change: Callable[[], None],
        clock: Clock,
        log: Logger,
        rng: random.Random,
    ) -> None:
        self.name = name
        self.live = False
        """Everything has been read from Consul once."""
        self._client, self._settings, self._exports, self._on_change = client, settings, exports, on_change
        self._clock, self._rng, self._log = clock, rng, log.bind(datacenter=name)
        self._stale = settings.consistency == "stale"
        self._turns = Turns(watches)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._names_read = self._flags_read = False
        self._read: set[str] = set()
        self._indexes: dict[str, int] = {}
        self._plain: dict[str, int] = {}
        """The same of answers that were not streamed: those of one service never fall, unless servers begin anew."""
        self.catalog_index = 0
        """As last seen, now or before this process began."""
        self._anonymous = not settings.token_file
        self._emptied = False
        self._began_anew = float("-inf")
        self._look, self._moved, self._held = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._comparison = Comparison()
        self._failing: dict[str, frozenset[FailingCheck]] = {}
        self._queue: dict[str, bool] = {}
        self._queued = asyncio.Event()
        self._doubtful: set[str] = set()
        """Services with a watch that are read all the same, once."""
        self._troubles: dict[str, tuple[int, IsthmusError | Doubt]] = {}
        self._filtered: set[str] = set()

    async def run(self) -> None:
        """Follow the datacenter."""
        async with asyncio.TaskGroup() as tasks:
            self._group = tasks
            names = self._watch("catalog", partial(self._client.services, self.name), self._take_names)
            tasks.create_task(names.run(), name=f"consul-{self.name}-catalog")
            tasks.create_task(self._look_for_flags(), name=f"consul-{self.name}-flags")
            tasks.create_task(self._follow_catalog(), name=f"consul-{self.name}-census")
            tasks.create_task(self._confirm(), name=f"consul-{self.name}-confirm")
            for number in range(WORKERS):
                tasks.create_task(self._work(), name=f"consul-{self.name}-read-{number}")

    def assign(self) -> None:
        """What has to be read may be something else now: begin and end watches."""
        if self._group is None or not self._names_read:
            return
        wanted = self._exports.wanted(self.name)
        followed = self._turns.watched.keys() | self._turns.others
        for service in followed - wanted:
            self._exports.drop((self.name, service))
            self._read.discard(service)
            self._indexes.pop(service, None)
            self._plain.pop(service, None)
            self._filtered.discard(_instances_of(service))
            self._troubles.pop(_instances_of(service), None)
        self._move(self._turns.want(wanted, now=self._clock.monotonic()))
        self._follow_failing(bool(self._turns.others))
        for service in self._turns.others - followed:
            self._enqueue(service)
        self._check_live()

    async def fetch(self, service: str) -> bool:
        """Read a service now, whether anybody follows it or not; whether the list is whole. Raises what the client
        does, and ServerFailed."""
        answer = await self._client.health(self.name, service)
        if (reason := self._doubt(answer)) is not None:
            raise ServerFailed(f"Consul {self.name}: {reason.detail}", code=reason.code)
        try:
            self._take_health(service, answer)
        except msgspec.MsgspecError as error:
            raise ServerFailed(f"Consul {self.name}: no answer that makes sense: {error}") from error
        return is_whole(answer.meta, anonymous=self._anonymous)

    def problems(self) -> list[Problem]:
        """What is wrong with the reading, each kind once."""
        found: dict[str, Problem] = {}
        for count, trouble in self._troubles.values():
            lasting = isinstance(trouble, Denied | InvalidInput)
            if count <= _QUIET_FAILURES and self.live and not lasting:
                continue
            if isinstance(trouble, IsthmusError):
                code, detail = trouble.error_code, str(trouble)
            else:
                code, detail = trouble.code, trouble.detail
            found.setdefault(code, Problem(code, f"Consul {self.name}", detail))
        if self._filtered:
            what = min(self._filtered)
            more = f" and {len(self._filtered) - 1} more lists" if len(self._filtered) > 1 else ""
            who = "without a token one" if self._anonymous else "the token"
            needs = "set consul.token_file; the policy of that token" if self._anonymous else "its policy"
            detail = (
                f"{who} may not see all of {what}{more}; what is missing there counts as it was: "
                f'{needs} needs node_prefix "" and service_prefix "" with read'
            )
            found["consul_filtered"] = Problem("consul_filtered", f"Consul {self.name}", detail)
        return list(found.values())

    # --- what answers say --------------------------------------------------------------------------------------------

    def _watch(
        self,
        what: str,
        read: Callable[..., object],
        take: Callable[[Answer], bool],
        tell: Callable[[IsthmusError | Doubt | None], None] | None = None,
    ) -> Watch:
        return Watch(
            read,  # type: ignore[arg-type]
            take,
            what=what,
            wait=self._settings.wait,
            stale=self._stale,
            max_stale=self._settings.max_stale,
            tell=tell or partial(self._tell, what),
            clock=self._clock,
            log=self._log,
            rng=self._rng,
        )

    def _doubt(self, answer: Answer) -> Doubt | None:
        return doubt(answer.meta, stale=self._stale, max_stale=self._settings.max_stale)

    def _take_names(self, answer: Answer) -> bool:
        services = read_services(answer.body)
        filtered = self._note_filtered("the catalog", answer)
        if 0 < answer.meta.index < self.catalog_index:
            self._went_back()
        if not services and not filtered and not self._emptied:
            self._log.warning("Consul lists no service at all", held_for=self._settings.resync)
            self._doubt_removals()
        self._emptied = not services
        changed = self._exports.catalog(self.name, services, filtered=filtered)
        if answer.meta.index != self.catalog_index or not self._names_read:
            self.catalog_index = answer.meta.index
            self._look.set()
            self._moved.set()
        # A filtered list of nothing is what a token without rights sees: nobody knows what there is.
        self._names_read = self._names_read or bool(services) or not filtered
        if changed or not self.live:
            self.assign()
        self._on_change()
        return changed

    def _went_back(self) -> None:
        """The servers are others, or were restored: agents of Consul will register again what these do not know."""
        if self._clock.monotonic() < self._began_anew + _LOOK_SECONDS:
            return  # all watches tell it
        self._began_anew = self._clock.monotonic()
        self._log.warning("Consul begins anew", held_for=self._settings.resync)
        self._doubt_removals()

    def _doubt_removals(self) -> None:
        self._exports.doubt(self.name, until=self._clock.monotonic() + self._settings.resync)

    def _take_health(self, service: str, answer: Answer, *, plain: bool = True) -> bool:
        """`plain`: asked without an index, so that nothing better is to be had."""
        entries, unreadable = read_health(answer.body)
        entries = [entry for entry in entries if not written_by_us(entry.service.meta or {})]
        key, whole = (self.name, service), is_whole(answer.meta, anonymous=self._anonymous)
        if not answer.meta.streamed:
            self._note_filtered(_instances_of(service), answer)
            # That of the catalogue is told last: Consul lets the query that waits end first.
            if not self._stale and 0 < answer.meta.index < self._plain.get(service, 0):
                self._went_back()
            self._plain[service] = answer.meta.index
        elif not plain and self._exports.lacks(key, entries, unreadable):
            self._doubtful.add(service)  # the same without streaming says whether that is so
            self._enqueue(service)
        now = self._clock.monotonic()
        changed = self._exports.health(key, entries, unreadable, whole=whole, now=now)
        self._indexes[service] = answer.meta.index
        if entries or not is_filtered(answer.meta, anonymous=self._anonymous):
            self._read.add(service)
        if self._exports.due(self.name) is not None:
            self._held.set()
        self._check_live()
        if changed:
            self._on_change()
        return changed

    def _take_watched(self, service: str, answer: Answer) -> bool:
        changed = self._take_health(service, answer, plain=False)
        if changed:
            self._turns.changed(service, now=self._clock.monotonic(), unseen=False)
        return changed

    def _tell_watched(self, service: str, trouble: IsthmusError | Doubt | None) -> None:
        self._tell(f"service {service}", trouble)
        if isinstance(trouble, TooLarge):
            self._read.add(service)  # as in `_work`
            self._check_live()

    def _take_failing(self, state: str, answer: Answer) -> bool:
        new = frozenset(read_checks(answer.body))
        old = self._failing.get(state)
        self._failing[state] = new
        if old is None:  # what failed before this watch began may have been read before that
            self._enqueue_all(self._turns.others)
            return True
        if new != old:
            self._enqueue_all(self._concerned(new ^ old))
        return new != old

    def _concerned(self, checks: Iterable[FailingCheck]) -> set[str]:
        """The services without a watch that these checks are about; those of a node are about all on it."""
        found, nodes = set(), set()
        for check in checks:
            if check.service_name:
                found.add(check.service_name)
            else:
                nodes.add(check.node)
        if nodes:
            for service in self._turns.others - found:
                if any(node in nodes for node, _ in self._exports.instances.get((self.name, service), ())):
                    found.add(service)
        return found & self._turns.others

    def _check_live(self) -> None:
        if self.live or not (self._names_read and self._flags_read):
            return
        if self._turns.watched.keys() <= self._read and self._turns.others <= self._read:
            self.live = True
            self._log.info("Consul read", services=len(self._read))
            self._on_change()

    # --- loops -------------------------------------------------------------------------------------------------------

    async def _look_for_flags(self) -> None:
        """Which services say by the meta of an instance that they are exported: asked when the catalog has moved."""
        backoff = Backoff(base=0.1, cap=5.0, uniform=self._rng.uniform)
        while True:
            await self._look.wait()
            self._look.clear()
            try:
                answer = await self._client.services(self.name, filter=FLAGGED, stale=self._stale)
                reason = self._doubt(answer)
                if reason is None:
                    services = read_services(answer.body)
            except IsthmusError as error:
                self._tell("flags", error)
            except msgspec.MsgspecError as error:
                self._tell("flags", ServerFailed(f"no answer that makes sense: {error}"))
            else:
                if reason is None:
                    self._tell("flags", None)
                    backoff.reset()
                    self._flags_read = self._flags_read or self._names_read
                    filtered = is_filtered(answer.meta, anonymous=self._anonymous)
                    if self._exports.flagged(self.name, services, filtered=filtered) or not self.live:
                        self.assign()
                    await self._clock.sleep(_LOOK_SECONDS)
                    if self._names_read and not self._flags_read:
                        self._look.set()
                    continue
                self._tell("flags", reason)
            self._look.set()
            await self._clock.sleep(backoff.next())

    async def _work(self) -> None:
        """Read what is queued."""
        backoff = Backoff(base=0.1, cap=5.0, uniform=self._rng.uniform)
        while True:
            while not self._queue:
                self._queued.clear()
                await self._queued.wait()
            service = next(iter(self._queue))
            unseen = self._queue.pop(service)
            if service not in self._turns.others and service not in self._doubtful:
                continue
            plain = service in self._doubtful or unseen or not self._stale
            self._doubtful.discard(service)
            # With `stale`, another server than the one that told of the change may answer: it is to wait for it, too.
            index = 0 if plain else self._indexes.get(service, 0)
            try:
                answer = await self._client.health(
                    self.name, service, index=index, wait=_LOOK_SECONDS, stale=self._stale
                )
                if service not in self._turns.others and service not in self._turns.watched:
                    continue
                reason = self._doubt(answer)
                changed = reason is None and self._take_health(service, answer, plain=index == 0)
            except TooLarge as error:
                self._tell(_instances_of(service), error)
                self._read.add(service)  # it counts as it was, and nothing else waits for it
                self._check_live()
            except IsthmusError as error:
                self._tell("reads", error)
                await self._again(service, unseen, backoff)
            except msgspec.MsgspecError as error:
                self._tell("reads", ServerFailed(f"{service}: no answer that makes sense: {error}"))
                await self._again(service, unseen, backoff)
            else:
                self._tell("reads", reason)
                if reason is not None:
                    await self._again(service, unseen, backoff)
                    continue
                backoff.reset()
                self._tell(_instances_of(service), None)
                if changed:
                    self._move(self._turns.changed(service, now=self._clock.monotonic(), unseen=unseen))

    async def _again(self, service: str, unseen: bool, backoff: Backoff) -> None:
        await self._clock.sleep(backoff.next())
        self._queue.setdefault(service, unseen)
        if service in self._turns.watched:
            self._doubtful.add(service)
        self._queued.set()

    async def _follow_catalog(self) -> None:
        """Find what has changed of the services without a watch, when the catalog has moved."""
        backoff = Backoff(base=0.5, cap=5.0, uniform=self._rng.uniform)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CENSUS_QUIET):
                    await self._moved.wait()
            self._moved.clear()
            if not self._turns.others:
                await self._clock.sleep(_LOOK_SECONDS)
                continue
            began = self._clock.monotonic()
            try:
                await self._census()
            except (Unreachable, NoLeader, NoDatacenter, TooMany) as error:
                self._tell(_CENSUS, error)
                self._moved.set()
                await self._clock.sleep(backoff.next())
            except IsthmusError as error:
                detail = f"{error.message}; changes of services without a watch are found in turn, which takes longer"
                self._tell(_CENSUS, ServerFailed(detail, hint=error.hint, code="consul_census"))
                await self._sweep()
                await self._clock.sleep(_LOOK_SECONDS)
            else:
                backoff.reset()
                took = self._clock.monotonic() - began
                await self._clock.sleep(max(_LOOK_SECONDS, min(_CENSUS_SHARE * took, _CENSUS_PAUSE)))

    async def _census(self) -> None:
        """Count all instances, and have read what differs from what is held. Raises what the client does."""
        answer = await self._client.nodes(self.name, stale=self._stale)
        reason = self._doubt(answer)
        self._tell(_CENSUS, reason)
        if reason is not None:
            self._moved.set()
            return
        try:
            census = read_census(answer.body)
        except msgspec.MsgspecError as error:
            raise ServerFailed(f"{self.name}: no answer that makes sense: {error}") from error
        held = self._exports.instances
        others = {s: held[self.name, s].keys() for s in self._turns.others & self._read if (self.name, s) in held}
        differing = self._comparison.differing(census, answer.meta.index, held=others, read_at=self._indexes)
        for service in sorted(differing):
            self._queue.setdefault(service, True)
        if differing:
            self._queued.set()
            self._moved.set()  # another one says whether these reads have seen it

    async def _sweep(self) -> None:
        """Look at the services without a watch, a few at a time."""
        for count, service in enumerate(sorted(self._turns.others), 1):
            self._queue.setdefault(service, True)
            self._queued.set()
            if count % _SWEEP_PART == 0:
                await self._clock.sleep(_SWEEP_PART / self._settings.sweep)

    async def _confirm(self) -> None:
        """The second look at what vanished in numbers."""
        while True:
            due = self._exports.due(self.name)
            if due is None:
                self._held.clear()
                await self._held.wait()
                continue
            await self._clock.sleep(max(0.0, due - self._clock.monotonic()))
            ripe = sorted(self._exports.ripe(self.name, now=self._clock.monotonic()))
            looks: dict[str, bool | IsthmusError] = {}
            async with asyncio.TaskGroup() as tasks:
                for number in range(min(WORKERS, len(ripe))):
                    tasks.create_task(self._look_again(ripe, looks), name=f"consul-{self.name}-again-{number}")
            self._tell("second look", next((e for e in looks.values() if isinstance(e, IsthmusError)), None))
            seen = {service for service, whole in looks.items() if whole is True}
            if self._exports.confirm(self.name, seen, now=self._clock.monotonic()):
                self.assign()
            self._on_change()
            if len(seen) < len(looks):  # the others count as they were, and nothing else waits for them
                await self._clock.sleep(_LOOK_SECONDS)

    async def _look_again(self, services: list[str], looks: dict[str, bool | IsthmusError]) -> None:
        """Read `services`, and note in `looks` whether the list of each is whole, or why there is none."""
        while services:
            service = services.pop()
            try:
                looks[service] = await self.fetch(service)
            except IsthmusError as error:
                looks[service] = error

    # --- watches -----------------------------------------------------------------------------------------------------

    def _move(self, move: Move) -> None:
        for service in move.stop:
            self._end(f"service {service}")
        for service in move.start:
            watch = self._watch(
                f"service {service}",
                partial(self._client.health, self.name, service),
                partial(self._take_watched, service),
                partial(self._tell_watched, service),
            )
            self._begin(f"service {service}", watch)

    def _follow_failing(self, wanted: bool) -> None:
        """The watches of failing checks run while there are services that need them."""
        for state in _FAILING:
            what = f"{state} checks"
            if wanted and what not in self._tasks:
                read = partial(self._client.checks, self.name, state)
                self._begin(what, self._watch(what, read, partial(self._take_failing, state)))
            elif not wanted and what in self._tasks:
                self._end(what)
                self._failing.pop(state, None)

    def _begin(self, what: str, watch: Watch) -> None:
        assert self._group is not None  # noqa: S101 - it runs
        self._tasks[what] = self._group.create_task(watch.run(), name=f"consul-{self.name}-{what}")

    def _end(self, what: str) -> None:
        task = self._tasks.pop(what, None)
        if task is not None:
            task.cancel()
        self._troubles.pop(what, None)

    def _enqueue(self, service: str) -> None:
        self._queue.pop(service, None)
        self._queue[service] = False
        self._queued.set()

    def _enqueue_all(self, services: Iterable[str]) -> None:
        for service in sorted(services):
            self._enqueue(service)

    # --- what is wrong -----------------------------------------------------------------------------------------------

    def _tell(self, what: str, trouble: IsthmusError | Doubt | None) -> None:
        if trouble is None:
            if self._troubles.pop(what, None) is not None:
                self._on_change()
            return
        count, last = self._troubles.get(what, (0, None))
        self._troubles[what] = (count + 1, trouble)
        if last is None or _code(last) != _code(trouble):
            self._log.warning("reading Consul", what=what, code=_code(trouble), detail=str(trouble))
        if count <= _QUIET_FAILURES:
            self._on_change()

    def _note_filtered(self, what: str, answer: Answer) -> bool:
        before, filtered = len(self._filtered), is_filtered(answer.meta, anonymous=self._anonymous)
        (self._filtered.add if filtered else self._filtered.discard)(what)
        if len(self._filtered) != before:
            self._on_change()
        return filtered


def _instances_of(service: str) -> str:
    return f"the instances of {service[:80]}"


def _code(trouble: IsthmusError | Doubt) -> str:
    return trouble.error_code if isinstance(trouble, IsthmusError) else trouble.code
