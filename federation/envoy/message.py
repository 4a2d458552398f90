"""Small helpers for building protobuf messages."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

Resources = Mapping[str, Mapping[str, Message]]
"""Type URL → name → resource."""


def pack(message: Message) -> Any:
    """`message` as an extension's typed_config; equal messages give equal bytes."""
    return Any(
        type_url=f"type.googleapis.com/{message.DESCRIPTOR.full_name}",
        value=message.SerializeToString(deterministic=True),
    )


def seconds(value: float) -> Duration:
    """A duration in seconds."""
    whole = int(value)
    return Duration(seconds=whole, nanos=round((value - whole) * 1e9))


def number(value: int) -> UInt32Value:
    return UInt32Value(value=value)


def flag(value: bool) -> BoolValue:
    return BoolValue(value=value)
