"""Whether the event loop lives, and whether everything that readiness needs is there; asked by another thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry

from federation.aio.clock import Clock
from federation.errors import Unavailable
from federation.metrics import Check, MetricsServer
from federation.registry.edge.settings import MetricsSettings

BEAT = 1.0
STUCK_AFTER = 10.0
START_PATIENCE = 20.0
"""Seconds that a workload waits for its sidecar to have all that it needs."""
NO_IDENTITY = "no identity yet: the agent has not answered"

Condition = Callable[[], str]
"""Empty when fulfilled, otherwise what is missing."""


class Heartbeat:
    """The event loop moves it; /healthz says when it stands still."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._last = clock.monotonic()

    async def run(self) -> None:
        """Forever."""
        while True:
            self._last = self._clock.monotonic()
            await self._clock.sleep(BEAT)

    def alive(self) -> tuple[bool, str]:
        """For MetricsServer."""
        silent = self._clock.monotonic() - self._last
        if silent > STUCK_AFTER:
            return False, f"the event loop has not run for {silent:.0f} s"
        return True, "ok"


def readiness(conditions: Sequence[Condition]) -> tuple[bool, str]:
    """Ready when nothing is missing; else all that is."""
    missing = [text for condition in conditions if (text := condition())]
    return (False, "; ".join(missing)) if missing else (True, "ok")


class Start:
    """Whether who waits for this process may begin: when it is ready; or when it answers at least, and the agent, or
    whatever else it lacks, has been waited for long enough."""

    def __init__(self, ready: Check, *, patience: float = START_PATIENCE, clock: Clock) -> None:
        self.answers = False
        self._ready, self._patience, self._clock = ready, patience, clock
        self._began = clock.monotonic()

    def started(self) -> tuple[bool, str]:
        """For MetricsServer."""
        good, detail = self._ready()
        if not good and self.answers and self._clock.monotonic() - self._began >= self._patience:
            return True, f"waited for long enough: {detail}"
        return good, detail


def metrics_server(
    settings: MetricsSettings, registry: CollectorRegistry, *, alive: Check, ready: Check, started: Check | None = None
) -> MetricsServer:
    """Started. Raises Unavailable (metrics_port_unavailable)."""
    try:
        server = MetricsServer(
            registry, host=settings.host, port=settings.port, alive=alive, ready=ready, started=started
        )
    except OSError as error:
        raise Unavailable(
            f"cannot serve metrics on {settings.host} port {settings.port}: {error.strerror}",
            hint="set metrics.port to a free port, or to 0",
            code="metrics_port_unavailable",
        ) from error
    server.start()
    return server
