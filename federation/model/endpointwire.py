"""Endpoints as protobuf bytes, written by hand: they are most of what an agent encodes for a changed EndpointSlice.

Protobuf reads from it what it reads from its own (tests/property/test_wire.py); ports are sorted. It costs a third of
that.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from federation.model.service import Endpoint


def encoded(endpoints: Iterable[Endpoint], *, field: int) -> bytes:
    """A repeated field of Endpoint with this number, below 16, as it stands in the message that has it."""
    tag = bytes((field << 3 | 2,))
    return b"".join([tag + sized(_endpoint(endpoint)) for endpoint in endpoints])


def sized(data: bytes) -> bytes:
    """`data` behind its length."""
    return (_ONE_BYTE[len(data)] if len(data) < 128 else _varint(len(data))) + data


def _endpoint(value: Endpoint) -> bytes:
    made = b"\x0a" + sized(value.address.encode()) if value.address else b""
    if value.ready:
        made += b"\x10\x01"
    if value.terminating:
        made += b"\x18\x01"
    made += _locality(value.locality.region, value.locality.zone)
    if value.hostname:
        made += b"\x2a" + sized(value.hostname.encode())
    if value.ports:
        made += _ports(tuple(value.ports.items()))
    if value.identity:
        made += b"\x3a" + sized(value.identity.encode())
    return made + b"\x40" + _varint(value.weight) if value.weight != 1 else made


@lru_cache(maxsize=4096)
def _locality(region: str, zone: str) -> bytes:
    made = b"\x0a" + sized(region.encode()) if region else b""
    if zone:
        made += b"\x12" + sized(zone.encode())
    return b"\x22" + sized(made)


@lru_cache(maxsize=4096)
def _ports(ports: tuple[tuple[int, int], ...]) -> bytes:
    return b"".join(
        b"\x32" + sized(b"\x08" + _varint(port) + b"\x10" + _varint(target)) for port, target in sorted(ports)
    )


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)


_ONE_BYTE = tuple(bytes((size,)) for size in range(128))
