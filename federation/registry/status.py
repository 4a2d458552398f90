"""Errors over gRPC: a status, with the stable code and the hint in the trailing metadata, and back again.

Arrives: an IsthmusError raised by a handler. Leaves: the same class, code, message and hint at the caller's side.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import grpc

from federation import errors
from federation.errors import IsthmusError
from federation.log import Logger

CODE_KEY = "isthmus-code"
HINT_KEY = "isthmus-hint"
CLASS_KEY = "isthmus-class"

_STATUS: dict[type[IsthmusError], grpc.StatusCode] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.Denied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    errors.QuotaExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.CorruptState: grpc.StatusCode.DATA_LOSS,
    errors.StorageFailed: grpc.StatusCode.UNAVAILABLE,
    errors.TimedOut: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_BY_STATUS: dict[grpc.StatusCode, type[IsthmusError]] = {
    **{status: kind for kind, status in _STATUS.items() if kind is not errors.StorageFailed},
    grpc.StatusCode.UNAUTHENTICATED: errors.Denied,
}
_NAMED: tuple[type[IsthmusError], ...] = (IsthmusError, errors.InvalidName, errors.InvalidSettings, *_STATUS)
_CLASSES = {kind.code: kind for kind in _NAMED}
# Who writes to a stream that the server has just ended may get this from grpc.aio, which then never tells the status.
_LOST = "Internal error from Core"
_PRINTABLE = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) != "%")


@dataclass(frozen=True, slots=True)
class _Certificate:
    """Why the certificate of the far end will not do."""

    code: str
    text: str
    hint: str


_EXPIRED = _Certificate(
    "certificate_expired",
    "has expired",
    "it renews its own while it runs: is the clock of either machine wrong? otherwise see its log, and restart it",
)
_EARLY = _Certificate("certificate_not_yet_valid", "is not valid yet", "is the clock of either machine wrong?")
_UNKNOWN_CA = _Certificate(
    "certificate_unknown_ca",
    "is vouched for by a CA that is not known here",
    "is another one served at this address, or was it made anew? then join again, or restore it from its backup",
)
_OTHER_NAME = _Certificate(
    "certificate_of_another", "is another program's", "is the address right, and who else listens there?"
)
_CERTIFICATES = {
    "certificate has expired": _EXPIRED,
    "certificate is not yet valid": _EARLY,
    "unable to get local issuer certificate": _UNKNOWN_CA,
    "unable to get issuer certificate": _UNKNOWN_CA,
    "self signed certificate": _UNKNOWN_CA,
    "certificate signature failure": _UNKNOWN_CA,  # a CA of the same name with another key
    "hostname verification check failed": _OTHER_NAME,
}
"""By what OpenSSL says (X509_verify_cert_error_string) at the end of gRPC's details."""

Request = TypeVar("Request")
Reply = TypeVar("Reply")


def status_of(error: IsthmusError) -> grpc.StatusCode:
    """The gRPC status that stands for the class of `error`."""
    for kind in type(error).__mro__:
        if kind in _STATUS:
            return _STATUS[kind]
    return grpc.StatusCode.INTERNAL


def trailer(error: IsthmusError) -> tuple[tuple[str, str], ...]:
    """The trailing metadata that goes with `status_of(error)`; values are printable ASCII, others percent-encoded."""
    pairs = ((CODE_KEY, error.error_code), (CLASS_KEY, type(error).code), (HINT_KEY, error.hint))
    return tuple((key, quote(value, safe=_PRINTABLE)) for key, value in pairs if value)


async def abort(context: Any, error: IsthmusError) -> None:
    """End the call with `error`; never returns."""
    await context.abort(status_of(error), error.message, trailer(error))


def unary(log: Logger) -> Callable[[Callable[..., Awaitable[Reply]]], Callable[..., Awaitable[Reply]]]:
    """Decorates a unary handler `(request, context) -> reply`: its IsthmusErrors leave as statuses."""

    def decorate(handler: Callable[..., Awaitable[Reply]]) -> Callable[..., Awaitable[Reply]]:
        @functools.wraps(handler)
        async def call(request: Any, context: Any) -> Reply:
            try:
                return await handler(request, context)
            except IsthmusError as error:
                log.info("refused", method=handler.__name__, code=error.error_code, detail=error.message)
                await abort(context, error)
                raise AssertionError("abort raises") from error

        return call

    return decorate


def from_rpc_error(error: grpc.RpcError, *, what: str) -> IsthmusError:
    """The error that the far end raised, or Unavailable / TimedOut naming `what` was dialled."""
    code, details = error.code(), error.details() or ""
    metadata: Iterable[tuple[str, str | bytes]] = error.trailing_metadata() or ()
    trailing = {k: unquote(v) for k, v in metadata if isinstance(v, str)}
    if CODE_KEY in trailing:
        kind = _CLASSES.get(trailing.get(CLASS_KEY, ""), _BY_STATUS.get(code, IsthmusError))
        return kind(details, hint=trailing.get(HINT_KEY, ""), code=trailing[CODE_KEY])
    if code is grpc.StatusCode.UNAVAILABLE:
        return _unreachable(what, details)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.TimedOut(f"{what} did not answer in time")
    if code is grpc.StatusCode.INTERNAL and details == _LOST:
        return errors.Unavailable(f"{what} has ended the stream, and the reason was lost on the way")
    kind = _BY_STATUS.get(code, IsthmusError)
    return kind(f"{what}: {details or code.name}")


def named_error(described: Mapping[str, str]) -> IsthmusError:
    """An error from its class, code, message and hint."""
    kind = _CLASSES.get(described.get("class", ""), IsthmusError)
    return kind(described.get("message", ""), hint=described.get("hint", ""), code=described.get("code"))


def _unreachable(what: str, details: str) -> errors.Unavailable:
    # gRPC tells how it came to know (addresses, its own codes), and the cause at the end.
    cause = details.removesuffix(": OK").rpartition(": ")[2].strip() or "no reason given"
    for words, shown in _CERTIFICATES.items():
        if words in cause.lower():
            return errors.Unavailable(f"{what} shows a certificate that {shown.text}", hint=shown.hint, code=shown.code)
    if "socket closed" in cause.lower():
        return errors.Unavailable(
            f"{what} has closed the connection",
            hint="it may be stopping, or not accept this certificate: see its log, and `fedctl get clusters`",
        )
    return errors.Unavailable(f"{what} cannot be reached: {cause}", hint="is it running, and is the address right?")
