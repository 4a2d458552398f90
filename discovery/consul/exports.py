"""What the datacenters export, from the instances that were read: builds only the services of which something changed.

Arrives: lists that are believed (discovery.consul.belief). Leaves: exported services (discovery.consul.convert), what
is wrong with them, and which services have to be read for that. No I/O; time is given. A list removes an instance only
if it is whole; what vanishes in numbers is held until a second look (discovery.sources.removals).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from discovery.consul.convert import Before, Claim, Fault, How, convert, endpoint_key
from discovery.consul.instances import Reading, instance
from discovery.consul.rules import Rule, Rules
from discovery.consul.types import Entry, Id, Instance
from discovery.sources.removals import Removals
from federation.errors import InvalidName
from federation.model.cluster import Problem
from federation.model.ids import ServiceName, parse_label
from federation.model.service import Locality, Service
from federation.model.shared import SharedMap

Key: TypeAlias = tuple[str, str]
"""(datacenter, Consul's name of the service)."""
MOST_ENDED = 20_000
"""Exports that ended and are remembered."""
FORGET_NS = 24 * 3600 * 10**9
"""For so long it is remembered of an export that ended since when it was one: a service of one instance is away for a
moment whenever that is replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What stays of an export: since when it is one, the numbers of its ports; and when it ended (0: it has not)."""

    since_ns: int
    ports: Mapping[str, int]
    ended_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the settings say. `namespaces`: of each datacenter."""

    namespaces: Mapping[str, str]
    reading: Reading = field(default_factory=Reading)
    tag: str = ""
    labels: tuple[str, ...] = ("*",)
    locality: Locality = Locality()
    confirm_seconds: float = 2.0


class Exports:
    """The exports of all datacenters of a source."""

    def __init__(self, context: Context) -> None:
        self.claims: SharedMap[ServiceName, Service] = SharedMap()
        self.names: SharedMap[ServiceName, None] = SharedMap()
        """Every service that can have a name in the federation, exported or not."""
        self.rules = Rules()
        self.memory: dict[Key, Memory] = {}
        self._over: dict[Key, int] = {}
        """Those of its exports that ended, and when; the longest ago first."""
        self.instances: dict[Key, dict[Id, Instance]] = {}
        """Of services that were read because they are, or may be, exported."""
        self._context = context
        self._tags: dict[str, dict[str, list[str]]] = {dc: {} for dc in context.namespaces}
        self._flagged: dict[str, set[str]] = {dc: set() for dc in context.namespaces}
        self._removals = {dc: Removals(confirm_seconds=context.confirm_seconds) for dc in context.namespaces}
        self._missing: dict[str, dict[Key, set[Id]]] = {dc: {} for dc in context.namespaces}
        self._total = dict.fromkeys(context.namespaces, 0)
        self.ended: set[str] = set()
        """Datacenters in which something is not exported any more: what is read there may be less."""
        self._dirty: set[Key] = set()
        self._called: dict[Key, ServiceName] = {}
        self._holders: dict[ServiceName, set[Key]] = {}
        self._built: dict[Key, Claim] = {}
        self._problems: dict[Key, tuple[Problem, ...]] = {}
        self._unreadable: dict[Key, dict[Id, str]] = {}
        self._shown: tuple[Problem, ...] | None = ()

    # --- what arrives ------------------------------------------------------------------------------------------------

    def catalog(self, datacenter: str, services: Mapping[str, list[str]], *, filtered: bool) -> bool:
        """The names and tags of a datacenter; whether they differ from before. What a filtered list lacks stays."""
        held = self._tags[datacenter]
        new = {**held, **services} if filtered else dict(services)
        if new == held:
            return False
        self._tags[datacenter] = new
        namespace = self._context.namespaces[datacenter]
        put = {ServiceName(namespace, n): None for n in new.keys() - held.keys() if is_name(n)}
        gone = [ServiceName(namespace, n) for n in held.keys() - new.keys() if is_name(n)]
        if put or gone:
            self.names = self.names.with_(put, gone)
        self._dirty.update((datacenter, n) for n in new.keys() ^ held.keys() if (datacenter, n) in self.instances)
        return True

    def flagged(self, datacenter: str, services: Collection[str], *, filtered: bool) -> bool:
        """The services of which an instance says by its meta that it is exported; whether that is news."""
        new = self._flagged[datacenter] | set(services) if filtered else set(services)
        if new == self._flagged[datacenter]:
            return False
        self._flagged[datacenter] = new
        return True

    def rule(self, rules: Rules) -> None:
        """The rules are these now."""
        self.rules = rules
        self._dirty.update(self.instances)

    def health(
        self, key: Key, entries: Iterable[Entry], unreadable: Mapping[Id, str], *, whole: bool, now: float
    ) -> bool:
        """The instances of a service as a list has them; whether that changed something. Those that cannot be read, and
        those that a list lacks which is not `whole`, count as they were."""
        held = self.instances.get(key)
        old = held or {}
        new: dict[Id, Instance] = {}
        for entry in entries:
            if entry.service.kind:
                continue  # a proxy or a gateway of Consul's mesh speaks for others
            made = instance(entry, self._context.reading)
            last = old.get(made.key)
            new[made.key] = last if last == made else made
        gone = old.keys() - new.keys()
        kept = gone & unreadable.keys() if whole else gone
        missing = gone - kept
        for id_ in gone:
            new[id_] = old[id_]
        self._note_unreadable(key, unreadable)
        changed = held is None or any(old.get(id_) is not one for id_, one in new.items())
        self.instances[key] = new
        self._total[key[0]] += len(new) - len(old)
        if changed:
            self._dirty.add(key)
        if not whole and old and self._missing[key[0]].get(key):
            return changed  # what the last whole list lacked is not there because this one says nothing of it
        return self._lack(key, missing, now) or changed

    def lacks(self, key: Key, entries: Iterable[Entry], unreadable: Mapping[Id, str]) -> bool:
        """Whether a list lacks instances that are held."""
        held = self.instances.get(key)
        if not held:
            return False
        there = {(e.node.node, e.service.id) for e in entries if not e.service.kind}
        return not held.keys() <= there | unreadable.keys()

    def restore(self, key: Key, instances: Iterable[Instance]) -> None:
        """What was known of a service before this process began."""
        self.instances[key] = {one.key: one for one in instances}
        self._total[key[0]] += len(self.instances[key])
        self._dirty.add(key)

    def remember(self, key: Key, memory: Memory) -> None:
        """What stays of the export of `key` is this."""
        self.memory[key] = memory
        self._over.pop(key, None)
        if memory.ended_ns:
            self._over[key] = memory.ended_ns

    def _forget(self, wall_ns: int) -> None:
        while self._over:
            key, ended_ns = next(iter(self._over.items()))
            if len(self._over) <= MOST_ENDED and ended_ns > wall_ns - FORGET_NS:
                return
            del self._over[key], self.memory[key]

    def is_exported(self, key: Key) -> bool:
        """Whether a service is, or is to be, exported as far as it was built."""
        return key in self._built

    def drop(self, key: Key) -> None:
        """A service that is not to be read any more."""
        held = self.instances.pop(key, None)
        if held is None:
            return
        self._total[key[0]] -= len(held)
        self._missing[key[0]].pop(key, None)
        self._unreadable.pop(key, None)
        self._dirty.add(key)

    # --- what vanished -----------------------------------------------------------------------------------------------

    def due(self, datacenter: str) -> float | None:
        """When to look again at what is held though it is missing (monotonic); None when nothing is."""
        return self._removals[datacenter].due()

    def held(self, datacenter: str) -> set[str]:
        """The services that have such instances."""
        return {key[1] for key in self._missing[datacenter]}

    def ripe(self, datacenter: str, *, now: float) -> set[str]:
        """Those of them that are to be looked at again now."""
        ripe = self._removals[datacenter].ripe(now)
        return {key[1] for key, ids in self._missing[datacenter].items() if any(_text(key, i) in ripe for i in ids)}

    def confirm(self, datacenter: str, services: Collection[str], *, now: float) -> bool:
        """These were looked at again: what of them has been missing for long enough is gone. Whether something is."""
        return self._believe(datacenter, now, seen=services)

    def doubt(self, datacenter: str, *, until: float) -> None:
        """Whatever goes counts until then at least (monotonic)."""
        self._removals[datacenter].doubt(until)

    def _lack(self, key: Key, missing: set[Id], now: float) -> bool:
        """The list of a service lacks these of its instances; whether some are believed to be gone."""
        lacking = self._missing[key[0]]
        if not missing and not lacking:
            return False
        if missing:
            lacking[key] = missing
        else:
            lacking.pop(key, None)
        return self._believe(key[0], now)

    def _believe(self, datacenter: str, now: float, *, seen: Collection[str] | None = None) -> bool:
        """`seen`: the services that this is a second look at."""
        missing = {_text(key, id_): (key, id_) for key, ids in self._missing[datacenter].items() for id_ in ids}
        present = self._total[datacenter] - len(missing)
        confirmed = {text for text, (key, _) in missing.items() if seen is not None and key[1] in seen}
        gone = self._removals[datacenter].look(
            set(missing), present=present, now=now, whole=seen is not None, seen=confirmed
        )
        for key, id_ in (missing[text] for text in gone):
            del self.instances[key][id_]
            self._total[datacenter] -= 1
            self._dirty.add(key)
            ids = self._missing[datacenter][key]
            ids.discard(id_)
            if not ids:
                del self._missing[datacenter][key]
        return bool(gone)

    # --- what leaves -------------------------------------------------------------------------------------------------

    def wanted(self, datacenter: str) -> set[str]:
        """The services that have to be read: those that are exported, and those that may be."""
        context, tags = self._context, self._tags[datacenter]
        found = set(self._flagged[datacenter])
        found |= {s for dc, s in self.instances if dc == datacenter and self._is_exported((dc, s))}
        if context.tag:
            found |= {service for service, has in tags.items() if context.tag in has}
        if self.rules.rules:
            found |= {service for service in tags if self.rules.first(datacenter, service) is not None}
        return found

    def take_dirty(self, datacenters: Collection[str] | None = None) -> list[Key]:
        """What is to be built, of these datacenters; it is not dirty any more."""
        taken = [key for key in self._dirty if datacenters is None or key[0] in datacenters]
        self._dirty.difference_update(taken)
        return taken

    def build(self, keys: Iterable[Key], *, wall_ns: int) -> frozenset[ServiceName]:
        """Build the exports of `keys`; the names whose claim may be another one now."""
        touched: set[ServiceName] = set()
        for key in sorted(keys):
            touched |= self._build(key, wall_ns)
        put: dict[ServiceName, Service] = {}
        gone: list[ServiceName] = []
        for name in touched:
            service = self._winning(name)
            held = self.claims.get(name)
            if service is None:
                gone.append(name)
            elif service is not held and service != held:
                put[name] = service
        if put or gone:
            self.claims = self.claims.with_(put, gone)
        return frozenset(touched)

    def preview(self, key: Key, rule: Rule | None, *, wall_ns: int) -> Claim:
        """What would be claimed of a service under this rule."""
        memory = self.memory.get(key)
        before = Before(exported_at_ns=memory.since_ns if memory else wall_ns, ports=memory.ports if memory else None)
        instances = list(self.instances.get(key, {}).values())
        return convert(self.name_of(key, rule), instances, how=self._how(rule), before=before)

    def name_of(self, key: Key, rule: Rule | None) -> ServiceName:
        """What a service is called in the federation."""
        namespace = (rule.namespace if rule else "") or self._context.namespaces[key[0]]
        return ServiceName(namespace, (rule.name if rule else "") or key[1])

    def find(self, name: ServiceName) -> Key | None:
        """The service that has, or would have, this name."""
        holders = self._holders.get(name)
        if holders:
            return min(holders)
        for datacenter, namespace in self._context.namespaces.items():
            if namespace == name.namespace and (name.name in self._tags[datacenter]):
                return datacenter, name.name
        return None

    def problems(self) -> tuple[Problem, ...]:
        """What is wrong, by service."""
        if self._shown is None:
            found = [p for key in sorted(self._problems) for p in self._problems[key]]
            for name, holders in sorted(self._holders.items()):
                if len(holders) > 1:
                    found += self._duplicates(name)
            self._shown = tuple(found)
        return (*self._rule_problems(), *self._held_problems(), *self._shown)

    # --- one service -------------------------------------------------------------------------------------------------

    def _how(self, rule: Rule | None) -> How:
        context = self._context
        return How(rule=rule, tag=context.tag, labels=context.labels, locality=context.locality)

    def _build(self, key: Key, wall_ns: int) -> set[ServiceName]:
        """Build one; the names that it has, or had."""
        instances = self.instances.get(key)
        rule = self.rules.first(*key)
        called = self.name_of(key, rule)
        memory = self.memory.get(key)
        held = self._built.get(key)
        claim = Claim()
        if instances:
            claim = convert(
                called,
                list(instances.values()),
                how=self._how(rule),
                before=Before(
                    exported_at_ns=memory.since_ns if memory else wall_ns, ports=memory.ports if memory else None
                ),
                held={endpoint_key(e): e for e in held.service.endpoints} if held and held.service else None,
            )
        if claim.service is not None:
            ports = claim.ports or {}
            if memory is None or memory.ended_ns or memory.ports != ports:
                since = memory.since_ns if memory else claim.service.exported_at_ns
                self.remember(key, Memory(since_ns=since, ports=ports))
        elif memory is not None and not memory.ended_ns:
            self.remember(key, Memory(since_ns=memory.since_ns, ports=memory.ports, ended_ns=wall_ns))
            self._forget(wall_ns)
        self._note(key, claim.faults)
        if claim.exported:
            self._built[key] = claim
        elif self._built.pop(key, None) is not None:
            self.ended.add(key[0])
        return self._call(key, called if claim.exported else None)

    def _call(self, key: Key, name: ServiceName | None) -> set[ServiceName]:
        before = self._called.pop(key, None)
        if name is not None:
            self._called[key] = name
        touched = {n for n in (before, name) if n is not None}
        if before != name:
            self._shown = None
            if before is not None:
                self._holders[before].discard(key)
                if not self._holders[before]:
                    del self._holders[before]
            if name is not None:
                self._holders.setdefault(name, set()).add(key)
        return touched

    def _winning(self, name: ServiceName) -> Service | None:
        able = [key for key in self._holders.get(name, ()) if self._built[key].service is not None]
        return self._built[min(able)].service if able else None

    def _is_exported(self, key: Key) -> bool:
        """Whether its instances say so, or said so until something about it changes."""
        return key in self._built or key in self._dirty

    # --- what is wrong -----------------------------------------------------------------------------------------------

    def _note(self, key: Key, faults: Sequence[Fault]) -> None:
        """Faults of one kind, of many instances, are one problem."""
        by_code: dict[str, list[Fault]] = {}
        for fault in faults:
            by_code.setdefault(fault.code, []).append(fault)
        found = []
        for code, group in by_code.items():
            first = group[0]
            where = f"{_where(key)}, instance {first.instance[:120]}" if first.instance else _where(key)
            more = f" (and {len(group) - 1} more instances)" if first.instance and len(group) > 1 else ""
            left_out = "; it is left out" if first.instance and code != "consul_meta" else ""
            found.append(Problem(code, where, f"{first.detail}{left_out}{more}"))
        for id_, why in list(self._unreadable.get(key, {}).items())[:1]:
            detail = f"cannot be read: {why[:200]}; what was known of it counts"
            found.append(Problem("consul_unreadable", f"{_where(key)}, instance {'/'.join(id_)[:120]}", detail))
        if tuple(found) != self._problems.get(key, ()):
            self._shown = None
            if found:
                self._problems[key] = tuple(found)
            else:
                del self._problems[key]

    def _note_unreadable(self, key: Key, unreadable: Mapping[Id, str]) -> None:
        if dict(unreadable) != self._unreadable.get(key, {}):
            self._dirty.add(key)
            if unreadable:
                self._unreadable[key] = dict(unreadable)
            else:
                self._unreadable.pop(key, None)

    def _duplicates(self, name: ServiceName) -> list[Problem]:
        first, *others = sorted(self._holders[name])
        return [
            Problem("duplicate_name", _where(key), f"would be {name}, as {first[0]}/{first[1]} is already")
            for key in others
        ]

    def _rule_problems(self) -> list[Problem]:
        """Rules for one service that is not there."""
        found = []
        for rule, line in zip(self.rules.rules, self.rules.lines, strict=False):
            plain = not any(c in rule.service + rule.datacenter for c in "*?[")
            known = self._tags.get(rule.datacenter)
            if plain and known and rule.service not in known and (rule.datacenter, rule.service) not in self._built:
                detail = f"is exported by the rule in line {line} and there is no such service (NoService)"
                found.append(Problem("no_service", _where((rule.datacenter, rule.service)), detail))
        return found

    def _held_problems(self) -> list[Problem]:
        found = []
        for datacenter, removals in self._removals.items():
            if held := removals.held:
                names = sorted(self.held(datacenter))
                shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
                detail = f"{len(held)} instances of {shown} vanished at once; held until a second look finds the same"
                found.append(Problem("removal_held", f"Consul {datacenter}", detail))
        return found


def is_name(text: str) -> bool:
    """Whether a service can be called that in the federation."""
    try:
        parse_label(text, what="service")
    except InvalidName:
        return False
    return True


def _where(key: Key) -> str:
    return f"Consul {key[0]}/{key[1][:80]}"


def _text(key: Key, id_: Id) -> str:
    return repr((key[1], *id_))
