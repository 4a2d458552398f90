"""What the operator's clients share: a channel of their own, one question at a time, errors as they were raised."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

import grpc

from federation.registry.status import from_rpc_error

Reply = TypeVar("Reply")


class UnaryClient:
    """A channel and who is at its other end (`what`, for errors); `timeout` seconds for each answer."""

    def __init__(self, channel: grpc.aio.Channel, *, what: str, timeout: float) -> None:
        self._channel, self._what, self._timeout = channel, what, timeout

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close()

    async def _ask(self, call: Callable[..., Awaitable[Reply]], request: object) -> Reply:
        """The reply; raises the far end's IsthmusError, Unavailable, TimedOut."""
        try:
            return await call(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, what=self._what) from error
