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
from clusters.waiting import START
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
        """What the last line on stderr says is wrong; empty when nothing was said."""
        lines = self.err.splitlines()
        return json.loads(lines[-1])["error"] if lines else {}


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
    """(service, from, to) → what came of the call; empty where the command has not come as far as to call."""
    return {(c["service"], c["from"], c["to"]): c for c in done.json["calls"]} if done.out else {}


def outcome(done: Any, call: tuple[str, str, str]) -> str:
    """The status of the command, and the code of the call (service, from, to)."""
    found = calls(done).get(call)
    return f"{done.status} {found['code'] if found else 'no such call'}"


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
    found = eventually(
        lambda: d if (d := fedctl.ok("check", "-o", "json")).json["level"] == "ok" else None, what="a whole federation"
    )
    seen = levels(found)
    for code in ("agent", "connection", "epoch", "certificates", "gateways", "gateway-reach", "pins", "exports"):
        assert {seen[code, "east"], seen[code, "west"]} == {"ok"}, code
    assert seen["versions", "federation"] == seen["clock", "the registry"] == "ok"
    made = calls(eventually(lambda: d if (d := fedctl("verify", "-o", "json")).status == 0 else None, what="answers"))
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
    eventually(lambda: "shop/secret" in fedctl("get", "services", "-o", "json").out, what="the export")
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
        return outcome(fedctl("verify", "--service", name, "-o", "json"), (name, "east", "west"))

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
        return outcome(fedctl("verify", "--service", "shop/kv", "-o", "json"), ("shop/kv", source, target))

    def refused() -> tuple[str, str]:
        return code("east", "west"), code("west", "east")

    eventually(lambda: refused() == ("6 tls_refused", "6 not_pinned"), what="a refusal")

    def found() -> list[str | None]:
        seen = levels(fedctl("check", "-o", "json"))
        subjects = ("pins", "west -> east"), ("gateway-reach", "east -> west: west-gateway"), ("pins", "east")
        return [seen.get(subject) for subject in subjects]

    eventually(lambda: found() == ["error", "error", "ok"], what="the truth about the pins")
    fedctl.ok("link", "east", "west")
    fedctl.ok("check", "--wait", "--timeout", str(START))
    eventually(lambda: code("east", "west") == code("west", "east") == "0 None", what="answers")


def test_a_gateway_and_an_agent_that_are_away_are_named_and_wait_sees_them_come_back(
    running: ProcessFederation, fedctl: Any, eventually: Any
):
    there, back = ("shop/echo", "east", "west"), ("shop/echo", "west", "east")

    def outcomes() -> tuple[str, str]:
        verified = fedctl("verify", "--service", "shop/echo", "-o", "json")
        return outcome(verified, there), outcome(verified, back)

    running.kill("west-gateway")
    # Withdrawn when its lease has run out; the other way the agent itself dials.
    gone = [(f"6 {code}", "6 None") for code in ("nobody_listens", "no_gateway")]
    eventually(lambda: outcomes() in gone, what="the truth about the gateway")
    found = fedctl("check", "-o", "json")
    assert found.status == 6
    assert found.error["code"] == "check_failed"
    assert errors(found) & {"gateway-reach", "gateways"}
    running.restart("west-gateway")
    running.kill("west-agent")
    found = fedctl("check", "-o", "json")
    assert levels(found)["agent", "west"] == "error"
    assert fedctl("check", "--wait", "--timeout", "0.5", "-o", "json").status == 11
    eventually(lambda: outcomes()[1] == "6 agent_unreachable", what="the truth about the agent")
    running.restart("west-agent")
    fedctl.ok("check", "--wait", "--timeout", str(2 * START))
    eventually(lambda: fedctl("verify", "--service", "shop/echo").status == 0, what="answers")


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
