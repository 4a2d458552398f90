"""Tokens, ACLs, TLS and locks of a real Consul."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from clusters.consul import Datacenter
from clusters.waiting import until
from discovery.consul.client import ConsulClient
from discovery.consul.lock import Locks
from discovery.consul.settings import ConsulSettings
from federation import log
from federation.aio.clock import SystemClock
from federation.aio.tasks import cancel
from federation.errors import Unavailable
from federation.model.cluster import Problem

from .conftest import Follow, ready

pytestmark = pytest.mark.integration

Start = Callable[..., Awaitable[tuple[Datacenter, ...]]]
EXPORT = {"isthmus-export": "true"}
READER = 'node_prefix "" { policy = "read" }\nservice_prefix "" { policy = "read" }'


async def test_tokens(start_consul: Start, follow: Follow, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1. no rights: nothing is believed  2. the right token is written to the file  3. it is narrowed: all that was
    known stays  4. a wider one is written while the narrow one is still good  5. that is revoked, and another one
    written: all goes on  6. no token is ever shown"""
    (dc1,) = await start_consul("dc1", acl=True)
    file = tmp_path / "token"
    file.write_text("11111111-2222-3333-4444-555555555555")
    async with dc1.connect() as consul, follow(dc1, complete=False, token_file=str(file), wait=2.0) as running:
        for name in ("web", "db"):
            await consul.register(name, port=80, Address="10.0.0.1", Meta=EXPORT)
        problem = await running.told("consul_forbidden")
        assert "does not know our token" in problem.detail
        assert not running.state.complete
        reader = await consul.token(READER, name="reader")
        file.write_text(reader["SecretID"])
        await running.exported("web")
        await running.exported("db")
        await until(lambda: running.state.complete and not running.state.problems)

        policy = reader["Policies"][0]["ID"]
        narrow = {"Name": "reader", "Rules": 'node_prefix "" { policy = "read" }\nservice "web" { policy = "read" }'}
        await consul.put(f"/v1/acl/policy/{policy}", narrow)
        assert "node_prefix" in (await running.told("consul_filtered")).detail
        await consul.register("web", port=80, Address="10.0.0.2", Meta=EXPORT)
        await running.exported("web", lambda s: ready(s) == ["10.0.0.2"])
        assert ready(running.claim("db")) == ["10.0.0.1"]

        await consul.register("db", port=80, Address="10.0.0.8", Meta=EXPORT)
        wider = await consul.token(READER, name="wider")
        file.write_text(wider["SecretID"])
        await running.untold("consul_filtered")
        await running.exported("db", lambda s: ready(s) == ["10.0.0.8"])

        await consul.revoke(wider["AccessorID"])
        await running.told("consul_forbidden")
        assert running.claim("web") is not None
        assert running.claim("db") is not None
        again = await consul.token(READER, name="again")
        file.write_text(again["SecretID"])
        await until(lambda: not running.state.problems, what="the end of all problems")
        await consul.register("web", port=80, Address="10.0.0.3", Meta=EXPORT)
        await running.exported("web", lambda s: ready(s) == ["10.0.0.3"])
    said = "".join(capsys.readouterr())
    assert "reading Consul" in said
    for secret in (reader["SecretID"], wider["SecretID"], again["SecretID"]):
        assert secret not in said


async def test_without_a_token_nothing_goes_when_consul_no_longer_shows_it(start_consul: Start, follow: Follow) -> None:
    """An answer to somebody without a token does not say that it was filtered."""
    (dc1,) = await start_consul("dc1", acl=True)
    anonymous = "00000000-0000-0000-0000-000000000002"
    async with dc1.connect() as consul:
        for name in ("web", "db"):
            await consul.register(name, port=80, Address="10.0.0.1", Meta=EXPORT)
        policy = await consul.put("/v1/acl/policy", {"Name": "anybody", "Rules": READER})

        async def grant(*policies: dict[str, str]) -> None:
            body = {"AccessorID": anonymous, "SecretID": "anonymous", "Policies": list(policies)}
            await consul.put(f"/v1/acl/token/{anonymous}", body)

        await grant({"ID": policy["ID"]})
        async with follow(dc1, token_file="", wait=1.0, confirm=0.2, resync=0.2) as running:
            assert "set consul.token_file" in (await running.told("consul_filtered")).detail
            await grant()
            reader = running.source.client
            await until(lambda: sees(reader, b"{}"), what="a catalogue that shows nothing")
            for _ in range(20):  # each time that a watch is answered, and what was held would have been confirmed
                await asyncio.sleep(0.1)
                assert running.claim("web") is not None
                assert running.claim("db") is not None
            await grant({"ID": policy["ID"]})
            await consul.register("web", port=80, Address="10.0.0.2", Meta=EXPORT)
            await running.exported("web", lambda s: ready(s) == ["10.0.0.2"])


async def sees(client: ConsulClient, body: bytes) -> bool:
    return (await client.services("dc1")).body.strip() == body


async def test_tls(start_consul: Start, follow: Follow) -> None:
    """1. our certificate has expired  2. a good one is written in its place  3. a root that is not trusted"""
    (dc1,) = await start_consul("dc1", tls=True)
    certificate, key = dc1.client_files("late", now=dt.datetime.now(dt.UTC) - dt.timedelta(days=800))
    files = {"ca_file": str(dc1.authority_file()), "cert_file": str(certificate), "key_file": str(key)}
    async with dc1.connect() as consul:
        await consul.register("web", port=80, Address="10.0.0.1", Meta=EXPORT)
    async with follow(dc1, complete=False, **files) as running:
        problem = await running.told("consul_tls")
        assert "is ours still valid" in problem.detail
        good, good_key = dc1.client_files("good")
        key.write_bytes(good_key.read_bytes())
        certificate.write_bytes(good.read_bytes())
        await running.exported("web")
        await until(lambda: not running.state.problems)
    async with follow(dc1, live=False, ca_file="", cert_file=str(good), key_file=str(good_key)) as running:
        assert "not trusted" in (await running.told("consul_untrusted")).detail
        assert running.claim("web") is not None


async def test_acls_and_tls_together(start_consul: Start, follow: Follow, tmp_path: Path) -> None:
    """1. a token and certificates, by the name that the servers have  2. another name: nothing is lost  3. the server's
    certificate has expired: the same  4. it has a new one: all goes on"""
    (dc1,) = await start_consul("dc1", acl=True, tls=True)
    token = tmp_path / "token"
    async with dc1.connect() as consul:
        token.write_text((await consul.token(READER, name="reader"))["SecretID"])
        await consul.register("web", port=80, Address="10.0.0.1", Meta=EXPORT)
    given = {"token_file": str(token), "wait": 1.0}
    async with follow(dc1, server_name="server.dc1.consul", **given) as running:
        assert ready(await running.exported("web")) == ["10.0.0.1"]
        assert not running.state.problems
    async with follow(dc1, live=False, server_name="server.dc2.consul", **given) as running:
        problem = await running.told("consul_untrusted")
        assert "Hostname mismatch" in problem.detail
        assert "server.dc2.consul" in problem.detail
        assert "check consul.ca_file and consul.server_name" in problem.detail
        assert ready(running.claim("web")) == ["10.0.0.1"]

    dc1.renew(now=dt.datetime.now(dt.UTC) - dt.timedelta(days=800))

    async def shown() -> bool:
        try:
            async with dc1.connect() as consul:
                await consul.get("/v1/status/leader")
        except Unavailable as error:
            return "expired" in error.message
        return False

    await until(shown, what="a certificate that has expired")
    async with follow(dc1, live=False, server_name="server.dc1.consul", **given) as running:
        problem = await running.told("consul_untrusted")
        assert "certificate has expired" in problem.detail
        assert "\n" not in problem.detail
        assert ready(running.claim("web")) == ["10.0.0.1"]
        dc1.renew()
        await until(lambda: running.source.live.value and not running.state.problems)


class Holder:
    def __init__(self, datacenter: Datacenter, cluster: str, agent: str, token: Path | None) -> None:
        self.problems: list[Problem] = []
        self.locks = Locks(
            ConsulSettings(
                address=datacenter.url(),
                datacenters={datacenter.name: "shop"},
                lock_ttl=10.0,
                token_file=str(token or ""),
            ),
            cluster=cluster,
            agent=agent,
            fallback=7,
            on_problems=self._tell,
            clock=SystemClock(),
            log=log.get("test"),
        )
        self.task = asyncio.create_task(self.locks.run())

    def _tell(self, found: object) -> None:
        self.problems = list(found)  # type: ignore[call-overload]

    def codes(self) -> list[str]:
        return [p.code for p in self.problems]


async def test_one_agent_leads(start_consul: Start) -> None:
    """1. the second agent of a cluster stands by  2. it takes over with a newer epoch  3. another cluster is noticed"""
    (dc1,) = await start_consul("dc1")
    one = Holder(dc1, "dc1", "host/1", None)
    await until(lambda: one.locks.reporting.value)
    first = one.locks.reporting.value
    assert first is not None
    assert one.locks.leader.value == first
    two = Holder(dc1, "dc1", "host/2", None)
    other = Holder(dc1, "east", "host/3", None)
    try:
        await until(lambda: "consul_standby" in two.codes())
        assert "host/1" in next(p for p in two.problems if p.code == "consul_standby").detail
        assert two.locks.reporting.value is None
        await until(lambda: "consul_shared" in other.codes() and "consul_shared" in two.codes())
        assert "dc1 exports from this datacenter, too" in other.problems[0].detail
        await cancel(one.task)
        await until(lambda: two.locks.reporting.value)
        assert two.locks.reporting.value is not None
        assert two.locks.reporting.value > first
        assert "consul_standby" not in two.codes()
    finally:
        for holder in (one, two, other):
            await cancel(holder.task)


async def test_without_the_right_to_lock_it_goes_on_alone(start_consul: Start, tmp_path: Path) -> None:
    (dc1,) = await start_consul("dc1", acl=True)
    async with dc1.connect() as consul:
        reader = await consul.token(READER, name="reader")
    (tmp_path / "token").write_text(reader["SecretID"])
    one = Holder(dc1, "dc1", "host/1", tmp_path / "token")
    try:
        await until(lambda: "consul_no_lock" in one.codes())
        assert one.locks.reporting.value == 7
        assert "session_prefix" in one.problems[0].detail
    finally:
        await cancel(one.task)
