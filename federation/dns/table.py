"""The names of our zones and their encoded answers.

`put` and `remove` cost the same however many names there are; an answer is encoded when it is first asked for and kept
until its name changes. Names between a name and its zone exist without records (RFC 8020): they get NODATA.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from federation.dns import answer, wire
from federation.dns.answer import Answer, NameRecords
from federation.dns.wire import Rcode, Type
from federation.errors import InvalidInput

CLUSTERSET = "clusterset.local"
MCS_DNS_VERSION = "1.0.0"

_KEPT = (Type.A, Type.AAAA, Type.SRV, Type.TXT, Type.NS, Type.SOA, Type.ANY)
"""Types whose answers are kept. None holds a byte that lower-casing changes, or that a lower-cased query could have."""
_IN = wire.CLASS_IN.to_bytes(2, "big")
_SUFFIXES = tuple(t.to_bytes(2, "big") + _IN for t in _KEPT)


class Table:
    """Authoritative data of `zones` (domain names). TTLs are seconds.

    `recursion` says whether answers carry RA, that is whether other names are forwarded; `nameserver` are the addresses
    of ns.dns.<zone>, the name that the NS records give.
    """

    def __init__(
        self,
        zones: Sequence[str],
        ttl: int = 5,
        negative_ttl: int = 5,
        *,
        nameserver: NameRecords | None = None,
    ) -> None:
        if not zones:
            raise InvalidInput("a DNS table needs at least one zone")
        self.ttl, self.negative_ttl = ttl, negative_ttl
        self.zones = tuple(dict.fromkeys(z.rstrip(".").lower() for z in zones))
        self._zones = {wire.encode_name(z): z for z in self.zones}
        self.hot: dict[bytes, Answer] = {}
        """Question (lower-cased name, type, class IN) → answer; the server's fast path reads it."""
        self._records: dict[bytes, NameRecords] = {}
        self._below: dict[bytes, int] = {}
        self._flags = 0
        for zone in self.zones:
            self.put(f"ns.dns.{zone}", nameserver or NameRecords())
        if CLUSTERSET in self.zones:
            self.put(f"dns-version.{CLUSTERSET}", NameRecords(txt=(MCS_DNS_VERSION,)))

    def offer_recursion(self, offered: bool) -> None:
        """Whether answers say that other names are looked up too (RA)."""
        self._flags = wire.RA if offered else 0
        self.hot.clear()

    def put(self, name: str, records: NameRecords) -> None:
        """Set all records of `name`, which must be in one of the zones; raises InvalidName or InvalidInput."""
        key = wire.encode_name(name)
        zone = self.zone_of(key)
        if zone is None:
            raise InvalidInput(f"{name!r} is in none of the zones {', '.join(self.zones)}")
        held = self._records.get(key)
        if held == records:
            return
        for qtype in (Type.A, Type.AAAA, Type.SRV, Type.TXT):
            answer.rdatas(records, qtype)  # what cannot be encoded is refused here, not when it is asked for
        step = int(not records.detached) - int(held is not None and not held.detached)
        if step:
            self._count(key, zone, step)
        self._records[key] = records
        self._forget(key)

    def remove(self, name: str) -> None:
        """Forget `name`; nothing happens if it is not there."""
        key = wire.encode_name(name)
        zone = self.zone_of(key)
        held = self._records.pop(key, None) if zone is not None else None
        if zone is not None and held is not None:
            if not held.detached:
                self._count(key, zone, -1)
            self._forget(key)

    def get(self, name: str) -> NameRecords | None:
        """The records of `name`, or None."""
        return self._records.get(wire.encode_name(name))

    def looked_up(self, name: str) -> bool:
        """Whether `name` was asked for since this was last called. Costs nothing per query: kept answers are the trace,
        and they are forgotten here."""
        key = wire.encode_name(name)
        used = any(key + suffix in self.hot for suffix in _SUFFIXES)
        if used:
            self._forget(key)
        return used

    def names(self) -> Iterator[str]:
        """Every name that has been put, in no order; those that each zone has by itself are left out."""
        own = {f"ns.dns.{z}" for z in self.zones} | {f"dns-version.{CLUSTERSET}"}
        return (n for n in map(wire.decode_name, list(self._records)) if n not in own)

    def __len__(self) -> int:
        return len(self._records)

    def zone_of(self, name: bytes) -> bytes | None:
        """The zone (wire) that the lower-cased wire name is in, or None; the longest wins."""
        if name in self._zones:
            return name
        at = 1 + name[0]
        while at < len(name):
            if name[at:] in self._zones:
                return name[at:]
            at += 1 + name[at]
        return None

    def exists(self, name: bytes) -> bool:
        """Whether the lower-cased wire name has records, or names below it, or is the top of a zone."""
        return name in self._records or name in self._below or name in self._zones

    def answer(self, name: bytes, qtype: int, zone: bytes) -> Answer | None:
        """The answer for a lower-cased wire name in `zone`, or None where the name does not exist."""
        key = name + qtype.to_bytes(2, "big") + _IN
        known = self.hot.get(key)
        if known is None and self.exists(name):
            known = self._encode(name, qtype, zone)
            if qtype in _KEPT:
                self.hot[key] = known
        return known

    def nxdomain(self, name: bytes, zone: bytes) -> Answer:
        """The answer that `name` does not exist."""
        return answer.negative(name, Rcode.NXDOMAIN, self._soa(name, zone), flags=self._flags)

    def nodata(self, name: bytes, zone: bytes) -> Answer:
        """The answer that `name` exists without records of the type that was asked for."""
        return answer.negative(name, Rcode.NOERROR, self._soa(name, zone), flags=self._flags)

    def _encode(self, name: bytes, qtype: int, zone: bytes) -> Answer:
        data = answer.rdatas(self._records.get(name, NameRecords()), qtype)
        if name == zone and qtype == Type.SOA:
            data = [answer.soa_rdata(name, zone, self.negative_ttl)]
        elif name == zone and qtype == Type.NS:
            data = [answer.compressed(name, b"\x02ns\x03dns" + zone)]
        elif qtype == Type.ANY and (name in self._records or name == zone):
            return answer.positive(name, Type.HINFO, self.ttl, [b"\x07RFC8482\x00"], flags=self._flags)  # RFC 8482 4.2
        if not data:
            return self.nodata(name, zone)
        return answer.positive(name, qtype, self.ttl, data, flags=self._flags)

    def _soa(self, name: bytes, zone: bytes) -> bytes:
        return answer.soa(name, zone, ttl=self.negative_ttl, negative_ttl=self.negative_ttl)

    def _count(self, key: bytes, zone: bytes, step: int) -> None:
        for parent in wire.parents(key):
            if len(parent) <= len(zone):
                return
            now = self._below.get(parent, 0) + step
            if now:
                self._below[parent] = now
            else:
                del self._below[parent]
            if now == max(step, 0):  # its existence has just begun or ended
                self._forget(parent)

    def _forget(self, key: bytes) -> None:
        for suffix in _SUFFIXES:
            self.hot.pop(key + suffix, None)
