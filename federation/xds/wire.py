"""A DeltaDiscoveryResponse as bytes, with the resources spliced in as they are: nothing is serialised twice."""

from __future__ import annotations

from collections.abc import Iterable

from federation.xds.snapshot import Resource

# Tags of envoy.service.discovery.v3.DeltaDiscoveryResponse; all of wire type 2 (length-delimited).
_SYSTEM_VERSION, _RESOURCES, _TYPE_URL, _NONCE, _REMOVED = (n << 3 | 2 for n in (1, 2, 4, 5, 6))
# Tags of envoy.service.discovery.v3.Resource and of google.protobuf.Any.
_VERSION, _RESOURCE, _NAME = (n << 3 | 2 for n in (1, 2, 3))
_ANY_URL, _ANY_VALUE = (n << 3 | 2 for n in (1, 2))


def response(
    *, kind: str, nonce: str, put: Iterable[Resource], removed: Iterable[str], system_version: str = ""
) -> bytes:
    """One response of type URL `kind`."""
    parts: list[bytes] = []
    if system_version:
        parts += _field(_SYSTEM_VERSION, system_version.encode())
    for resource in put:
        parts += _field(_RESOURCES, _resource(resource))
    parts += _field(_TYPE_URL, kind.encode())
    parts += _field(_NONCE, nonce.encode())
    for name in removed:
        parts += _field(_REMOVED, name.encode())
    return b"".join(parts)


def _resource(resource: Resource) -> bytes:
    body = b"".join((*_field(_ANY_URL, resource.kind.encode()), *_field(_ANY_VALUE, resource.body)))
    return b"".join(
        (
            *_field(_VERSION, resource.version.encode()),
            *_field(_RESOURCE, body),
            *_field(_NAME, resource.name.encode()),
        )
    )


def _field(tag: int, value: bytes) -> tuple[bytes, bytes]:
    return bytes((tag,)) + _varint(len(value)), value


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
