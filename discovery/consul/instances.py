"""Pure: an entry of Consul's health API becomes an Instance, with its faults named.

Where its address is: the tagged address that the settings choose, with the port that it has there, else the service's,
else its node's. How it is: the worst of its own checks and its node's. Where it stands: what itself, its node or the
meta of either says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from discovery.consul.types import Check, Entry, Instance, ServiceAddress, State
from federation.errors import InvalidInput
from federation.model.service import MAX_WEIGHT
from federation.registry.addresses import check_gateway_address

REGION, ZONE = "isthmus-region", "isthmus-zone"
"""Meta of a service or of a node: where it stands, for those that have no Locality."""
PORT = "isthmus-port-"
"""Meta of a service, before the name of a further port: its number."""
MAX_META_BYTES = 64 * 1024
"""What one instance may have in meta; Consul's own agents allow half of it."""
OUR_META = "isthmus-"
_OUR_VALUE_BYTES = 4096
_LABEL_KEY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?\Z", re.ASCII)
_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?\Z", re.ASCII)
_NOWHERE = ServiceAddress()
_NODE_MAINTENANCE, _SERVICE_MAINTENANCE = "_node_maintenance", "_service_maintenance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How entries are read. `tagged` and `ipv6` as in the settings; `loopback`: all members run on this machine."""

    tagged: str = ""
    ipv6: bool = False
    loopback: bool = False


class _Fault(Exception):
    """Why an instance cannot be an endpoint."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


def instance(entry: Entry, reading: Reading) -> Instance:
    """What `entry` says; with its fault, if it has one. Whatever is in it, this does not fail."""
    node, service = entry.node, entry.service
    state, weight = _state(
        entry.checks or (),
        service.weights.passing if service.weights else 1,
        service.weights.warning if service.weights else 1,
    )
    fault = ("", "")
    found: tuple[ServiceAddress, ...] = ()
    ports: tuple[tuple[str, int], ...] = ()
    try:
        _check_meta(service.meta or {})
        chosen = _addresses(entry, reading)
        ports = _ports(entry, chosen[0].port if chosen else 0)
        if not chosen:
            raise _Fault("consul_address", "has no address, and its node has none either")
        found = tuple(ServiceAddress(_address(one.address, reading), one.port) for one in chosen)
    except _Fault as error:
        fault = (error.code, error.detail)
    region, zone = _place(entry)
    return Instance(
        node=node.node,
        id=service.id,
        addresses=tuple(one.address for one in found),
        ports=ports,
        state=state,
        weight=weight,
        region=region,
        zone=zone,
        tags=tuple(sorted(set(service.tags or ()))),
        meta=_kept(service.meta or {}),
        created=service.create_index,
        fault=fault,
        mains=_mains(found, ports),
    )


def is_label(key: str, value: str) -> bool:
    """Whether a label of Kubernetes can have this key, without a prefix, and this value."""
    return bool(_LABEL_KEY.match(key)) and bool(_LABEL_VALUE.match(value))


def _state(checks: list[Check] | tuple[Check, ...], passing: int, warning: int) -> tuple[State, int]:
    """(state, weight). A weight of 0 for "warning" means that such an instance gets nothing."""
    worst, maintained = State.PASSING, False
    for check in checks:
        if check.check_id == _NODE_MAINTENANCE or check.check_id.startswith(_SERVICE_MAINTENANCE):
            maintained = True
        elif check.status == "passing":
            continue
        elif check.status == "warning":
            worst = max(worst, State.WARNING)
        else:
            worst = State.CRITICAL  # also what we do not know
    if worst is State.CRITICAL:
        return worst, 1
    if maintained:
        return State.MAINTENANCE, 1
    weight = warning if worst is State.WARNING else passing
    if weight < 1:
        return State.CRITICAL, 1
    return worst, min(weight, MAX_WEIGHT)


def _check_meta(meta: dict[str, str]) -> None:
    size = sum(len(key) + len(value) for key, value in meta.items())
    if size > MAX_META_BYTES:
        raise _Fault("consul_meta_too_large", f"has {size} bytes of meta; at most {MAX_META_BYTES} are taken")


def _kept(meta: dict[str, str]) -> dict[str, str]:
    """What of the meta can mean something to us."""
    return {
        key: value
        for key, value in sorted(meta.items())
        if (key.startswith(OUR_META) and len(value) <= _OUR_VALUE_BYTES) or is_label(key, value)
    }


def _ports(entry: Entry, tagged: int) -> tuple[tuple[str, int], ...]:
    """`tagged`: the port beside the address that was chosen; where the service has none of its own it is the port."""
    service = entry.service
    if service.socket_path and not service.port and not tagged:
        raise _Fault("consul_socket", "listens on a UNIX socket, which no other machine reaches")
    if service.ports:
        named = sorted(service.ports, key=lambda p: (not p.default, p.name))
        found = [(p.name, p.port) for p in named]
    else:
        found = [("", service.port or tagged)]
    for key, text in sorted((service.meta or {}).items()):
        if key.startswith(PORT):
            found.append((key.removeprefix(PORT), _number(text, key)))
    for name, number in (*found, *([("of its tagged address", tagged)] if tagged else ())):
        if not 1 <= number <= 65_535:
            what = f"port {name!r}" if name else "port"
            raise _Fault("consul_port", f"its {what} is {number}; a port is 1 to 65535")
    return tuple(dict(reversed(found)).items())[::-1]  # the first of a name counts


def _mains(addresses: Sequence[ServiceAddress], ports: Sequence[tuple[str, int]]) -> tuple[int, ...]:
    mains = tuple(0 if one.port == ports[0][1] else one.port for one in addresses)
    return mains if any(mains) else ()


def _number(text: str, key: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 5:
        raise _Fault("consul_meta", f"its meta {key} is {text[:20]!r}, which is no port")
    return int(text)


def _addresses(entry: Entry, reading: Reading) -> tuple[ServiceAddress, ...]:
    """One, and the IPv6 one where that is wanted, as they were registered; none where there is none. A port of 0 is the
    service's."""
    node, service = entry.node, entry.service
    of_service = service.tagged_addresses or {}
    of_node = node.tagged_addresses or {}
    main = _NOWHERE
    if reading.tagged:
        tags = (reading.tagged, f"{reading.tagged}_ipv4")
        main = next((found for tag in tags if (found := of_service.get(tag)) and found.address), _NOWHERE)
        if not main.address and not service.address:
            main = ServiceAddress(next((text for tag in tags if (text := of_node.get(tag))), ""))
    if not main.address:
        main = ServiceAddress(service.address or node.address)
    if not main.address:
        return ()
    if reading.ipv6 and ":" not in main.address:
        tag = f"{reading.tagged or 'lan'}_ipv6"
        more = of_service.get(tag, _NOWHERE)
        if not more.address and not service.address:
            more = ServiceAddress(of_node.get(tag, ""))
        if more.address:
            return main, more
    return (main,)


def _address(text: str, reading: Reading) -> str:
    try:
        return check_gateway_address(text, single_machine=reading.loopback)
    except InvalidInput as error:
        if error.error_code == "address_is_a_name":
            why = "is a name, and names are not resolved; register the IP address"
        else:
            why = "is " + error.message.partition(" is ")[2]
    raise _Fault("consul_address", f"its address {text[:80]!r} {why}")


def _place(entry: Entry) -> tuple[str, str]:
    """(region, zone), each from the first that says it."""
    node, service = entry.node, entry.service
    of_service, of_node = service.meta or {}, node.meta or {}
    region = (
        (service.locality.region if service.locality else "")
        or of_service.get(REGION, "")
        or (node.locality.region if node.locality else "")
        or of_node.get(REGION, "")
    )
    zone = (
        (service.locality.zone if service.locality else "")
        or of_service.get(ZONE, "")
        or (node.locality.zone if node.locality else "")
        or of_node.get(ZONE, "")
    )
    return region[:128], zone[:128]
