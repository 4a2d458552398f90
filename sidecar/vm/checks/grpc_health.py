"""A gRPC check: grpc.health.v1.Health/Check (the GRPC Health Checking Protocol), in plain text.

The two messages have one field each, so they are written and read by hand: no generated module for them.
"""

from __future__ import annotations

import grpc

from federation.model.address import join_address
from sidecar.vm.checks.result import Result, critical, passing
from sidecar.vm.definition import Grpc

METHOD = "/grpc.health.v1.Health/Check"
_STATES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own: one that broke must not delay the next check
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 4096),
)


async def run(probe: Grpc, *, timeout: float) -> Result:
    """The call ends by itself after `timeout` s."""
    async with grpc.aio.insecure_channel(join_address(probe.host, probe.port), options=_OPTIONS) as channel:
        try:
            reply = await channel.unary_unary(METHOD)(request(probe.service), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            return critical(f"{error.code().name}: {error.details() or ''}")
    try:
        status = read_status(bytes(reply))
    except ValueError as error:
        return critical(f"no HealthCheckResponse: {error}")
    return passing() if status == 1 else critical(_STATES.get(status, str(status)))


def request(service: str) -> bytes:
    """HealthCheckRequest {string service = 1}."""
    name = service.encode()
    return b"\x0a" + _varint(len(name)) + name if name else b""


def read_status(data: bytes) -> int:
    """HealthCheckResponse {ServingStatus status = 1}; other fields are passed over. Raises ValueError."""
    at, status = 0, 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _read_varint(data, at)
            status = value if tag >> 3 == 1 else status
        elif kind == 2:
            length, at = _read_varint(data, at)
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
    if at != len(data):
        raise ValueError("it ends within a field")
    return status


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends within a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 64 bits")
