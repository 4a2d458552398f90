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
