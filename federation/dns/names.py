"""Global names: what a name asks for, and which names and records an import has. Pure.

The names of the MCS DNS specification 1.0.0 (`clusterset.local`) and the short global form below `suffix`:

    <service>.<namespace>.svc.clusterset.local            <service>.<namespace>.<suffix>
                                                          <service>.<namespace>.<cluster>.<suffix>   (pinned)
    _<port>._<protocol>.<any of the above>                SRV, named ports only
    <hostname>.<cluster>.<service>.<namespace>.svc.clusterset.local                                  (headless)
    _why.<any of the above but the headless one>          TXT: where the service is and who answers now
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from federation.dns.answer import NameRecords, Srv
from federation.model.ids import ServiceName
from federation.model.service import Backend, Endpoint, Import, Port

CLUSTERSET_ZONE = "clusterset.local"
_CLUSTERSET = ("svc", "clusterset", "local")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z", re.ASCII)
_SRV_LABEL = re.compile(r"_[a-z0-9](?:[a-z0-9-]{0,60}[a-z0-9])?\Z", re.ASCII)
_WHY = "_why"
_LONGEST = 253
_LONGEST_TEXT = 1000
_SHOWN = 10


class Ask(enum.Enum):
    """What a name is about."""

    SERVICE = "service"
    PORT = "port"
    ENDPOINT = "endpoint"
    WHY = "why"


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalName:
    """A parsed name. `cluster`: where the name pins one; `port` and `protocol`: for PORT; `hostname`: for ENDPOINT."""

    service: ServiceName
    cluster: str | None = None
    ask: Ask = Ask.SERVICE
    port: str = ""
    protocol: str = ""
    hostname: str = ""

    @property
    def use(self) -> tuple[ServiceName, str | None]:
        """What the name needs a virtual address for. The cluster in a headless endpoint's name pins nothing."""
        return self.service, None if self.ask is Ask.ENDPOINT else self.cluster


def parse(name: str, *, suffix: str) -> GlobalName | None:
    """The meaning of `name` (any case, with or without the final dot); None where no service can have such a name."""
    labels = name.rstrip(".").lower().split(".")
    rest, clusterset = _strip_zone(labels, suffix)
    if rest is None:
        return None
    ask, port, protocol = Ask.SERVICE, "", ""
    if rest[:1] == [_WHY]:
        ask, rest = Ask.WHY, rest[1:]
    elif len(rest) > 2 and _SRV_LABEL.match(rest[0]) and rest[1] in ("_tcp", "_udp", "_sctp"):
        ask, port, protocol, rest = Ask.PORT, rest[0][1:], rest[1][1:], rest[2:]
    if not all(_LABEL.match(label) for label in rest):
        return None
    if len(rest) == 2:
        return GlobalName(service=ServiceName(rest[1], rest[0]), ask=ask, port=port, protocol=protocol)
    if len(rest) == 3 and not clusterset:
        return GlobalName(service=ServiceName(rest[1], rest[0]), cluster=rest[2], ask=ask, port=port, protocol=protocol)
    if len(rest) == 4 and clusterset and ask is Ask.SERVICE:
        service = ServiceName(rest[3], rest[2])
        return GlobalName(service=service, cluster=rest[1], ask=Ask.ENDPOINT, hostname=rest[0])
    return None


def is_branch(name: str, *, suffix: str, clusters: Collection[str] = ()) -> bool:
    """Whether `name` stands above names of services without being able to be one: it exists without records (RFC 8020).

    That is svc.clusterset.local, a namespace, and for the short form a namespace or a cluster of `clusters`, and a
    namespace within one. A resolver that asks label by label (RFC 9156) would stop at NXDOMAIN there.
    """
    labels = name.rstrip(".").lower().split(".")
    if labels == list(_CLUSTERSET):
        return True
    rest, clusterset = _strip_zone(labels, suffix)
    if rest is None or not all(_LABEL.match(label) for label in rest):
        return False
    return len(rest) == 1 or (len(rest) == 2 and not clusterset and rest[1] in clusters)


def service_names(service: ServiceName, *, suffix: str, cluster: str | None = None) -> tuple[str, ...]:
    """The names under which `service` is reached; with `cluster` the one that pins it."""
    if cluster is not None:
        return (f"{service.name}.{service.namespace}.{cluster}.{suffix}",)
    base = f"{service.name}.{service.namespace}"
    return f"{base}.svc.{CLUSTERSET_ZONE}", f"{base}.{suffix}"


def records(
    imp: Import,
    addresses: Sequence[str],
    *,
    suffix: str,
    cluster: str | None = None,
    note: str = "",
    absent: bool = False,
) -> dict[str, NameRecords]:
    """Every name of `imp` with its records: those without `cluster`, or those that pin it.

    `addresses` are where callers reach the service: virtual addresses, or the ClusterSetIP. A headless service gets the
    addresses of its ready endpoints where these are known, `addresses` where they are not, and no name at all when
    nothing is ready. `note` is added to what `_why` says. Empty when the pinned cluster does not export the service.
    A name that would be too long is left out; an endpoint without a name of its own is found under the service's.
    `absent`: a name without an address does not exist, as that of a headless service with nothing ready never does;
    otherwise it exists without one.
    """
    backends = tuple(b for b in imp.backends if cluster is None or b.cluster == cluster)
    if cluster is not None and not backends:
        return {}
    ports = imp.ports if cluster is None else tuple(p for p in imp.ports if p.port in backends[0].ports)
    endpoints = _ready_endpoints(backends) if imp.headless else []
    reach = tuple(dict.fromkeys(e.address for _, e in endpoints))
    idle = imp.headless and not any(b.ready for b in backends)
    if not reach and not idle:
        reach = tuple(addresses)
    why = NameRecords(txt=_why(imp, backends, reach, note), detached=not reach and (idle or absent))
    found: dict[str, NameRecords] = {}
    for name in service_names(imp.name, suffix=suffix, cluster=cluster):
        found[f"{_WHY}.{name}"] = why
        if not reach:
            continue
        hosts = _hosts(name, endpoints) if name.endswith(f".svc.{CLUSTERSET_ZONE}") else {}
        targets = hosts or {name: ()}
        found[name] = _addresses(reach, srv=_srv(_one_per_number(ports), targets))
        for host, members in hosts.items():
            if host != name:
                found[host] = _addresses([e.address for e in members])
        for port in ports:
            if port.name and (srv := _srv((port,), targets)):
                found[f"_{port.name}._{port.protocol.value.lower()}.{name}"] = NameRecords(srv=srv)
    return {name: value for name, value in found.items() if len(name) <= _LONGEST}


def _strip_zone(labels: list[str], suffix: str) -> tuple[list[str] | None, bool]:
    """The labels before the zone and whether it is clusterset.local; (None, False) for other people's names."""
    if tuple(labels[-3:]) == _CLUSTERSET:
        return labels[:-3], True
    own = suffix.split(".")
    if labels[-len(own) :] == own:
        return labels[: -len(own)], False
    return None, False


def _ready_endpoints(backends: Sequence[Backend]) -> list[tuple[str, Endpoint]]:
    ready = [(b.cluster, e) for b in backends for e in b.endpoints if e.ready and not e.terminating]
    return sorted(ready, key=lambda pair: (pair[0], pair[1].address))


def _hosts(name: str, endpoints: Sequence[tuple[str, Endpoint]]) -> dict[str, tuple[Endpoint, ...]]:
    """Ready endpoints by their name below `name`: one of two families, or several of one hostname, share it."""
    hosts: dict[str, tuple[Endpoint, ...]] = {}
    for cluster, endpoint in endpoints:
        host = f"{_hostname(endpoint)}.{cluster}.{name}"
        if len(host) > _LONGEST:
            host = name
        hosts[host] = (*hosts.get(host, ()), endpoint)
    return hosts


def _hostname(endpoint: Endpoint) -> str:
    """Its hostname, or its address with dashes."""
    if endpoint.hostname:
        return endpoint.hostname
    return endpoint.address.replace(".", "-").replace(":", "-").strip("-")


def _one_per_number(ports: Sequence[Port]) -> tuple[Port, ...]:
    """One of those ports that TCP and UDP have in common: what the bare name's SRV records list."""
    return tuple({p.port: p for p in reversed(ports)}[number] for number in dict.fromkeys(p.port for p in ports))


def _srv(ports: Sequence[Port], targets: Mapping[str, Sequence[Endpoint]]) -> tuple[Srv, ...]:
    """One for each port and target; `targets`: the endpoints behind a name, none where it leads to a virtual address.

    The number is where the endpoint listens, as in the cluster's own DNS: nothing translates it on the way there.
    """
    weight = max(1, 100 // max(1, len(targets)))
    found = (
        Srv(0, weight, number, host)
        for port in ports
        for host, members in targets.items()
        for number in sorted({_number(port, e) for e in members} if members else {port.port})
        if number
    )
    return tuple(dict.fromkeys(found))  # two ports may lead to one


def _number(port: Port, endpoint: Endpoint) -> int:
    """Where `endpoint` listens for `port`; 0 where it does not."""
    return endpoint.ports.get(port.port, 0) if endpoint.ports else port.port


def _addresses(addresses: Sequence[str], *, srv: tuple[Srv, ...] = ()) -> NameRecords:
    return NameRecords(
        a=tuple(a for a in addresses if ":" not in a), aaaa=tuple(a for a in addresses if ":" in a), srv=srv
    )


def _why(imp: Import, backends: Sequence[Backend], reach: Sequence[str], note: str) -> tuple[str, ...]:
    without = "no address here" if any(b.ready for b in backends) else "nothing ready"
    lines = [f"{imp.name} is reached at {_some(reach)}" if reach else f"{imp.name} has {without}"]
    for backend in backends:
        where = " (here)" if backend.local else ""
        stale = ", not heard of lately" if backend.stale else ""
        lines.append(f"{backend.cluster}{where}: {backend.ready} ready{stale}")
    lines += [f"{c.reason}: {c.detail}" for c in imp.conflicts]
    if note:
        lines.append(note)
    return tuple(line[:_LONGEST_TEXT] for line in lines)


def _some(addresses: Sequence[str]) -> str:
    shown, more = ", ".join(addresses[:_SHOWN]), len(addresses) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def absent(
    name: GlobalName, *, known_clusters: Mapping[str, object] | Collection[str] = (), imp: Import | None = None
) -> str:
    """Why a name of ours does not exist: the reason that goes with NXDOMAIN. `imp`: the import, where there is one."""
    if name.cluster is not None and known_clusters and name.cluster not in known_clusters:
        return f"no linked cluster is called {name.cluster}"
    where = f" by {name.cluster}" if name.cluster is not None else ""
    if imp is None or (name.cluster is not None and all(b.cluster != name.cluster for b in imp.backends)):
        return f"{name.service} is not exported to this cluster{where}"
    if not any(b.ready for b in imp.backends if name.cluster in (None, b.cluster)):
        return f"{name.service} has nothing ready{where}"
    if name.ask in (Ask.SERVICE, Ask.WHY):
        return f"{name.service} has no address here; ask TXT of _why.<name>"
    return f"{name.service} has no such {name.ask.value}"
