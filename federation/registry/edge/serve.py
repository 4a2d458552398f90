"""The life of an edge process: state directory, identity, Edge and its Part, until a signal; then an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from prometheus_client import CollectorRegistry

from federation.aio.clock import Clock
from federation.aio.tasks import on_signals, unless
from federation.log import Logger
from federation.metrics import MetricsServer
from federation.model.ids import ServiceName
from federation.model.record import Kind
from federation.registry.edge.health import NO_IDENTITY, Heartbeat, Start, metrics_server
from federation.registry.edge.runtime import Edge, Part, open_edge
from federation.registry.edge.settings import EdgeSettings
from federation.registry.edge.state import StateDirectory


class Member(Part, Protocol):
    """A Part that has tasks of its own and an end of its own."""

    async def start(self) -> dict[str, int]:
        """Open what others connect to; returns the ports by their names in ports.json. Called before `run`."""

    async def run(self) -> None:
        """Its tasks, for ever."""

    async def drain(self) -> None:
        """Let clients go; called after a signal, while everything still runs."""

    async def close(self) -> None:
        """Give up what `start` opened."""


async def serve(
    settings: EdgeSettings,
    *,
    kinds: Collection[Kind],
    names: Callable[[StateDirectory], Collection[ServiceName] | None],
    make: Callable[[Edge], Member],
    drain_seconds: float,
    clock: Clock,
    log: Logger,
    meanwhile: AbstractAsyncContextManager[bool] | None = None,
) -> None:
    """Run until SIGTERM or SIGINT. `meanwhile` is open while an identity is waited for, and tells whether it answers.

    Raises an IsthmusError for what keeps the process from starting.
    """
    stop = asyncio.Event()
    state = StateDirectory(settings.state)
    registry = CollectorRegistry()
    heartbeat = Heartbeat(clock=clock)
    edges: list[Edge] = []

    def ready() -> tuple[bool, str]:
        return edges[0].ready() if edges else (False, NO_IDENTITY)

    start = Start(ready, clock=clock)
    metrics = metrics_server(settings.metrics, registry, alive=heartbeat.alive, ready=ready, started=start.started)
    try:
        with on_signals(stop.set):
            async with asyncio.TaskGroup() as group:
                beating = group.create_task(heartbeat.run(), name="heartbeat")
                async with meanwhile or contextlib.nullcontext(False) as start.answers:
                    opening = open_edge(
                        settings,
                        state,
                        kinds=kinds,
                        names=names(state),
                        drain_seconds=drain_seconds,
                        registry=registry,
                        clock=clock,
                        log=log,
                    )
                    edge = await unless(stop, opening)
                if edge is not None:
                    edges.append(edge)
                    await _run(edge, make(edge), state, metrics, start, stop)
                beating.cancel()
    finally:
        metrics.close()
        state.close()


async def _run(
    edge: Edge, member: Member, state: StateDirectory, metrics: MetricsServer, start: Start, stop: asyncio.Event
) -> None:
    edge.part = member
    edge.restore()
    try:
        ports = await member.start()
        start.answers = True
        state.write_ports({"metrics": metrics.port, **ports})
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(edge.run(), name="edge"),
                group.create_task(member.run(), name="member"),
            ]
            await stop.wait()
            await member.drain()
            await edge.client.goodbye()
            for task in tasks:
                task.cancel()
    finally:
        await member.close()
    edge.log.info("stopped")
