"""The Consul source: services of one or more datacenters, read by blocking queries.

Arrives: what discovery.consul.datacenter reads into the Exports of discovery.consul.exports, and the rule file. Leaves:
SourceState for discovery.report and discovery.view. A Consul that is away changes nothing but the problems; what was
known is on disk (discovery.consul.cache), so that an agent started meanwhile serves as well. A datacenter that was
never read here is not waited for, and says nothing before all of it was read: of what nobody has heard nothing is lost.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from discovery.consul import cache, rules
from discovery.consul.client import ConsulClient
from discovery.consul.convert import Claim
from discovery.consul.datacenter import Datacenter
from discovery.consul.exports import FORGET_NS, Context, Exports, Key, Memory
from discovery.consul.instances import Reading
from discovery.consul.rulefile import RuleFile
from discovery.consul.settings import ConsulSettings
from discovery.sources.base import Preview, SourceState, no_service, not_offered, successor
from discovery.state import Saver, load_or_none
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.errors import Conflict
from federation.log import Logger
from federation.model.cluster import Problem
from federation.model.ids import ServiceName
from federation.model.service import Grant, Locality

_YIELD_EVERY = 100
_PATIENCE = 5.0


class ConsulSource:
    """Source over the datacenters of one Consul. `client` is for who writes to it, too."""

    def __init__(
        self,
        settings: ConsulSettings,
        *,
        cache_path: Path,
        locality: Locality,
        single_machine: bool,
        clock: Clock,
        log: Logger,
        rng: random.Random | None = None,
        cache_seconds: float = 10.0,
        first: Path | None = None,
        alone: bool = True,
        client: ConsulClient | None = None,
    ) -> None:
        """`first`: a file that says, while it is there, that nothing was ever reported from Consul; it is removed
        before something is. Without it, and without what was read before on disk, everything has to be read first.
        `alone`: no other agent of this cluster may have reported what this one has not read."""
        self.state: Latest[SourceState] = Latest(SourceState())
        self.client = client or ConsulClient(settings, clock=clock, log=log)
        self.live: Latest[bool] = Latest(False)
        """All has been read from Consul, not from the disk."""
        self._settings, self._clock, self._log = settings, clock, log
        rng = rng or random.Random()
        self._exports = Exports(
            Context(
                namespaces=settings.datacenters,
                reading=Reading(tagged=settings.tagged, ipv6=settings.ipv6, loopback=single_machine),
                tag=settings.tag,
                labels=settings.labels,
                locality=locality,
                confirm_seconds=settings.confirm,
            )
        )
        self._wake = asyncio.Event()
        self._datacenters = {
            name: Datacenter(
                self.client,
                settings,
                name,
                self._exports,
                watches=settings.watches // len(settings.datacenters),
                on_change=self._wake.set,
                clock=clock,
                log=log,
                rng=rng,
            )
            for name in settings.datacenters
        }
        self._rules = (
            RuleFile(Path(settings.rules), self._ruled, on_problem=self._wake.set, clock=clock, log=log)
            if settings.rules
            else None
        )
        self._changed: set[ServiceName] = set()
        self._cached: dict[Key, msgspec.Raw] = {}
        self._first, self._alone = first, alone
        self._known: set[str] = set()
        """Datacenters of which something may have been reported: they were read, now or before."""
        self._novel = False
        """Of the other ones it is known that nothing was."""
        self._settled = False
        """They are not waited for any more."""
        self._saver = Saver(
            cache_path, self._dump, interval=cache_seconds, clock=clock, log=log, on_problem=self._wake.set
        )
        self._cache_path = cache_path

    @property
    def what(self) -> str:
        return f"Consul at {self.client.host}"

    def has_namespace(self, namespace: str) -> bool:
        """There are no namespaces to be missing: they are parts of names."""
        return True

    async def run(self) -> None:
        """Follow Consul until cancelled."""
        self._load()
        if self._rules is not None:
            await self._rules.look()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._saver.run(), name="consul-cache")
                tasks.create_task(self._build(), name="consul-build")
                tasks.create_task(self.client.follow_token(self._wake.set), name="consul-token")
                tasks.create_task(self._patience(), name="consul-patience")
                if self._rules is not None:
                    tasks.create_task(self._rules.run(), name="consul-rules")
                for name, datacenter in self._datacenters.items():
                    tasks.create_task(datacenter.run(), name=f"consul-{name}")
        finally:
            await self._saver.flush()
            await self.client.close()

    # --- exports by command ------------------------------------------------------------------------------------------

    async def export(self, name: ServiceName, wanted: tuple[Grant, ...]) -> tuple[str, bool]:
        """Write a rule for `name`; (where, changed). Raises NotFound, Conflict, Unavailable, StorageFailed."""
        key, rule, _, known = await self._exporting(name, wanted)
        if known:
            return self._how(key), False
        file = self._file(name)
        where = await file.replace(self._own_rule(key), rule)
        self._built_now()
        self._log.info("exported by a rule", service=str(name), where=where)
        return where, True

    async def unexport(self, name: ServiceName) -> tuple[str, bool]:
        """Remove the rule of `name`; (where, changed). Raises as `export`."""
        key = self._find(name)
        rule = self._withdrawing(name, key)
        if rule is None:
            return "", False
        where = await self._file(name).replace(rule, None)
        self._built_now()
        return where, True

    async def preview(self, name: ServiceName, wanted: tuple[Grant, ...] | None) -> Preview:
        """As `export` or `unexport`, without the last step."""
        if wanted is None:
            rule = self._withdrawing(name, self._find(name))
            return Preview(where="" if rule is None else self._file(name).where(rule), changed=rule is not None)
        key, _, claim, known = await self._exporting(name, wanted)
        where = self._how(key) if known else str(self._file(name).path)
        return Preview(where=where, changed=not known, claim=claim.service)

    async def _exporting(self, name: ServiceName, wanted: tuple[Grant, ...]) -> tuple[Key, rules.Rule, Claim, bool]:
        """The service, its rule, what would be offered then, and whether it is already."""
        key = self._find(name)
        now_ns = self._clock.wall_ns()
        if not self._exports.instances.get(key):
            await self._datacenters[key[0]].fetch(key[1])
        first = self._exports.rules.first(*key)
        held = self._exports.preview(key, first, wall_ns=now_ns)
        if held.service is not None and held.service.grants == wanted and held.service.name == name:
            rule = first or rules.rule_for(*key, wanted, since=_time(now_ns))
            return key, rule, held, True
        made = rules.rule_for(*key, wanted, since=_time(self._since(key) or now_ns))
        if first is not None:
            # What else a rule says of the service goes on being so; its patterns do not.
            made = msgspec.structs.replace(
                first,
                service=made.service,
                datacenter=made.datacenter,
                consumers=made.consumers if wanted else "*",
                since=first.since or made.since,
                by=made.by,
            )
            if rules.is_exact(first, *key) and first.by != rules.BY_COMMAND:
                raise Conflict(
                    f"{name} is exported by {self._how(key)} for other consumers",
                    hint="edit that file",
                    code="conflict",
                )
        elif not wanted:
            # Without consumers of its own it would have those that meta says.
            made = msgspec.structs.replace(made, consumers="*")
        claim = self._exports.preview(key, made, wall_ns=now_ns)
        if claim.service is None:
            fault = next(iter(claim.faults), None)
            detail = fault.detail if fault else "it has no instances"
            raise not_offered(name, Problem(fault.code if fault else "no_service", str(name), detail))
        return key, made, claim, False

    def _withdrawing(self, name: ServiceName, key: Key) -> rules.Rule | None:
        """The rule to be removed; None where nothing is exported. Raises Conflict where that would not end it."""
        held = self._exports.rules
        own = self._own_rule(key)
        rule = rules.Rules(tuple(r for r in held.rules if r is not own)).first(*key)
        still = self._exports.preview(key, rule, wall_ns=0)
        if not still.exported:
            return own
        by = (
            f"the rule for {rule.service!r} in {self._settings.rules}"
            if rule is not None
            else f"the meta isthmus-export or the tag {self._settings.tag!r} of its instances"
            if self._settings.tag
            else "the meta isthmus-export of its instances"
        )
        raise Conflict(
            f"{name} is exported by {by}",
            hint="edit that file" if rule is not None else "change how its instances are registered in Consul",
        )

    def _own_rule(self, key: Key) -> rules.Rule | None:
        """The rule that `fedctl export` wrote for a service."""
        found = (r for r in self._exports.rules.rules if r.by == rules.BY_COMMAND and rules.is_exact(r, *key))
        return next(found, None)

    def _how(self, key: Key) -> str:
        """By what a service is exported, for people."""
        rule = self._exports.rules.first(*key)
        if rule is not None and self._rules is not None:
            return self._rules.where(rule)
        return f"Consul {key[0]}/{key[1]}, by its registration"

    def _find(self, name: ServiceName) -> Key:
        key = self._exports.find(name)
        if key is None:
            raise no_service(name, self.state.value, what=self.what)
        return key

    def _file(self, name: ServiceName) -> RuleFile:
        if self._rules is None:
            raise Conflict(
                f"there is no rule file to export {name} by",
                hint="set consul.rules in the agent's settings, or register its instances in Consul with the meta "
                "isthmus-export=true",
                code="no_rule_file",
            )
        return self._rules

    def _since(self, key: Key) -> int:
        memory = self._exports.memory.get(key)
        return memory.since_ns if memory else 0

    # --- what leaves -------------------------------------------------------------------------------------------------

    def _ruled(self, found: rules.Rules) -> None:
        """The rule file has other rules."""
        self._exports.rule(found)
        for datacenter in self._datacenters.values():
            datacenter.assign()
        self._saver.touch()
        self._wake.set()

    async def _build(self) -> None:
        """Build what changed and publish it, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self.live.value and all(d.live for d in self._datacenters.values()):
                self.live.set(True)
                self._saver.touch()
            away = (d for d in self._datacenters.values() if not d.live and d.name not in self._known)
            self._settled = self._settled or (self._novel and all(d.problems() for d in away))
            read = self._read()
            keys = self._exports.take_dirty(read)
            for start in range(0, len(keys), _YIELD_EVERY):
                if start:
                    await asyncio.sleep(0)
                self._build_keys(keys[start : start + _YIELD_EVERY])
            if self._complete and not read <= self._known:
                await self._remember(read)
            self._publish()

    def _built_now(self) -> None:
        """Build all that is dirty: a command is to see what it did."""
        self._build_keys(self._exports.take_dirty(self._read()))
        self._publish()

    async def _patience(self) -> None:
        """A datacenter that says nothing at all is waited for no longer than this."""
        await self._clock.sleep(_PATIENCE)
        self._settled = self._settled or self._novel
        self._wake.set()

    @property
    def _complete(self) -> bool:
        return self.live.value or self._settled

    def _read(self) -> set[str]:
        """The datacenters of which exports are built: not the half of one, because who restarts then would not know
        that something of it was reported. Where all have to be read before anything is, that does not matter."""
        if not self._novel and not self.live.value:
            return set(self._datacenters)
        return self._known | {name for name, datacenter in self._datacenters.items() if datacenter.live}

    async def _remember(self, read: set[str]) -> None:
        """Datacenters were read for the first time. That is on the disk before anything of them is reported."""
        self._known |= read
        if self._first is not None:
            try:
                await asyncio.to_thread(self._first.unlink, missing_ok=True)
            except OSError as error:
                self._log.warning("the file stays", file=self._first.name, error=str(error))
            self._first = None
        self._saver.touch()
        await self._saver.flush()

    def _unread(self) -> frozenset[str]:
        """The namespaces of datacenters that were never read."""
        names = self._datacenters.keys() - self._read()
        ruled = (
            r
            for r in self._exports.rules.rules
            if r.namespace and any(fnmatchcase(name, r.datacenter) for name in names)
        )
        return frozenset({self._settings.datacenters[name] for name in names} | {rule.namespace for rule in ruled})

    def _build_keys(self, keys: Collection[Key]) -> None:
        exports = self._exports
        self._changed |= exports.build(keys, wall_ns=self._clock.wall_ns())
        for key in keys:
            if exports.is_exported(key):
                self._cached[key] = cache.encode_service(*key, exports.instances[key].values())
            else:
                self._cached.pop(key, None)
        if keys and self._complete:  # a part would be taken for the whole at the next start
            self._saver.touch()
        ended, exports.ended = exports.ended, set()
        for name in ended:
            self._datacenters[name].assign()

    def _publish(self) -> None:
        """Set the state when it differs from the last one."""
        changed, self._changed = frozenset(self._changed), set()
        state = successor(
            self.state.value,
            exports=self._exports.claims,
            services=self._exports.names,
            problems=self._problems(),
            complete=self._complete,
            changed=changed,
            unread=self._unread(),
        )
        if state is not None:
            self.state.set(state)

    def _problems(self) -> tuple[Problem, ...]:
        found = [p for datacenter in self._datacenters.values() for p in datacenter.problems()]
        if found and self._settled:
            away = [d.name for d in self._datacenters.values() if not d.live and d.name in self._known]
            if away:
                detail = "not read since the agent started; what was known before counts"
                found.append(Problem("consul_from_disk", f"Consul {', '.join(away)}", detail))
            never = [d.name for d in self._datacenters.values() if not d.live and d.name not in self._known]
            if never:
                detail = (
                    "never read yet, and not waited for: nothing of it is exported, and whoever asks for a service of "
                    f"{', '.join(sorted(self._unread()))} that no other cluster exports gets no answer"
                )
                found.append(Problem("consul_unread", f"Consul {', '.join(never)}", detail))
        found += self.client.problems()
        if self._rules is not None and self._rules.problem is not None:
            found.append(self._rules.problem)
        if self._saver.problem is not None:
            found.append(self._saver.problem)
        return (*found, *self._exports.problems())

    # --- on disk -----------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        loaded = load_or_none(self._cache_path, cache.decode, self._log)
        if loaded is None:
            self._novel = self._alone and self._first is not None and self._first.exists()
            return
        exports, known = self._exports, self._settings.datacenters
        for one in sorted(loaded.memory, key=lambda memory: memory.ended_ns):
            if one.datacenter in known:
                memory = Memory(since_ns=one.since_ns, ports=one.ports, ended_ns=one.ended_ns)
                exports.remember((one.datacenter, one.service), memory)
        if self._rules is not None and loaded.rules:
            self._rules.remember(loaded.rules)
        for held in loaded.services:
            if held.datacenter in known:
                exports.restore((held.datacenter, held.service), held.instances)
        for name in known:
            self._datacenters[name].catalog_index = loaded.indexes.get(name, 0)
        self._known = set(known) & set(loaded.datacenters)
        self._settled = self._known == set(known)
        self._novel = self._settled or self._alone  # of a datacenter that was added since, nothing was reported
        self._build_keys(exports.take_dirty())
        self._publish()

    def _dump(self) -> bytes:
        now = self._clock.wall_ns()
        memory = [
            cache.Remembered(*key, m.since_ns, dict(m.ports), m.ended_ns)
            for key, m in self._exports.memory.items()
            if not m.ended_ns or m.ended_ns > now - FORGET_NS
        ]
        rule_text = self._rules.good if self._rules is not None else b""
        read = self._read()
        services = [held for key, held in self._cached.items() if key[0] in read]
        names = [name for name in self._settings.datacenters if name in read]
        return cache.encode(
            services, memory, rule_text, names, {name: self._datacenters[name].catalog_index for name in names}
        )


def _time(wall_ns: int) -> datetime:
    return datetime.fromtimestamp(wall_ns // 10**9, UTC)
