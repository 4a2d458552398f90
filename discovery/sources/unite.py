"""One service of one cluster that several places know: pods and VMs under one name are one service.

Arrives: what each place says of it, in their order. Leaves: the service with the endpoints of all, and where the places
disagree. Pure; across clusters federation.catalog.merge does this by the rules of MCS.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from discovery.sources.convert import readiness
from federation.model.cluster import Problem
from federation.model.ids import ServiceName
from federation.model.service import Endpoint, Port, Protocol, Service

PORT_CONFLICT, GRANTS_CONFLICT = "port_conflict", "grants_conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What one place ("kubernetes", "vm db-1" …) says of the service; `exported`: by that place itself."""

    place: str
    service: Service
    exported: bool = True


def unite(name: ServiceName, offers: Sequence[Offer]) -> tuple[Service, tuple[Problem, ...]]:
    """The service of all `offers`, which are not empty, and their disagreements.

    The first offer that is exported decides ports, grants and all else (the first of all, where none is); of the others
    come endpoints, under the ports that fit by number or, with another number, by name. The export is as old as the
    oldest. One offer is the service itself.
    """
    if len(offers) == 1:
        return offers[0].service, ()
    first = next((o for o in offers if o.exported), offers[0])
    kept: list[Endpoint] = list(first.service.endpoints)
    taken = {(e.address, *item) for e in kept for item in e.ports.items()}
    problems: list[Problem] = []
    families: dict[str, None] = dict.fromkeys(first.service.ip_families)
    for offer in offers:
        if offer is first:
            continue
        fits, said = _fit(first, offer)
        problems += [Problem(PORT_CONFLICT, str(name), detail) for detail in said]
        if offer.exported and first.exported and offer.service.grants != first.service.grants:
            detail = f"exported to others by {offer.place} than by {first.place}, which counts"
            problems.append(Problem(GRANTS_CONFLICT, str(name), detail))
        new = [e for e in _fitting(offer.service, fits) if not _known(e, taken)]
        taken |= {(e.address, *item) for e in new for item in e.ports.items()}
        kept += new
        if not first.service.ip_families:
            families |= dict.fromkeys(offer.service.ip_families)
    endpoints = tuple(sorted(kept, key=_order))
    return replace(
        first.service,
        exported_at_ns=min(o.service.exported_at_ns for o in offers if o.exported or not first.exported),
        ip_families=tuple(families),
        readiness=readiness(endpoints),
        endpoints=endpoints,
    ), tuple(problems)


def _fit(first: Offer, offer: Offer) -> tuple[dict[int, int], list[str]]:
    """Port of `offer` → port of `first`, by number, else by name, and what does not fit."""
    by_number = {(p.protocol, p.port): p for p in first.service.ports}
    own = {(p.protocol, p.port) for p in offer.service.ports}
    by_name = {(p.protocol, p.name): p for p in first.service.ports if p.name and (p.protocol, p.port) not in own}
    fits: dict[int, int] = {}
    said: list[str] = []
    met: set[tuple[Protocol, int]] = set()
    for port in offer.service.ports:
        same = by_number.get((port.protocol, port.port)) or by_name.get((port.protocol, port.name))
        if same is None:
            said.append(f"{offer.place} has port {_show(port)}, which {first.place} has not: it is left out")
            continue
        if same.app is not port.app:
            is_, is_not = same.app.value, port.app.value
            said.append(f"port {_show(same)} is {is_} by {first.place}, which counts, and {is_not} by {offer.place}")
        fits.setdefault(port.port, same.port)
        met.add((same.protocol, same.port))
    said += [
        f"{offer.place} lacks port {_show(port)} of {first.place}" for key, port in by_number.items() if key not in met
    ]
    return fits, said


def _fitting(service: Service, fits: Mapping[int, int]) -> Iterable[Endpoint]:
    for endpoint in service.endpoints:
        if all(fits.get(port) == port for port in endpoint.ports) and (endpoint.ports or not service.ports):
            yield endpoint
        elif ports := {fits[port]: to for port, to in sorted(endpoint.ports.items()) if port in fits}:
            yield replace(endpoint, ports=ports)


def _known(endpoint: Endpoint, taken: set[tuple[str, int, int]]) -> bool:
    """An instance that stands in two places counts once, as the earlier place has it."""
    return any((endpoint.address, *item) in taken for item in endpoint.ports.items())


def _show(port: Port) -> str:
    return f"{port.port}/{port.protocol.value}"


def _order(endpoint: Endpoint) -> tuple[str, str, list[tuple[int, int]], str]:
    return endpoint.address, endpoint.hostname, sorted(endpoint.ports.items()), endpoint.identity
