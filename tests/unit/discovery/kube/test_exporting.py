"""What is said of a Service that was not found, by what has been read."""

from __future__ import annotations

from typing import Any

import pytest

from discovery.kube.claims import Claims
from discovery.kube.exporting import Exporting
from discovery.sources.base import SourceState
from federation.aio.clock import FakeClock
from federation.aio.latest import Latest
from federation.errors import IsthmusError
from federation.model.cluster import Problem
from federation.model.ids import ServiceName
from federation.model.service import Locality

ECHO = ServiceName("shop", "echo")
AWAY = (Problem("kube_unreachable", "Kubernetes", "no answer"),)


def exporting(state: SourceState, *, live: bool) -> Exporting:
    client: Any = None  # nothing is asked
    return Exporting(
        client,
        Claims(locality=Locality()),
        state=Latest(state),
        live=Latest(live),
        resource=client,
        what=lambda: "the API server https://10.0.0.1",
        clock=FakeClock(),
    )


@pytest.mark.parametrize(
    ("state", "live", "code", "says"),
    [
        pytest.param(SourceState(), False, "source_not_read", "could not be read", id="nothing was read yet"),
        pytest.param(SourceState(problems=AWAY), False, "source_not_read", "no answer", id="the server is away"),
        pytest.param(
            SourceState(problems=AWAY, complete=True), False, "source_not_read", "no answer", id="known from the disk"
        ),
        pytest.param(
            SourceState(services={ServiceName("shop", "kv"): None}, complete=True),
            True,
            "no_service",
            "known: shop/kv",
            id="all was read",
        ),
    ],
)
async def test_a_service_is_missing_only_when_the_server_was_read(
    state: SourceState, live: bool, code: str, says: str
) -> None:
    made = exporting(state, live=live)
    for ask in (made.export(ECHO, ()), made.preview(ECHO, ()), made.preview(ECHO, None), made.unexport(ECHO)):
        with pytest.raises(IsthmusError) as caught:
            await ask
        assert caught.value.error_code == code
        assert says in str(caught.value)
