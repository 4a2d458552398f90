"""Who would see what of an export, or lose what with it: pure, by the functions that decide it when it is done.

Arrives: the service as it is and as it would be offered, links, and what other clusters offer under the same name.
Leaves: for each cluster and port whether it would be seen, by which rule, as what, and in conflict with whom.
federation.cli.export asks for the one and prints the other.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from federation.catalog.merge import Claim, merge
from federation.model.cluster import Link
from federation.model.ids import ServiceName
from federation.model.service import FieldConflict, Import, Protocol, Service
from federation.policy.visibility import Links, allowed_ports


class Rule(enum.StrEnum):
    """What decides whether a cluster sees a port."""

    LINK = "link"
    """The link shows all that is exported, and the export names nobody: seen."""
    EXPORT_GRANT = "export_grant"
    """The consumers that the export names."""
    LINK_GRANT = "link_grant"
    """What the link is limited to."""
    BOTH_GRANTS = "export_and_link_grant"
    """The export and the link each name it: seen."""
    NO_LINK = "no_link"
    PROTOCOL = "protocol"
    """Nobody sees it: the protocol is not carried."""
    CONFLICT = "conflict"
    """An older export of another cluster has the port's name for another port."""
    WITHDRAWN = "withdrawn"


class Change(enum.StrEnum):
    """How that differs from what is seen now."""

    GAINS = "gains"
    KEEPS = "keeps"
    LOSES = "loses"
    NONE = ""
    """Not seen, now or then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known before. `before`, `after`: the service, None where it is not offered.

    `links` are all that are known, those of `origin` at least; `others` are the claims of other clusters for the same
    name; `members` may hold clusters that are not linked. `uncarried`: (port, protocol) of what
    gateways and sidecars do not carry.
    """

    origin: str
    name: ServiceName
    before: Service | None = None
    after: Service | None = None
    links: Sequence[Link] = ()
    others: Mapping[str, Service] = field(default_factory=dict)
    members: Collection[str] = ()
    uncarried: Sequence[tuple[int, str]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PortSight:
    """One port in the eyes of one cluster."""

    port: int
    protocol: str
    name: str
    sees: bool
    rule: Rule
    change: Change


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """The service in the eyes of one cluster. `type` is that of its import, empty where it would see none, from
    anybody; `others`: who offers it to that cluster, besides."""

    cluster: str
    linked: bool
    sees: bool
    rule: Rule
    change: Change
    type: str
    ports: tuple[PortSight, ...]
    others: tuple[str, ...]
    conflicts: tuple[FieldConflict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispute:
    """Exporting clusters would disagree in the import of the clusters `at`; `new`: they do not disagree on it now."""

    reason: str
    detail: str
    at: tuple[str, ...]
    new: bool


def sights(known: Known) -> tuple[Sight, ...]:
    """One for every other cluster that is linked, is known, or that the export names, by name."""
    linked = {link.other(known.origin) for link in known.links if known.origin in (link.a, link.b)}
    named = {g.consumer for g in known.after.grants if g.consumer != "*"} if known.after is not None else set()
    return tuple(_sight(known, cluster) for cluster in sorted((linked | named | set(known.members)) - {known.origin}))


def disputes(known: Known) -> tuple[Dispute, ...]:
    """The conflicts of every import that the export would have a part in, the exporting cluster's own included."""
    if known.after is None:
        return ()
    at: dict[FieldConflict, list[str]] = {}
    new: set[FieldConflict] = set()
    for cluster in sorted({known.origin, *(s.cluster for s in sights(known) if s.sees)}):
        now = _import(known, cluster, known.before)
        then = _import(known, cluster, known.after)
        for conflict in then.conflicts if then is not None else ():
            at.setdefault(conflict, []).append(cluster)
            if now is None or conflict not in now.conflicts:
                new.add(conflict)
    return tuple(
        Dispute(reason=c.reason, detail=c.detail, at=tuple(at[c]), new=c in new)
        for c in sorted(at, key=lambda c: (c.reason, c.detail))
    )


def stray_ports(service: Service) -> tuple[tuple[str, int], ...]:
    """(consumer, port) of grants for ports that the service does not have."""
    there = {port.port for port in service.ports}
    return tuple((g.consumer, port) for g in service.grants for port in g.ports if port not in there)


def _sight(known: Known, cluster: str) -> Sight:
    link = Links.of(known.origin, known.links).by_peer.get(cluster)
    now, then = (_import(known, cluster, service) for service in (known.before, known.after))
    was, is_ = _part(now, known.origin), _part(then, known.origin)
    ports = {(p.port, p.protocol): p for s in (known.before, known.after) if s is not None for p in s.ports}
    found: list[PortSight] = []
    for number, protocol in sorted(ports) if link is not None else ():
        rule, allowed = _rule(known, link, cluster, (number, protocol))
        sees = allowed and is_ is not None and number in is_
        found.append(
            PortSight(
                port=number,
                protocol=protocol.value,
                name=ports[number, protocol].name,
                sees=sees,
                rule=rule if sees or not allowed else Rule.CONFLICT,
                change=_change(_has(known.before, number, protocol) and was is not None and number in was, sees),
            )
        )
    found += [
        PortSight(port=number, protocol=protocol, name="", sees=False, rule=Rule.PROTOCOL, change=Change.NONE)
        for number, protocol in (known.uncarried if link is not None else ())
        if (number, protocol) not in ports
    ]
    found.sort(key=lambda p: (p.port, p.protocol))
    decisive = [p.rule for p in found if p.sees] or [_rule(known, link, cluster, None)[0]]
    return Sight(
        cluster=cluster,
        linked=link is not None,
        sees=_serves(is_, known.after),
        rule=decisive[0],
        change=_change(_serves(was, known.before), _serves(is_, known.after)),
        type="" if then is None else "Headless" if then.headless else "ClusterSetIP",
        ports=tuple(found),
        others=tuple(b.cluster for b in then.backends if b.cluster != known.origin) if then is not None else (),
        conflicts=then.conflicts if then is not None else (),
    )


def _rule(known: Known, link: Link | None, cluster: str, port: tuple[int, Protocol] | None) -> tuple[Rule, bool]:
    """What decides on a port, or on the service (None), and whether it lets the cluster see it."""
    if link is None:
        return Rule.NO_LINK, False
    service = known.after
    if service is None or (port is not None and not _has(service, *port)):
        return Rule.WITHDRAWN, False
    for rule, grants, by in (
        (Rule.EXPORT_GRANT, service.grants, replace(link, grants=())),
        (Rule.LINK_GRANT, (), link),
    ):
        allowed = allowed_ports(known.name, grants, by, consumer=cluster)
        wanted = [p.port for p in service.ports] if port is None else [port[0]]
        if allowed is not None and allowed.isdisjoint(wanted):
            return rule, False
    return _ALLOWED[bool(service.grants), bool(link.grants)], True


_ALLOWED = {
    (False, False): Rule.LINK,
    (True, False): Rule.EXPORT_GRANT,
    (False, True): Rule.LINK_GRANT,
    (True, True): Rule.BOTH_GRANTS,
}


def _import(known: Known, cluster: str, service: Service | None) -> Import | None:
    """What `cluster` imports under the name while `origin` offers `service`; None where it sees nobody's."""
    offered = {**known.others, known.origin: service}
    claims = [_claim(known, cluster, origin, offer) for origin, offer in offered.items() if offer is not None]
    seen = [claim for claim in claims if claim is not None]
    return merge(known.name, seen) if seen else None


def _claim(known: Known, cluster: str, origin: str, service: Service) -> Claim | None:
    if origin == cluster:
        return Claim(cluster=origin, service=service, local=True)
    link = Links.of(cluster, known.links).by_peer.get(origin)
    if link is None:
        return None
    allowed = allowed_ports(known.name, service.grants, link, consumer=cluster)
    if allowed is not None and allowed.isdisjoint(p.port for p in service.ports):
        return None
    return Claim(cluster=origin, service=service, granted=allowed)


def _part(seen: Import | None, origin: str) -> tuple[int, ...] | None:
    """The ports that `origin` serves of it; None where it has no part in it."""
    return next((b.ports for b in seen.backends if b.cluster == origin), None) if seen is not None else None


def _serves(part: tuple[int, ...] | None, service: Service | None) -> bool:
    """Whether a part is worth something: all of its ports can have been lost in conflicts."""
    return part is not None and service is not None and (bool(part) or not service.ports)


def _has(service: Service | None, number: int, protocol: Protocol) -> bool:
    return service is not None and any((p.port, p.protocol) == (number, protocol) for p in service.ports)


def _change(before: bool, after: bool) -> Change:
    if after:
        return Change.KEEPS if before else Change.GAINS
    return Change.LOSES if before else Change.NONE
