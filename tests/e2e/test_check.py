"""fedctl check and fedctl verify on a whole federation of processes, and on one of which something is broken."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clusters import manifests
from clusters.processes import HTTP_PORT, NAMESPACE, ProcessFederation
from federation.cli.clients import agent
from federation.cli.main import run

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, str]:
        return json.loads(self.err.splitlines()[-1])["error"]


class Here:
    """fedctl in this process: nothing here is about its start, which takes longer than what it does."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, *words: str) -> Done:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run(["--home", str(self.home), *words])
        return Done(status, out.getvalue(), err.getvalue())

    def ok(self, *words: str) -> Done:
        done = self(*words)
        assert done.status == 0, f"fedctl {' '.join(words)}: {done.err}{done.out}"
        return done


@pytest.fixture(scope="module")
def fedctl(federation: ProcessFederation) -> Here:
    return Here(federation.directory / "home")


def levels(done: Any) -> dict[tuple[str, str], str]:
    """(code, subject) → level."""
    return {(f["code"], f["subject"]): f["level"] for f in done.json["findings"]}


def errors(done: Any) -> set[str]:
    return {f["code"] for f in done.json["findings"] if f["level"] == "error"}


def calls(done: Any) -> dict[tuple[str, str, str], dict[str, Any]]:
    """(service, from, to) → what came of the call."""
    return {(c["service"], c["from"], c["to"]): c for c in done.json["calls"]}


@pytest.fixture
def offer(running: ProcessFederation) -> Callable[..., None]:
    """Export a service of west, to `consumers` alone where those are given."""
    west = running.places["west"]

    def write(name: str, consumers: str = "", **copy: Any) -> None:
        made = manifests.Copy(**{"address": west.address, "port": west.http_port, **copy})
        documents = manifests.exported(NAMESPACE, name, port=HTTP_PORT, app="http", copy=made)
        if consumers:
            documents[1]["metadata"]["annotations"] = {"isthmus.io/consumers": consumers}  # type: ignore[index]
        asyncio.run(running.ground.write("west", *documents))

    return write


def test_a_whole_federation_is_well_and_every_call_is_answered_by_whom_it_was_meant_for(
    running: ProcessFederation, fedctl: Any, eventually: Any
):
    found = fedctl.ok("check", "-o", "json")
    assert found.json["level"] == "ok", found.out
    seen = levels(found)
    for code in ("agent", "connection", "epoch", "certificates", "gateways", "gateway-reach", "pins", "exports"):
        assert {seen[code, "east"], seen[code, "west"]} == {"ok"}, code
    assert seen["versions", "federation"] == seen["clock", "the registry"] == "ok"
    made = calls(fedctl.ok("verify", "-o", "json"))
    for source, target in (("east", "west"), ("west", "east")):
        request, bytes_ = made["shop/echo", source, target], made["shop/kv", source, target]
        assert (request["state"], request["status"], request["answered_by"]) == ("ok", 200, [target])
        assert (bytes_["state"], bytes_["detail"]) == ("ok", "the service speaks")
        assert request["latency_ms"] > 0
        # Nothing writes the imports of a folder of manifests: nobody calls through the own gateway.
        assert made["shop/echo", source, "any"]["code"] == "no_egress"
    table = fedctl.ok("verify", "--service", "shop/echo", "--cluster", "east").out
    assert "shop/echo:8080" in table
    assert "✓ every call that should be answered is" in table


def test_what_grants_do_not_allow_is_refused_and_fails_where_it_was_wanted(
    fedctl: Any, offer: Callable[..., None], eventually: Any
):
    offer("secret", consumers="edge")
    eventually(lambda: "shop/secret" in fedctl.ok("get", "services", "-o", "json").out or None, what="the export")
    done = eventually(
        lambda: d if (d := fedctl("verify", "--service", "shop/secret", "-o", "json")).status == 0 else None,
        what="a refusal that is as it should be",
    )
    call = calls(done)["shop/secret", "east", "west"]
    assert (call["state"], call["code"], call["wanted"]) == ("refused", "no_grant", False)
    wanted = fedctl("verify", "--service", "shop/secret", "--cluster", "east", "-o", "json")
    assert wanted.status == 6
    assert wanted.error["code"] == "not_verified"
    call = calls(wanted)["shop/secret", "east", "west"]
    assert (call["state"], call["code"]) == ("failed", "no_grant")
    assert "403: your cluster has no grant" in call["detail"]


def test_copies_that_are_away_are_told_apart(fedctl: Any, offer: Callable[..., None], eventually: Any):
    offer("down", ready=False)
    offer("dead", port=1)

    def code(name: str) -> str:
        done = fedctl("verify", "--service", name, "-o", "json")
        call = calls(done).get((name, "east", "west")) if done.out else None
        return f"{done.status} {call['code']}" if call is not None else ""

    eventually(lambda: code("shop/down") == "6 no_ready_copy", what="no ready copy")
    eventually(lambda: code("shop/dead") == "6 copy_unreachable", what="an unreachable copy")
    found = fedctl.ok("check", "-o", "json")
    assert [f["detail"] for f in found.json["findings"] if f["code"] == "exports" and f["subject"] == "west"] == [
        "no copy is ready of shop/down"
    ]


def test_a_root_that_is_pinned_on_one_side_only(running: ProcessFederation, fedctl: Any, eventually: Any):
    """East goes on to call west, whose gateway does not know east any more."""

    async def unpin() -> None:
        async with agent(running.home, "west") as client:
            await client.unpin("east")

    asyncio.run(unpin())

    def code(source: str, target: str) -> str:
        done = fedctl("verify", "--service", "shop/kv", "-o", "json")
        return f"{done.status} {calls(done)['shop/kv', source, target]['code']}"

    eventually(lambda: code("east", "west") == "6 tls_refused", what="a refusal")
    assert code("west", "east") == "6 not_pinned"
    found = levels(fedctl("check", "-o", "json"))
    assert found["pins", "west -> east"] == found["gateway-reach", "east -> west: west-gateway"] == "error"
    assert found["pins", "east"] == "ok"
    fedctl.ok("link", "east", "west")
    fedctl.ok("check", "--wait", "--timeout", "60")
    eventually(lambda: code("east", "west") == code("west", "east") == "0 None", what="answers")


def test_a_gateway_and_an_agent_that_are_away_are_named_and_wait_sees_them_come_back(
    running: ProcessFederation, fedctl: Any, eventually: Any
):
    running.kill("west-gateway")
    verified = fedctl("verify", "--service", "shop/echo", "-o", "json")
    assert verified.status == 6
    call = calls(verified)["shop/echo", "east", "west"]
    assert call["code"] in ("nobody_listens", "no_gateway")  # withdrawn when its lease has run out
    assert calls(verified)["shop/echo", "west", "east"]["state"] == "ok"  # the agent itself dials
    found = fedctl("check", "-o", "json")
    assert found.status == 6
    assert found.error["code"] == "check_failed"
    assert errors(found) & {"gateway-reach", "gateways"}
    running.restart("west-gateway")
    running.kill("west-agent")
    found = fedctl("check", "-o", "json")
    assert levels(found)["agent", "west"] == "error"
    assert fedctl("check", "--wait", "--timeout", "0.5", "-o", "json").status == 11
    verified = fedctl("verify", "--service", "shop/echo", "-o", "json")
    assert calls(verified)["shop/echo", "west", "east"]["code"] == "agent_unreachable"
    running.restart("west-agent")
    fedctl.ok("check", "--wait", "--timeout", "60")
    fedctl.ok("verify", "--service", "shop/echo")


def test_a_token_is_looked_at_and_not_redeemed(running: ProcessFederation, fedctl: Any):
    token = fedctl.ok("token", "issue", "north").out.split()[0]
    pre = ("check", "--pre", "--cluster", "north", "--listen", "127.0.0.1:1", "-o", "json")
    for _ in range(2):
        found = fedctl(*pre, "--token", token)
        assert levels(found)["token", "north"] == levels(found)["cluster-name", "north"] == "ok", found.out
    other = fedctl.ok("token", "issue", "north").out.split()[0]  # the former one is revoked
    found = fedctl(*pre, "--token", token)
    assert levels(found)["token", "north"] == "error"
    assert [f["detail"] for f in found.json["findings"] if f["code"] == "token"] == ["this join token was revoked"]
    found = fedctl("check", "--pre", "--cluster", "east", "--token", other, "-o", "json")
    assert {levels(found)["token", "east"], levels(found)["cluster-name", "east"]} == {"error"}
    place = running.places["east"]
    taken = fedctl("check", "--pre", "--listen", f"{place.address}:{place.agent_port}", "-o", "json")
    assert levels(taken)["ports", f"{place.address}:{place.agent_port}"] == "error"
    nobody = fedctl("check", "--pre", "--registry", f"{place.address}:1", "-o", "json")
    assert levels(nobody)["registry", f"{place.address}:1"] == "error"
