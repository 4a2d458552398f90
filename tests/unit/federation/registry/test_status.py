"""Errors over gRPC arrive as they were raised."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from federation import errors
from federation.registry.status import from_rpc_error, status_of, trailer


def over_the_wire(error: errors.IsthmusError) -> errors.IsthmusError:
    metadata = grpc.aio.Metadata(*trailer(error))
    for _, value in metadata:
        assert value.isascii()
        assert value.isprintable()
    sent = grpc.aio.AioRpcError(status_of(error), grpc.aio.Metadata(), metadata, details=error.message)
    return from_rpc_error(sent, what="the registry")


CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.IsthmusError)]


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("hint", ["", "do this", "größer\nals 100 %", "\0\x7f"])
def test_class_code_message_and_hint(kind: Any, hint: str) -> None:
    sent = kind("what happened", hint=hint, code="some_code")
    got = over_the_wire(sent)
    assert type(got) is kind
    assert got.as_dict() == sent.as_dict()


def test_statuses_that_are_not_ours() -> None:
    def plain(code: grpc.StatusCode, details: str = "why") -> errors.IsthmusError:
        error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)
        return from_rpc_error(error, what="the registry at x")

    assert type(plain(grpc.StatusCode.UNAVAILABLE)) is errors.Unavailable
    assert type(plain(grpc.StatusCode.DEADLINE_EXCEEDED)) is errors.TimedOut
    assert type(plain(grpc.StatusCode.UNAUTHENTICATED)) is errors.Denied
    assert type(plain(grpc.StatusCode.UNKNOWN)) is errors.IsthmusError
    assert type(plain(grpc.StatusCode.INTERNAL)) is errors.IsthmusError
    assert type(plain(grpc.StatusCode.INTERNAL, "Internal error from Core")) is errors.Unavailable
    assert "the registry at x" in plain(grpc.StatusCode.UNKNOWN).message


HANDSHAKE = (
    "failed to connect to all addresses; last error: UNKNOWN: ipv4:192.0.2.1:7400: Tls handshake failed "
    "(TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:"
)
VERIFY = f"{HANDSHAKE}CERTIFICATE_VERIFY_FAILED: "
BAD = "failed to connect to all addresses; last error: UNKNOWN: ipv4:192.0.2.1:7400: Custom verification check failed "


@pytest.mark.parametrize(
    ("details", "code", "says"),
    [
        (f"{VERIFY}certificate has expired: OK", "certificate_expired", "a certificate that has expired"),
        (f"{VERIFY}certificate is not yet valid: OK", "certificate_not_yet_valid", "is not valid yet"),
        (f"{VERIFY}unable to get local issuer certificate: OK", "certificate_unknown_ca", "a CA that is not known"),
        (f"{VERIFY}self signed certificate: OK", "certificate_unknown_ca", "a CA that is not known"),
        (f"{HANDSHAKE}BAD_SIGNATURE: certificate signature failure: OK", "certificate_unknown_ca", "a CA that is not"),
        (f"{BAD}with error: UNAUTHENTICATED: Hostname Verification Check failed.", "certificate_of_another", "another"),
        (f"{HANDSHAKE}WRONG_VERSION_NUMBER: OK", "unavailable", "WRONG_VERSION_NUMBER"),
        ("failed to connect: connect: Connection refused (111)", "unavailable", "reached: Connection refused (111)"),
    ],
)
def test_why_nobody_is_reached(details: str, code: str, says: str) -> None:
    sent = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)
    got = from_rpc_error(sent, what="the registry at x")
    assert (type(got), got.error_code) == (errors.Unavailable, code)
    assert got.message.startswith("the registry at x ")
    assert says in got.message
