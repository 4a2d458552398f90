"""What the keys under the prefix say, and what an agent makes of it, or of a token that Consul refuses."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web

from clusters.waiting import until
from discovery.consul.client import ConsulClient
from discovery.consul.lock import Holder, Lock, Locks, Seen, read_keys
from discovery.consul.settings import ConsulSettings
from federation import log
from federation.aio.clock import SystemClock
from federation.aio.tasks import cancel
from federation.model.cluster import Problem

from .conftest import QuickClock, Server

KEY = "isthmus/dc1/leader"


def key(name: str, value: bytes, session: str = "s") -> dict[str, object]:
    return {"Key": name, "Value": value, "Session": session}


def said(cluster: str, agent: str = "h/1") -> bytes:
    return msgspec.json.encode(Holder(cluster=cluster, agent=agent, epoch=3))


@pytest.mark.parametrize(
    ("found", "seen"),
    [
        (None, Seen()),
        ([key(KEY, said("dc1"))], Seen(holder=Holder(cluster="dc1", agent="h/1", epoch=3))),
        ([key(KEY, said("dc1"), session="")], Seen()),  # nobody holds it any more
        ([key("isthmus/east/leader", said("east")), key("isthmus/b/leader", said("b"))], Seen(others=("b", "east"))),
        ([key("isthmus/east/leader", b"garbage"), key("isthmus/other", said("x"))], Seen()),
    ],
)
def test_read_keys(found: list[dict[str, object]] | None, seen: Seen) -> None:
    assert read_keys(found, key=KEY) == seen


@pytest.mark.parametrize(
    ("refusal", "told", "longest"),
    [
        # Another token will come, and who reads tells of it: the lock is tried again well before it runs out.
        ("ACL not found", set(), 2.0),
        ("Permission denied: token lacks permission 'session:write'", {"consul_no_lock"}, 60.0),
    ],
)
async def test_a_token_that_is_refused_while_the_lock_is_held(
    server: Server, connect: Callable[..., ConsulClient], refusal: str, told: set[str], longest: float
) -> None:
    """1. it is held  2. the token is refused: it reports on  3. the token is good again: so is the lock."""
    refused = False

    def answer(request: web.Request) -> web.Response:
        if refused:
            return web.Response(status=403, text=refusal)
        if request.path == "/v1/session/create":
            return web.json_response({"ID": "s"})
        return web.json_response([] if request.method == "GET" else True, headers={"X-Consul-Index": "1"})

    server.answer = answer
    clock, problems, every = QuickClock(), list[Problem](), set[str]()

    def tell(found: object) -> None:
        problems[:] = list(found)  # type: ignore[call-overload]
        every.update(p.code for p in problems)

    lock = Lock(
        connect(),
        ConsulSettings(datacenters={"dc1": "shop"}),
        "dc1",
        cluster="dc1",
        agent="h/1",
        elects=True,
        fallback=7,
        on_problems=tell,
        clock=clock,
        log=log.get("test"),
    )
    running = asyncio.create_task(lock.run())
    try:
        await until(lambda: lock.session == "s", what="the lock")
        epoch = await until(lambda: lock.reporting.value, what="who reports")
        refused = True
        before = len(clock.slept)
        await until(lambda: len(clock.slept) > before + 3, what="attempts that are refused")
        assert (lock.reporting.value, every) == (epoch, told)
        assert max(clock.slept[before + 1 :]) == longest
        refused = False
        since = len(server.seen)
        await until(lambda: len(server.seen) > since + 8 and not problems, what="the lock again")
        assert lock.reporting.value is not None
    finally:
        await cancel(running)


def of_another(request: web.Request) -> web.Response:
    """Another agent of dc1 has the lock, and east exports from the datacenter, too."""
    if request.path == "/v1/session/create":
        return web.json_response({"ID": "mine"})
    if request.method == "PUT":
        return web.json_response(data=False)
    held = {KEY: said("dc1", "h/2"), "isthmus/east/leader": said("east")}
    keys = [key(name, b"") | {"Value": base64.b64encode(value).decode()} for name, value in held.items()]
    return web.json_response(keys, headers={"X-Consul-Index": "7", "X-Consul-KnownLeader": "true"})


def denied(request: web.Request) -> web.Response:
    return web.Response(status=403, text="Permission denied: token with AccessorID 'x' lacks permission")


@pytest.mark.parametrize(
    ("answer", "elects", "codes"),
    [
        (of_another, True, {"consul_standby", "consul_shared"}),
        (of_another, False, {"consul_shared"}),  # a replica: who reports is said by the Lease
        (denied, True, {"consul_no_lock"}),
        (denied, False, {"consul_no_lock"}),
    ],
)
async def test_what_is_told_without_the_lock(server: Any, answer: Any, elects: bool, codes: set[str]) -> None:
    server.answer = answer
    told: set[str] = set()
    locks = Locks(
        ConsulSettings(address=server.address, datacenters={"dc1": "shop"}),
        cluster="dc1",
        agent="h/1",
        elects=elects,
        fallback=5,
        on_problems=lambda found: told.update(p.code for p in found),
        clock=SystemClock(),
        log=log.get("test"),
    )
    task = asyncio.create_task(locks.run(), name="locks")
    try:
        await until(lambda: told)
        assert told == codes
        assert locks.leader.value is None
        assert locks.by_datacenter["dc1"].leader.value is None
        assert locks.standing().leader == ("h/2" if answer is of_another else "")
    finally:
        await cancel(task)
