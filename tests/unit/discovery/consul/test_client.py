"""What the client sends and what it makes of answers, against an HTTP server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from clusters.waiting import until
from discovery.consul.client import ConsulClient, Meta, read_meta
from discovery.consul.errors import Forbidden, ServerFailed, TooLarge, Unreachable
from federation.errors import InvalidSettings, Unavailable

from .conftest import Server

HEADERS = {
    "X-Consul-Index": "42",
    "X-Consul-KnownLeader": "true",
    "X-Consul-LastContact": "1500",
    "X-Consul-Results-Filtered-By-ACLs": "true",
    "X-Consul-Default-ACL-Policy": "deny",
}
Connect = Callable[..., ConsulClient]


async def test_a_blocking_query(server: Server, connect: Connect) -> None:
    server.answer = lambda _: web.json_response([], headers=HEADERS)
    answer = await connect().health("dc1", "web", index=41, wait=10.0, stale=True)
    assert answer.body == b"[]"
    assert answer.meta == Meta(index=42, known_leader=True, last_contact=1.5, filtered=True, default_deny=True)
    (request,) = server.seen
    assert request.path == "/v1/health/service/web"
    assert dict(request.query) == {"dc": "dc1", "index": "41", "wait": "10000ms", "stale": ""}
    assert request.headers["Accept-Encoding"] == "identity"
    assert "X-Consul-Token" not in request.headers


async def test_a_first_query_does_not_block(server: Server, connect: Connect) -> None:
    await connect().services("dc1", filter='ServiceMeta["a"] == "b"', index=0, wait=10.0)
    await connect().checks("dc1", "critical")
    assert [(r.path, dict(r.query)) for r in server.seen] == [
        ("/v1/catalog/services", {"dc": "dc1", "filter": 'ServiceMeta["a"] == "b"'}),
        ("/v1/health/state/critical", {"dc": "dc1"}),
    ]


async def test_a_name_with_a_slash_stays_one_part_of_the_path(server: Server, connect: Connect) -> None:
    await connect().health("dc1", "a/../b ?x")
    assert server.seen[0].rel_url.raw_path == "/v1/health/service/a%2F..%2Fb%20%3Fx"


@pytest.mark.parametrize(
    ("headers", "meta"),
    [
        ({}, Meta(index=0)),
        ({"X-Consul-Index": "-5", "X-Consul-LastContact": "no"}, Meta(index=0)),
        ({"X-Consul-Index": "9" * 30}, Meta(index=0)),
        ({"X-Consul-KnownLeader": "False"}, Meta(index=0, known_leader=False)),
    ],
)
def test_headers_that_are_missing_or_garbled(headers: dict[str, str], meta: Meta) -> None:
    assert read_meta(headers) == meta


async def test_a_token_is_sent_in_its_header_and_read_again_when_it_is_refused(
    server: Server, connect: Connect, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("old\n")

    def answer(request: web.Request) -> web.Response:
        good = request.headers["X-Consul-Token"] == "new"
        return web.Response(text="[]") if good else web.Response(status=403, text="ACL not found")

    server.answer = answer
    client = connect(token_file=str(file))
    with pytest.raises(Forbidden, match="does not know our token"):
        await client.health("dc1", "web")
    assert len(server.seen) == 1  # the same token once more would be refused as well
    file.write_text("new")
    assert (await client.health("dc1", "web")).body == b"[]"
    assert [r.headers["X-Consul-Token"] for r in server.seen] == ["old", "old", "new"]
    assert all("new" not in str(r.url) for r in server.seen)


async def test_with_another_token_in_the_file_queries_that_wait_are_asked_anew_at_once(
    server: Server, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that sees too little is not refused: nothing but the file tells that there is a better one."""
    monkeypatch.setattr("discovery.consul.client._CREDENTIALS_SECONDS", 0.01)
    file = tmp_path / "token"
    file.write_text("narrow")
    forever = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if "index" in request.query:
            await forever.wait()
        return web.Response(text=request.headers["X-Consul-Token"], headers={"X-Consul-Index": "7"})

    server.answer = answer
    client = connect(token_file=str(file))
    assert (await client.health("dc1", "web")).body == b"narrow"
    problems = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(client.follow_token(problems.set))
        waiting = [tasks.create_task(client.health("dc1", name, index=7, wait=600.0)) for name in ("web", "db")]
        await until(lambda: len(server.seen) == 3)
        file.write_text("")  # as an editor leaves it for a moment
        await problems.wait()
        (problem,) = client.problems()
        assert (problem.code, problem.subject) == ("consul_token", str(file))
        assert "is empty" in problem.detail
        assert not any(task.done() for task in waiting)
        file.write_text("wide")
        assert [(await task).body for task in waiting] == [b"wide", b"wide"]
        await until(lambda: not client.problems())
        following.cancel()
    assert [dict(r.query) for r in server.seen[3:]] == [{"dc": "dc1"}] * 2


async def test_without_a_token_file_there_is_nothing_to_follow(connect: Connect) -> None:
    await connect().follow_token()


def test_a_token_on_its_way_to_another_machine_is_a_problem_without_tls(connect: Connect) -> None:
    (problem,) = connect(address="http://192.0.2.1:8500", token_file="t").problems()
    assert (problem.code, problem.subject) == ("consul_plain_token", "Consul at 192.0.2.1:8500")
    assert "https://" in problem.detail


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_answer_that_is_too_long_is_not_read(server: Server, connect: Connect, chunked: bool) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if not chunked:
            return web.Response(body=b"x" * 100_000)
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100):
            await response.write(b"x" * 10_000)
        return response

    server.answer = answer
    with pytest.raises(TooLarge, match="at most 65536" if not chunked else "more than 65536"):
        await connect(max_bytes=65536).health("dc1", "web")


async def test_errors_are_ours(server: Server, connect: Connect) -> None:
    server.answer = lambda _: web.Response(status=500, text="disk on fire")
    with pytest.raises(ServerFailed, match="disk on fire"):
        await connect().health("dc1", "web")


async def test_nobody_listens(connect: Connect, unused_tcp_port: int) -> None:
    with pytest.raises(Unreachable, match="cannot be reached") as caught:
        await connect(address=f"http://127.0.0.1:{unused_tcp_port}").health("dc1", "web")
    assert caught.value.error_code == "consul_unreachable"


async def test_a_query_that_is_not_answered_in_time(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("discovery.consul.client._GRACE_SECONDS", 0.1)
    forever = asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        await forever.wait()
        raise AssertionError

    server.answer = answer
    with pytest.raises(Unreachable, match="does not answer"):
        await connect().health("dc1", "web", index=3, wait=0.1)


async def test_a_closed_client_says_so(connect: Connect) -> None:
    client = connect()
    await client.close()
    with pytest.raises(Unavailable, match="closed"):
        await client.health("dc1", "web")


async def test_a_ca_that_cannot_be_read(connect: Connect) -> None:
    client = connect(address="https://127.0.0.1:1", ca_file="/nowhere.pem")
    with pytest.raises(InvalidSettings, match=r"consul\.ca_file /nowhere\.pem cannot be used: No such file"):
        await client.health("dc1", "web")


async def test_a_key_that_is_missing_is_an_answer(server: Server, connect: Connect) -> None:
    server.answer = lambda _: web.Response(status=404)
    assert await connect().key("dc1", "isthmus/dc1/leader") is None


# --- py-consul over it ---


async def test_py_consul_speaks_through_our_connections(
    server: Server, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "of the environment")
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "http://192.0.2.1:1")
    (tmp_path / "token").write_text("ours")
    server.answer = lambda _: web.json_response({"ID": "5"})
    api = connect(token_file=str(tmp_path / "token")).api
    assert await api.session.create(name="isthmus", ttl=15, lock_delay=1, dc="dc1") == "5"
    (request,) = server.seen
    assert (request.method, request.path) == ("PUT", "/v1/session/create")
    assert request.headers["X-Consul-Token"] == "ours"
    assert "of the environment" not in str(request.url)


async def test_what_py_consul_raises_is_ours(server: Server, connect: Connect) -> None:
    server.answer = lambda _: web.Response(status=403, text="Permission denied")
    with pytest.raises(Forbidden):
        await connect().api.kv.put("isthmus/dc1/leader", "x", acquire="5")
