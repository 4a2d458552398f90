"""Which calls between clusters there should be, and what came of them: the matrix of `fedctl verify`. Pure.

Arrives: exports, links, what agents answered. Leaves: paths to be tried, and cells of the matrix.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from federation.model import wire
from federation.model.cluster import Link
from federation.model.service import Service
from federation.policy.visibility import allowed_ports
from federation.proto.v1 import agent_pb2 as pb
from federation.proto.v1 import records_pb2, registry_pb2

ANY = ""
"""The target of a call that any cluster may answer."""
NOT_TRIED = frozenset({"egress_unreachable", "no_egress"})
"""Codes of calls through own gateways that nothing can be concluded from: they need not be reachable for the agent."""
AGENT_UNREACHABLE = "agent_unreachable"
"""Code of calls that nobody could make."""
NOT_REFUSED = "not_refused"
REFUSALS = frozenset({"no_grant", "not_exported"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """A call of `service` from one cluster to the copies of another, or of ANY.

    `hindered`: why it is not to be tried (a code and a detail). `granted` False: it is to be refused. `wanted`: whether
    it counts when it fails. `ports`: those of the export.
    """

    service: str
    source: str
    target: str
    granted: bool = True
    wanted: bool = True
    hindered: tuple[str, str] | None = None
    ports: Sequence[records_pb2.Port] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One attempt on a path; `state`: "ok", "refused" (as it should be), "failed", "not tried"."""

    path: Path
    state: str
    port: int = 0
    way: str = ""
    gateway: str = ""
    address: str = ""
    code: str = ""
    detail: str = ""
    status: int = 0
    milliseconds: float | None = None
    clusters: Sequence[str] = field(default_factory=tuple)

    @property
    def bad(self) -> bool:
        """Whether it is not as it should be: no answer where one was wanted, or one that grants do not allow."""
        return self.state == "failed" and (self.path.wanted or self.code == NOT_REFUSED)

    def as_dict(self) -> dict[str, Any]:
        """The row of `-o json`."""
        return {
            "service": self.path.service,
            "from": self.path.source,
            "to": self.path.target or "any",
            "port": self.port or None,
            "way": self.way,
            "gateway": self.gateway or None,
            "address": self.address or None,
            "state": self.state,
            "wanted": self.path.wanted,
            "answered_by": list(self.clusters) if self.state == "ok" else [],
            "status": self.status or None,
            "latency_ms": self.milliseconds,
            "code": self.code or None,
            "detail": self.detail,
        }


def plan(
    exports: Iterable[registry_pb2.ServiceInfo],
    links: Iterable[Link],
    sources: Collection[str],
    *,
    clusters: Collection[str] = (),
    services: Collection[str] = (),
) -> list[Path]:
    """Every path from one of `sources`, the clusters whose agents can be asked, sorted.

    `clusters` and `services` limit it to paths that begin or end there; where both are named, all of them are wanted,
    whether links and grants allow them or not.
    """
    by_pair = {pair: link for link in links for pair in ((link.a, link.b), (link.b, link.a))}
    insist = bool(clusters and services)
    found: dict[str, dict[str, Service]] = {}
    ports: dict[tuple[str, str], Sequence[records_pb2.Port]] = {}
    for info in exports:
        service = wire.service_from_pb(info.service)
        if not services or str(service.name) in services:
            found.setdefault(str(service.name), {})[info.cluster] = service
            ports[str(service.name), info.cluster] = list(info.service.ports)
    paths = []
    for name, offers in sorted(found.items()):
        for source in sorted(sources):
            own = not clusters or source in clusters
            for target, service in sorted(offers.items()):
                if target != source and (own or target in clusters):
                    path = _path(service, source, target, by_pair.get((source, target)), insist=insist)
                    paths.append(replace(path, ports=ports[name, target]))
            seen = any(_visible(service, source, t, by_pair) and service.ready for t, service in offers.items())
            if own and seen:
                paths.append(Path(service=name, source=source, target=ANY))
    return paths


def _visible(service: Service, source: str, target: str, links: Mapping[tuple[str, str], Link]) -> bool:
    if source == target:
        return True
    link = links.get((source, target))
    return link is not None and allowed_ports(service.name, service.grants, link, consumer=source) != frozenset()


def _path(service: Service, source: str, target: str, link: Link | None, *, insist: bool) -> Path:
    name = str(service.name)
    if link is None:
        why = ("no_link", f"{source} and {target} are not linked: fedctl link {source} {target}")
        return Path(service=name, source=source, target=target, granted=False, wanted=insist, hindered=why)
    granted = allowed_ports(service.name, service.grants, link, consumer=source) != frozenset()
    return Path(service=name, source=source, target=target, granted=granted, wanted=granted or insist)


def as_imported(seen: Iterable[Iterable[records_pb2.Import]]) -> list[registry_pb2.ServiceInfo]:
    """Exports as the agents see them, for want of a registry: every backend of every import, as if granted to all."""
    found: dict[tuple[str, str], registry_pb2.ServiceInfo] = {}
    for listed in seen:
        for imported in listed:
            for backend in imported.backends:
                key = (backend.cluster, f"{imported.namespace}/{imported.name}")
                made = registry_pb2.ServiceInfo(cluster=backend.cluster)
                made.service.namespace, made.service.name = imported.namespace, imported.name
                made.service.ports.extend(imported.ports)
                made.service.readiness.extend(backend.readiness)
                found.setdefault(key, made)
    return [found[key] for key in sorted(found)]


def results(path: Path, attempts: Iterable[pb.Attempt]) -> Iterator[Result]:
    """What the agent's attempts say of the path."""
    for made in attempts:
        yield Result(
            path=path,
            state=state(path, made.code),
            port=made.port,
            way=made.way,
            gateway=made.gateway,
            address=made.address,
            code=made.code if made.code or path.granted or path.wanted else NOT_REFUSED,
            detail=made.detail,
            status=made.status,
            milliseconds=round(made.took_ns / 1e6, 1) if made.took_ns else None,
            clusters=tuple(made.clusters),
        )


def state(path: Path, code: str) -> str:
    """What an attempt that ended with `code` ("": an answer) is worth."""
    if path.target == ANY and code in NOT_TRIED:
        return "not tried"
    if not path.granted and not path.wanted:
        return "refused" if code in REFUSALS else "failed" if not code else "not tried"
    return "failed" if code else "ok"


def hindered(path: Path, code: str, detail: str) -> Result:
    """A path of which nothing could be tried."""
    return Result(path=path, state="failed" if path.wanted else "not tried", code=code, detail=detail)


def matrix(rows: Sequence[Result], targets: Sequence[str]) -> list[dict[str, str]]:
    """A row per port and calling cluster, a column per called one, and "any"."""
    found: dict[tuple[str, str], dict[str, list[Result]]] = {}
    ports = {
        r.path.service: sorted({x.port for x in rows if x.path.service == r.path.service and x.port}) for r in rows
    }
    for row in rows:
        for port in [row.port] if row.port else ports[row.path.service] or [0]:
            service = f"{row.path.service}:{port}" if port else row.path.service
            found.setdefault((service, row.path.source), {}).setdefault(row.path.target or "any", []).append(row)
    return [
        {"service": service, "from": source, **{target: _cell(cells.get(target, ())) for target in (*targets, "any")}}
        for (service, source), cells in sorted(found.items())
    ]


def _cell(tried: Sequence[Result]) -> str:
    if not tried:
        return ""
    worst = min(tried, key=lambda r: ("failed", "not tried", "refused", "ok").index(r.state))
    if worst.state == "failed":
        return f"✗ {worst.code}"
    if worst.state == "refused":
        return "refused"
    if worst.state == "not tried":
        return worst.code
    shown = f"{max(r.milliseconds or 0 for r in tried):g} ms"
    return f"{shown} ({' or '.join(worst.clusters)})" if worst.path.target == ANY and worst.clusters else shown
