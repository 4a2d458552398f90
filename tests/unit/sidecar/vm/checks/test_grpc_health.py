"""The two messages of the health protocol, against what protobuf itself makes of them."""

from __future__ import annotations

import contextlib

import pytest
from google.protobuf import wrappers_pb2
from hypothesis import given
from hypothesis import strategies as st

from sidecar.vm.checks.grpc_health import read_status, request


@given(st.text(max_size=300))
def test_a_request_is_what_protobuf_makes(service: str) -> None:
    """A StringValue has the same one field as a HealthCheckRequest."""
    try:
        service.encode()
    except UnicodeEncodeError:
        return
    assert request(service) == wrappers_pb2.StringValue(value=service).SerializeToString()


@given(st.integers(0, 2**31 - 1))
def test_an_answer_is_read_as_protobuf_wrote_it(status: int) -> None:
    assert read_status(wrappers_pb2.UInt64Value(value=status).SerializeToString()) == status


def test_unknown_fields_are_passed_over() -> None:
    assert read_status(b"\x12\x02hi\x19" + b"\0" * 8 + b"\x25" + b"\0" * 4 + b"\x30\x05\x08\x01") == 1


@pytest.mark.parametrize("data", [b"\x08", b"\x08\x80", b"\x12\x05hi", b"\x0b", b"\x08" + b"\xff" * 11])
def test_what_is_no_answer(data: bytes) -> None:
    with pytest.raises(ValueError):
        read_status(data)


@given(st.binary(max_size=40))
def test_any_bytes_give_a_number_or_an_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert read_status(data) >= 0
