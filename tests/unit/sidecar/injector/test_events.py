from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from federation.aio.clock import FakeClock
from federation.aio.tasks import cancel
from federation.errors import AlreadyExists, Denied
from federation.log import get
from sidecar.injector.admission import Answer, Outcome
from sidecar.injector.events import AGAIN, MOST, Events, Tale, about, event

OWNER = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6d4b", "uid": "u-1", "controller": True}
POD = {"metadata": {"generateName": "web-6d4b-", "ownerReferences": [{**OWNER, "controller": False}, OWNER]}}


class FakeApi:
    """Takes Events; `error` is raised instead."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, dict[str, Any]]] = []
        self.error: Exception | None = None

    async def ask(self, method: str, path: str, body: Any = None, **_: Any) -> Any:
        assert method == "POST"
        if self.error is not None:
            raise self.error
        self.taken.append((path, body))
        return body


def failed(namespace: str = "shop", pod: Any = POD, *warnings: str) -> Answer:
    return Answer(
        outcome=Outcome.FAILED, uid="u", namespace=namespace, pod=pod, warnings=warnings or ("no sidecar: why",)
    )


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (POD, {"kind": "ReplicaSet", "name": "web-6d4b", "uid": "u-1"}),
        ({"metadata": {"name": "web", "uid": "u-2"}}, {"kind": "Pod", "name": "web", "uid": "u-2"}),
        ({"metadata": {"generateName": "web-"}}, {"kind": "Pod", "name": "web-"}),
        ({}, {"kind": "Pod", "name": "pod"}),
    ],
)
def test_where_an_event_stands(pod: Any, expected: dict[str, str]) -> None:
    found = about(pod, "shop")
    assert found["namespace"] == "shop"
    assert {key: found.get(key) for key in expected} == expected


def test_what_an_event_says() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    made = event(Tale(about(POD, "shop"), "SidecarMissing", "why"), now)
    assert (made["involvedObject"]["name"], made["reason"], made["message"]) == ("web-6d4b", "SidecarMissing", "why")
    assert made["type"] == "Warning"
    assert made["metadata"]["name"].startswith("web-6d4b.")
    assert made["firstTimestamp"] == "2026-01-01T00:00:00Z"
    same, other = (event(Tale(about(POD, "shop"), "SidecarMissing", text), now) for text in ("why", "why else"))
    assert same["metadata"]["name"] == made["metadata"]["name"] != other["metadata"]["name"]


async def test_the_same_is_not_told_again_for_a_while() -> None:
    api, clock = FakeApi(), FakeClock()
    events = Events(api, clock=clock, log=get("test"))  # type: ignore[arg-type]
    running = asyncio.create_task(events.run(), name="events")
    for _ in range(3):
        events.answered(failed())
    events.answered(failed("other"))
    await asyncio.sleep(0)
    clock.advance(AGAIN)
    events.answered(failed())
    await asyncio.sleep(0)
    assert [path for path, _ in api.taken] == [
        "/api/v1/namespaces/shop/events",
        "/api/v1/namespaces/other/events",
        "/api/v1/namespaces/shop/events",
    ]
    await cancel(running)


@pytest.mark.parametrize("error", [AlreadyExists("another replica was faster"), Denied("no right")])
async def test_one_that_cannot_be_written_is_the_end_of_none(error: Exception) -> None:
    api = FakeApi()
    events = Events(api, clock=FakeClock(), log=get("test"))  # type: ignore[arg-type]
    running = asyncio.create_task(events.run(), name="events")
    api.error = error
    events.answered(failed())
    await asyncio.sleep(0)
    api.error = None
    events.answered(failed("other"))
    await asyncio.sleep(0)
    assert len(api.taken) == 1
    await cancel(running)


def test_a_flood_is_counted_and_not_kept() -> None:
    events = Events(FakeApi(), clock=FakeClock(), log=get("test"))  # type: ignore[arg-type]
    for number in range(MOST + 7):
        events.answered(failed("shop", POD, f"why {number}"))
    assert events.dropped == 7


def test_what_went_as_wanted_is_told_by_the_pod_itself() -> None:
    api = FakeApi()
    events = Events(api, clock=FakeClock(), log=get("test"))  # type: ignore[arg-type]
    events.answered(Answer(outcome=Outcome.INJECTED, uid="u", namespace="shop", pod=POD))
    events.answered(Answer(outcome=Outcome.FAILED, uid="u", namespace="shop", warnings=("x",), dry_run=True))
    assert events._queue.empty()
