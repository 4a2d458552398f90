"""Join tokens: one string that holds all that a cluster or a virtual machine needs to join, and nothing to be guessed.

`isthmus1.<base64url>` (a cluster) or `isthmus-vm1.<base64url>` (a machine): address of the enrolment port, name of who
joins, fingerprint of the root at the other end, 256 random bits, checksum. The other end stores only `hash()`, which
binds the secret to the name and the fingerprint.
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
VM_PREFIX = "isthmus-vm1."
SECRET_BYTES = 32
MAX_CHARACTERS = 1024
MAX_SECONDS = 900
"""No token lives longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """What differs between the two kinds."""

    prefix: str
    purpose: bytes
    far: str
    name: str
    hint: str


_CLUSTER = _Form(
    prefix=PREFIX,
    purpose=b"isthmus join token 1\0",
    far="the registry's address",
    name="cluster",
    hint="copy the whole line that `fedctl token issue` printed",
)
_VM = _Form(
    prefix=VM_PREFIX,
    purpose=b"isthmus vm token 1\0",
    far="the agent's enrolment address",
    name="VM",
    hint="use the file as `fedctl vm bootstrap` wrote it",
)


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
        _check(_CLUSTER, registry, cluster, ca_fingerprint)
        return cls(registry=registry, ca_fingerprint=ca_fingerprint, cluster=cluster, secret=random(SECRET_BYTES))

    def encode(self) -> str:
        """The string that the operator copies."""
        return _encode(_CLUSTER, self.registry, self.cluster, self.ca_fingerprint, self.secret)

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """From `encode`'s string, white space around it allowed; raises InvalidInput (code token_malformed)."""
        address, name, fingerprint, secret = _decode(_CLUSTER, text)
        return cls(registry=address, ca_fingerprint=fingerprint, cluster=name, secret=secret)

    def hash(self) -> bytes:
        """What the registry keeps: SHA-256 over the secret and what it is bound to. 256 random bits need no salt."""
        return _hash(_CLUSTER, self.secret, self.ca_fingerprint, self.cluster)


@dataclass(frozen=True, slots=True, kw_only=True)
class VmToken:
    """The token of a virtual machine: `agent` is "host:port" of an agent's enrolment port, `fingerprint` of the
    cluster's root."""

    agent: str
    fingerprint: str
    vm: str
    secret: bytes = field(repr=False)

    @classmethod
    def new(
        cls, *, agent: str, fingerprint: str, vm: str, random: Callable[[int], bytes] = secrets.token_bytes
    ) -> VmToken:
        """As JoinToken.new."""
        _check(_VM, agent, vm, fingerprint)
        return cls(agent=agent, fingerprint=fingerprint, vm=vm, secret=random(SECRET_BYTES))

    def encode(self) -> str:
        return _encode(_VM, self.agent, self.vm, self.fingerprint, self.secret)

    @classmethod
    def parse(cls, text: str) -> VmToken:
        """As JoinToken.parse."""
        address, name, fingerprint, secret = _decode(_VM, text)
        return cls(agent=address, fingerprint=fingerprint, vm=name, secret=secret)

    def hash(self) -> bytes:
        """What the agent keeps."""
        return _hash(_VM, self.secret, self.fingerprint, self.vm)


def _check(form: _Form, address: str, name: str, fingerprint: str) -> None:
    split_address(address, what=form.far, zero=False)
    parse_fingerprint(fingerprint)
    parse_label(name, what=form.name)


def _encode(form: _Form, address: str, name: str, fingerprint: str, secret: bytes) -> str:
    far, near = address.encode(), name.encode()
    body = b"".join((bytes((len(far),)), far, bytes((len(near),)), near, parse_fingerprint(fingerprint), secret))
    return form.prefix + base64.urlsafe_b64encode(body + _checksum(body)).rstrip(b"=").decode()


def _decode(form: _Form, text: str) -> tuple[str, str, str, bytes]:
    """Address, name, fingerprint and secret; raises InvalidInput (token_malformed)."""
    text = text.strip()
    if not text.startswith(form.prefix) or len(text) > MAX_CHARACTERS or not text.isascii():
        raise _malformed(form, f"a join token of a {form.name} begins with {form.prefix!r}")
    encoded = text[len(form.prefix) :].encode()
    try:
        raw = base64.b64decode(encoded + b"=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise _malformed(form, "the join token has a character that does not belong into it, or is cut off") from error
    body, checksum = raw[:-4], raw[-4:]
    if len(raw) < 4 or _checksum(body) != checksum:
        raise _malformed(form, "the join token has a typing error or is cut off")
    try:
        address, rest = _take(body)
        name, rest = _take(rest)
        if len(rest) != 32 + SECRET_BYTES:
            raise ValueError
        split_address(address, what=form.far, zero=False)
        return address, parse_label(name, what=form.name), f"sha256:{rest[:32].hex()}", rest[32:]
    except (ValueError, IndexError, IsthmusError) as error:
        raise _malformed(form, "the join token was not made by this version of isthmus") from error


def _hash(form: _Form, secret: bytes, fingerprint: str, name: str) -> bytes:
    digest = hashlib.sha256(form.purpose)
    digest.update(secret + parse_fingerprint(fingerprint) + name.encode())
    return digest.digest()


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(b"isthmus join token checksum\0" + body).digest()[:4]


def _take(data: bytes) -> tuple[str, bytes]:
    end = 1 + data[0]
    if end > len(data):
        raise ValueError
    return data[1:end].decode("ascii"), data[end:]


def _malformed(form: _Form, message: str) -> InvalidInput:
    return InvalidInput(message, hint=form.hint, code="token_malformed")
