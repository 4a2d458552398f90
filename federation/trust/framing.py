"""Messages on a byte stream: 4 bytes of length, big endian, then that many bytes, at most 64 KiB."""

from __future__ import annotations

import asyncio
from typing import BinaryIO

MAX_FRAME = 64 * 1024


class FrameError(Exception):
    """The other end announced an empty or too large frame: it speaks another protocol."""


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """One frame. Raises FrameError, and asyncio.IncompleteReadError at the stream's end."""
    size = int.from_bytes(await reader.readexactly(4), "big")
    if not 0 < size <= MAX_FRAME:
        raise FrameError(f"a frame of {size} bytes; 1 to {MAX_FRAME} are allowed")
    return await reader.readexactly(size)


def frame_from(pipe: BinaryIO) -> bytes:
    """One frame of a pipe, for a process with nothing else to do; empty when the other end has gone."""
    size = int.from_bytes(pipe.read(4), "big")
    data = pipe.read(min(size, MAX_FRAME))
    return data if len(data) == size else b""


async def write_frame(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Raises FrameError for a frame that the other end would refuse."""
    if not 0 < len(data) <= MAX_FRAME:
        raise FrameError(f"a frame of {len(data)} bytes; 1 to {MAX_FRAME} are allowed")
    writer.write(len(data).to_bytes(4, "big") + data)
    await writer.drain()
