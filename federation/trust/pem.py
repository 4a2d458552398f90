"""Certificates as text (PEM, RFC 7468), without looking into them: for what was checked when it was taken in."""

from __future__ import annotations

import base64
from collections.abc import Iterable

_WIDTH = 64


def armour(chain: Iterable[bytes]) -> bytes:
    """DER certificates as one PEM text."""
    return b"".join(map(_armour, chain))


def _armour(der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = [text[at : at + _WIDTH] for at in range(0, len(text), _WIDTH)]
    return b"\n".join((b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""))
