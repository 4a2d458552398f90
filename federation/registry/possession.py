"""What a joining cluster signs with its root key, so that a token that was overheard is of no use with another key."""

from __future__ import annotations

import hashlib

_CONTEXT = b"isthmus join 1\0"


def possession_message(secret: bytes, cluster: str, registry_root: bytes) -> bytes:
    """Binds the token (by its hash), the cluster's name and the registry's root certificate (DER)."""
    name = cluster.encode()
    return b"".join(
        (
            _CONTEXT,
            hashlib.sha256(secret).digest(),
            len(name).to_bytes(2, "big"),
            name,
            hashlib.sha256(registry_root).digest(),
        )
    )
