"""Pure: the instances of one service of Consul become what the cluster claims of it.

Arrives: Instances (discovery.consul.instances), the rule that exports the service, if one does, and what was claimed of
it before where that has to stay. Leaves: federation.model.service.Service with its local endpoints, or why not. The
order of the instances does not matter.

A service of Consul has no port of its own: every instance has. The port of the claim is what a rule or the meta
`isthmus-service-port` says, else what it was before, as long as an instance has it or they differ, else what most of
them have; endpoints map it to theirs.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from discovery.consul.instances import OUR_META, is_label
from discovery.consul.rules import PROTOCOLS, Rule
from discovery.consul.types import Instance, State
from discovery.sources.convert import readiness
from discovery.sources.manifests import grants as parse_grants
from federation.errors import IsthmusError
from federation.model.ids import ServiceName, parse_label
from federation.model.service import AppProtocol, Endpoint, Grant, Locality, Port, Service

EXPORT, CONSUMERS, PROTOCOL, SERVICE_PORT = (
    "isthmus-export",
    "isthmus-consumers",
    "isthmus-protocol",
    "isthmus-service-port",
)
"""Keys of meta that say whether and as what an instance is exported."""
MAIN = "default"
"""What a main port without a name is called beside others: of several, each has a name."""
TAG_LABEL = "tag.isthmus.io/"
_DECLARED = {AppProtocol.HTTP: "http", AppProtocol.H2C: "kubernetes.io/h2c", AppProtocol.GRPC: "grpc"}
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """What decides about an export besides the instances. `tag`: that of the settings; `labels`: patterns of the tags
    and keys of meta that become labels."""

    rule: Rule | None = None
    tag: str = ""
    labels: tuple[str, ...] = ("*",)
    locality: Locality = Locality()


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What was claimed last, as far as it stays: when it was exported, and name of each port → its number."""

    exported_at_ns: int = 0
    ports: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with an export; `code` is stable. `instance`: of the one it is about, or empty."""

    code: str
    detail: str
    instance: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """`service` None: it is not exported, or `faults` say why it cannot be. `exported`: whether it should be."""

    service: Service | None = None
    exported: bool = False
    faults: tuple[Fault, ...] = ()
    ports: Mapping[str, int] | None = None


def selected(instances: Sequence[Instance], how: How) -> list[Instance]:
    """The instances that are exported, the longest registered first."""
    rule = how.rule
    if rule is not None:
        chosen = [i for i in instances if not rule.tag or rule.tag in i.tags]
    else:
        chosen = [i for i in instances if (how.tag and how.tag in i.tags) or i.meta.get(EXPORT) == "true"]
    return sorted(chosen, key=lambda i: (i.created, i.node, i.id))


def convert(
    name: ServiceName,
    instances: Sequence[Instance],
    *,
    how: How,
    before: Before,
    held: Mapping[tuple[str, tuple[tuple[int, int], ...]], Endpoint] | None = None,
) -> Claim:
    """The claim of the service that is to be called `name`. Endpoints of `held`, by `endpoint_key`, that are alike are
    taken from there."""
    chosen = selected(instances, how)
    faults = _unclear(instances) if how.rule is None else []
    if not chosen:
        return Claim(faults=(*faults, *_no_instances(instances, how)), exported=how.rule is not None)
    faults += [Fault(code=i.fault[0], detail=i.fault[1], instance=f"{i.node}/{i.id}") for i in chosen if i.fault[0]]
    try:
        parse_label(name.name, what="the name")
        allowed = _grants(chosen, how.rule, faults)
    except IsthmusError as error:
        code = "consul_name" if error.error_code == "invalid_name" and name.name in str(error) else "invalid_consumers"
        detail = f"cannot be exported: {error}" if code == "consul_name" else f"nobody sees it: {error}"
        return Claim(exported=True, faults=(Fault(code=code, detail=detail), *faults))
    able = [i for i in chosen if not i.fault[0]]
    ports, names = _ports([i for i in chosen if i.ports], how.rule, before.ports or {}, faults)
    if not ports:
        if not any(fault.instance for fault in faults):  # which say why
            faults.append(Fault(code="consul_port", detail="none of its instances has a port"))
        return Claim(exported=True, faults=tuple(faults))
    endpoints = _endpoints(able, ports, names, how.locality, held or {})
    families = sorted({"IPv6" if ":" in a else "IPv4" for i in able for a in i.addresses}) or ["IPv4"]
    service = Service(
        name=name,
        exported_at_ns=(how.rule.since_ns if how.rule else 0) or before.exported_at_ns,
        ports=tuple(ports.values()),
        ip_families=tuple(families),
        labels=_labels(chosen, how.labels),
        readiness=readiness(endpoints),
        grants=allowed,
        endpoints=endpoints,
    )
    numbers = {key: port.port for key, port in ports.items()}
    return Claim(service=service, exported=True, faults=tuple(faults), ports=numbers)


def endpoint_key(endpoint: Endpoint) -> tuple[str, tuple[tuple[int, int], ...]]:
    """What tells endpoints apart: several instances of one machine have its address and ports of their own."""
    return endpoint.address, tuple(sorted(endpoint.ports.items()))


def _unclear(instances: Sequence[Instance]) -> list[Fault]:
    """Instances that say neither yes nor no."""
    return [
        Fault(
            code="consul_meta",
            detail=f"its meta {EXPORT} is {said[:20]!r}; true exports it, and nothing else does",
            instance=f"{one.node}/{one.id}",
        )
        for one in sorted(instances, key=lambda i: i.key)
        if (said := one.meta.get(EXPORT, "false")) not in ("true", "false")
    ]


def _no_instances(instances: Sequence[Instance], how: How) -> tuple[Fault, ...]:
    if how.rule is None or not how.rule.tag or not instances:
        return ()
    return (Fault(code="consul_no_instance", detail=f"no instance has the tag {how.rule.tag[:80]!r} of its rule"),)


def _grants(chosen: Sequence[Instance], rule: Rule | None, faults: list[Fault]) -> tuple[Grant, ...]:
    if rule is not None and (granted := rule.grants) is not None:
        return () if granted == (Grant("*"),) else granted
    said = list(dict.fromkeys(i.meta.get(CONSUMERS) for i in chosen))
    if len(said) > 1:
        first = chosen[0]
        faults.append(
            Fault(
                code="consumers_differ",
                detail=f"instances differ in {CONSUMERS}; what the longest registered one says counts: "
                f"{first.node}/{first.id}",
            )
        )
    return parse_grants(said[0])


# --- ports ---


def _ports(
    able: Sequence[Instance], rule: Rule | None, before: Mapping[str, int], faults: list[Fault]
) -> tuple[dict[str, Port], dict[str, str]]:
    """Name of each port → the port, by its number; and what an instance calls it → what it is called here, where these
    differ."""
    mains = Counter(i.ports[0][0] for i in able if i.ports)
    said = sorted((n for n in mains if n), key=lambda n: (-mains[n], n))
    main = said[0] if said else ""
    several = any(len(i.ports) > 1 for i in able)
    main = main or (MAIN if several else "")
    renamed = {} if main == "" else {"": main}
    counts: dict[str, Counter[int]] = {}
    for one in able:
        for name, number in one.ports:
            counts.setdefault(renamed.get(name, name), Counter())[number] += 1
    found: dict[str, Port] = {}
    taken: dict[int, str] = {}
    for name in sorted(counts, key=lambda n: (n != main, n)):
        try:
            if name:
                parse_label(name, what="port")
        except IsthmusError as error:
            faults.append(Fault(code="consul_port_name", detail=f"{error}; it is left out"))
            continue
        number = _number(name, name == main, counts[name], able, rule, before, faults)
        if number in taken:
            detail = f"ports {taken[number]!r} and {name!r} are both {number}; the latter is left out"
            faults.append(Fault(code="duplicate_port", detail=detail))
            continue
        taken[number] = name
        app = _protocol(name, name == main, able, rule, faults)
        found[name] = Port(name=name, port=number, app=app, declared=_DECLARED.get(app, ""))
    return dict(sorted(found.items(), key=lambda item: item[1].port)), renamed


def _number(
    name: str,
    is_main: bool,
    counts: Counter[int],
    able: Sequence[Instance],
    rule: Rule | None,
    before: Mapping[str, int],
    faults: list[Fault],
) -> int:
    if rule is not None:
        said = rule.ports.get(name) or (rule.ports.get("") if is_main else None)
        if said:
            return said
    if is_main and (stated := _stated(able, faults)):
        return stated
    held = before.get(name) or (before.get("") or before.get(MAIN) if is_main else None)
    if held and (held in counts or len(counts) > 1):
        return held
    best = min(counts, key=lambda number: (-counts[number], number))
    if len(counts) > 1:
        shown = ", ".join(map(str, sorted(counts)[:_MOST_NAMED]))
        what = f"port {name!r}" if name else "port"
        detail = f"its instances differ in their {what} ({shown}); it is {best} for others: say which by {SERVICE_PORT}"
        faults.append(Fault(code="ports_differ", detail=detail))
    return best


def _stated(able: Sequence[Instance], faults: list[Fault]) -> int:
    """The port that meta says, by the longest registered instance that says one; 0 where none does."""
    for one in able:
        text = one.meta.get(SERVICE_PORT)
        if text is None:
            continue
        if text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65_535:
            return int(text)
        faults.append(
            Fault(
                code="consul_meta",
                detail=f"its meta {SERVICE_PORT} is {text[:20]!r}, which is no port",
                instance=f"{one.node}/{one.id}",
            )
        )
    return 0


def _protocol(
    name: str, is_main: bool, able: Sequence[Instance], rule: Rule | None, faults: list[Fault]
) -> AppProtocol:
    if rule is not None and (said := rule.protocol_of(name) or (rule.protocol_of("") if is_main else "")):
        return PROTOCOLS[said]
    keys = (f"{PROTOCOL}-{name}", PROTOCOL) if name else (PROTOCOL,)
    for one in able:
        text = next((one.meta[key] for key in keys if key in one.meta), None)
        if text is None:
            continue
        if text in PROTOCOLS:
            return PROTOCOLS[text]
        faults.append(
            Fault(
                code="consul_meta",
                detail=f"its meta {PROTOCOL} is {text[:20]!r}; use tcp, http, h2c or grpc",
                instance=f"{one.node}/{one.id}",
            )
        )
    return AppProtocol.OPAQUE


# --- endpoints ---


def _endpoints(
    able: Sequence[Instance],
    ports: Mapping[str, Port],
    renamed: Mapping[str, str],
    locality: Locality,
    held: Mapping[tuple[str, tuple[tuple[int, int], ...]], Endpoint],
) -> tuple[Endpoint, ...]:
    """All endpoints, sorted. Two instances of the same address and ports are one endpoint: ready if either is."""
    found: dict[tuple[str, tuple[tuple[int, int], ...]], Endpoint] = {}
    for one in able:
        targets = {
            ports[called].port: number for name, number in one.ports if (called := renamed.get(name, name)) in ports
        }
        if not targets:
            continue
        main = ports.get(renamed.get(one.ports[0][0], one.ports[0][0]))
        place = Locality(one.region or locality.region, one.zone or locality.zone)
        for address, number in one.targets():
            there = targets if main is None else targets | {main.port: number}
            there = dict(sorted(there.items()))
            key = (address, tuple(there.items()))
            made = Endpoint(
                address=address,
                ready=one.state <= State.WARNING,
                terminating=one.state is State.MAINTENANCE,
                locality=place,
                ports=there,
                weight=one.weight,
            )
            known = found.get(key)
            if known is not None:
                made = _both(known, made)
            found[key] = made
    return tuple(last if (last := held.get(key)) == found[key] else found[key] for key in sorted(found))


def _both(one: Endpoint, other: Endpoint) -> Endpoint:
    first = one if one.ready or not other.ready else other
    return replace(first, terminating=first.terminating and not first.ready)


def _labels(chosen: Sequence[Instance], patterns: Sequence[str]) -> dict[str, str]:
    """The tags and the meta that all instances have, as far as they can be labels."""
    first, *rest = chosen
    tags = set(first.tags).intersection(*(i.tags for i in rest))
    meta = dict(first.meta.items())
    for one in rest:
        meta = {key: value for key, value in meta.items() if one.meta.get(key) == value}
    labels = {
        key: value
        for key, value in meta.items()
        if not key.startswith((OUR_META, "consul-")) and is_label(key, value) and _wanted(key, patterns)
    }
    labels |= {f"{TAG_LABEL}{tag}": "true" for tag in tags if is_label(tag, "") and _wanted(tag, patterns)}
    return dict(sorted(labels.items()))


def _wanted(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
