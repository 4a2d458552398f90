"""Join tokens: one string that holds all that a cluster needs to join, and nothing that can be guessed or reused.

`isthmus1.<base64url>`: registry address, fingerprint of the registry's root, cluster name, 256 random bits, checksum.
The registry stores only `JoinToken.hash()`, which binds the secret to the name and the fingerprint.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from federation.errors import InvalidInput, IsthmusError
from federation.model.address import split_address
from federation.model.ids import parse_label
from federation.trust.bundle import parse_fingerprint

PREFIX = "isthmus1."
SECRET_BYTES = 32
MAX_CHARACTERS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """A parsed token. `registry` is "host:port" of the enrolment port, `ca_fingerprint` "sha256:<hex>" of its root."""

    registry: str
    ca_fingerprint: str
    cluster: str
    secret: bytes = field(repr=False)

    @classmethod
    def new(
        cls,
        *,
        registry: str,
        ca_fingerprint: str,
        cluster: str,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> JoinToken:
        """A token with a new secret; raises InvalidInput for a malformed address, fingerprint or name."""
        split_address(registry, what="the registry's address", zero=False)
        parse_fingerprint(ca_fingerprint)
        parse_label(cluster, what="cluster")
        return cls(registry=registry, ca_fingerprint=ca_fingerprint, cluster=cluster, secret=random(SECRET_BYTES))

    def encode(self) -> str:
        """The string that the operator copies."""
        address, cluster = self.registry.encode(), self.cluster.encode()
        body = b"".join(
            (
                bytes((len(address),)),
                address,
                bytes((len(cluster),)),
                cluster,
                parse_fingerprint(self.ca_fingerprint),
                self.secret,
            )
        )
        return PREFIX + base64.urlsafe_b64encode(body + _checksum(body)).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """From `encode`'s string, white space around it allowed; raises InvalidInput (code token_malformed)."""
        text = text.strip()
        if not text.startswith(PREFIX) or len(text) > MAX_CHARACTERS or not text.isascii():
            raise _malformed(f"a join token begins with {PREFIX!r}")
        encoded = text[len(PREFIX) :].encode()
        try:
            raw = base64.b64decode(encoded + b"=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        except binascii.Error as error:
            raise _malformed("the join token has a character that does not belong into it, or is cut off") from error
        body, checksum = raw[:-4], raw[-4:]
        if len(raw) < 4 or _checksum(body) != checksum:
            raise _malformed("the join token has a typing error or is cut off")
        try:
            address, rest = _take(body)
            cluster, rest = _take(rest)
            if len(rest) != 32 + SECRET_BYTES:
                raise ValueError
            split_address(address, what="the registry's address", zero=False)
            return cls(
                registry=address,
                ca_fingerprint=f"sha256:{rest[:32].hex()}",
                cluster=parse_label(cluster, what="cluster"),
                secret=rest[32:],
            )
        except (ValueError, IndexError, IsthmusError) as error:
            raise _malformed("the join token was not made by this version of isthmus") from error

    def hash(self) -> bytes:
        """What the registry keeps: SHA-256 over the secret and what it is bound to. 256 random bits need no salt."""
        digest = hashlib.sha256(b"isthmus join token 1\0")
        digest.update(self.secret + parse_fingerprint(self.ca_fingerprint) + self.cluster.encode())
        return digest.digest()


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(b"isthmus join token checksum\0" + body).digest()[:4]


def _take(data: bytes) -> tuple[str, bytes]:
    end = 1 + data[0]
    if end > len(data):
        raise ValueError
    return data[1:end].decode("ascii"), data[end:]


def _malformed(message: str) -> InvalidInput:
    return InvalidInput(message, hint="copy the whole line that `fedctl token issue` printed", code="token_malformed")
