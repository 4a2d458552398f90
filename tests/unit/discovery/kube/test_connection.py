"""A configuration that is wrong is one line that says what to do; credentials that expire are read again."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from discovery.kube.client import KubeClient
from discovery.kube.connection import connect
from discovery.kube.errors import Forbidden, Gone, NotFound, TooMany, Unauthorised, Unreachable
from discovery.kube.resources import NAMESPACES, SERVICES
from discovery.kube.settings import KubernetesSettings
from federation import log
from federation.aio.clock import FakeClock
from federation.errors import InvalidSettings


def kubeconfig(server: str = "http://127.0.0.1:1", **user: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "contexts": [{"name": "one", "context": {"cluster": "one", "user": "one"}}],
        "clusters": [{"name": "one", "cluster": {"server": server}}],
        "users": [{"name": "one", "user": user}],
    }


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in kubeconfig().items() if k != key}


@pytest.mark.parametrize(
    ("text", "context", "said"),
    [
        pytest.param(None, "", "cannot be read: No such file", id="missing"),
        pytest.param("", "", "is empty", id="empty"),
        pytest.param("{", "", "cannot be used", id="no YAML"),
        pytest.param("[]", "", "cannot be used", id="no mapping"),
        pytest.param("7", "", "cannot be used", id="a number"),
        pytest.param(yaml.safe_dump(kubeconfig()), "two", "name two in", id="another context"),
        pytest.param(yaml.safe_dump(without("current-context")), "", "current-context", id="no context"),
        pytest.param(yaml.safe_dump(without("clusters")), "", "clusters", id="no clusters"),
        pytest.param(yaml.safe_dump(kubeconfig("127.0.0.1:1")), "", "is no URL", id="no URL"),
        pytest.param(
            yaml.safe_dump(
                {**kubeconfig("https://h"), "users": [{"name": "one", "user": {"client-certificate": "x"}}]}
            ),
            "",
            "File does not exist",
            id="no certificate",
        ),
        pytest.param(
            yaml.safe_dump(
                {
                    **kubeconfig(),
                    "clusters": [
                        {"name": "one", "cluster": {"server": "https://h", "certificate-authority-data": "bm9uZQ=="}}
                    ],
                }
            ),
            "",
            "cannot be used",
            id="no root",
        ),
    ],
)
async def test_a_wrong_kubeconfig_is_one_line(tmp_path: Path, text: str | None, context: str, said: str) -> None:
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidSettings) as caught:
        await connect(KubernetesSettings(kubeconfig=str(path), context=context))
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


async def test_several_kubeconfigs_are_one_as_for_kubectl(tmp_path: Path) -> None:
    """The context may be in any of them, and one that is not there is passed over."""
    for name, port in (("one", 1), ("two", 2)):
        text = yaml.safe_dump(kubeconfig(f"http://127.0.0.1:{port}")).replace("one", name)
        (tmp_path / name).write_text(text)
    joined = os.pathsep.join(str(tmp_path / name) for name in ("one", "missing", "two"))
    for context, server in (("one", "http://127.0.0.1:1"), ("two", "http://127.0.0.1:2")):
        connection = await connect(KubernetesSettings(kubeconfig=joined, context=context))
        assert connection.configuration.host == server
        await connection.close()


async def test_outside_of_a_pod_a_kubeconfig_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InvalidSettings) as caught:
        await connect(KubernetesSettings())
    assert "does not run in a pod" in str(caught.value)


@pytest.mark.parametrize(
    ("script", "said"),
    [("exit 3", "returned 3"), ("echo nonsense", "decode"), (None, "no credentials")],
)
async def test_a_plugin_that_fails_is_no_wrong_configuration(tmp_path: Path, script: str | None, said: str) -> None:
    """It may work the next time: the agent serves on and tries again."""
    path = plugin(tmp_path, script)
    with pytest.raises(Unauthorised) as caught:
        await connect(KubernetesSettings(kubeconfig=str(path)))
    assert said in str(caught.value)


def plugin(folder: Path, script: str | None, server: str = "http://127.0.0.1:1") -> Path:
    program = folder / "plugin"
    if script is not None:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    path = folder / "kubeconfig"
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(program)}}
    path.write_text(yaml.safe_dump(kubeconfig(server, **user)))
    return path


class Server:
    """Accepts one token; answers what it is told to."""

    def __init__(self) -> None:
        self.token, self.url = "one", ""
        self.asked: list[str] = []
        self.answer: web.Response | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path_qs}")
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"kind": "Status", "code": 401}, status=401)
        if self.answer is not None:
            answer, self.answer = self.answer, None
            return answer
        return web.json_response({"metadata": {"resourceVersion": "7"}, "items": []})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    told = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", told.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    told.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield told
    await runner.cleanup()


@pytest.fixture
async def client(server: Server, tmp_path: Path) -> AsyncIterator[KubeClient]:
    secret = tmp_path / "token"
    secret.write_text("one")
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(kubeconfig(server.url, tokenFile=str(secret))))
    made = await KubeClient.open(KubernetesSettings(kubeconfig=str(path)), log=log.get("test"), clock=FakeClock())
    yield made
    await made.close()


async def test_a_token_that_expired_is_read_again(server: Server, client: KubeClient, tmp_path: Path) -> None:
    assert await client.get(NAMESPACES, None, "a")
    server.token = "two"
    (tmp_path / "token").write_text("two")
    client._clock.advance(60)  # type: ignore[attr-defined]
    assert await client.get(NAMESPACES, None, "a")
    server.token = "three"
    with pytest.raises(Unauthorised):
        await client.get(NAMESPACES, None, "a")
    asked = len(server.asked)
    with pytest.raises(Unauthorised):
        await client.get(NAMESPACES, None, "a")
    assert len(server.asked) == asked + 1, "it was read again just now"


async def test_a_plugin_is_asked_again(server: Server, tmp_path: Path) -> None:
    def answer(token: str) -> str:
        status = f'{{"token": "{token}", "expirationTimestamp": "2100-01-01T00:00:00Z"}}'
        version = "client.authentication.k8s.io/v1"
        return f"""echo '{{"apiVersion": "{version}", "kind": "ExecCredential", "status": {status}}}'"""

    path, clock = plugin(tmp_path, answer("one"), server.url), FakeClock()
    client = await KubeClient.open(KubernetesSettings(kubeconfig=str(path)), log=log.get("test"), clock=clock)
    try:
        assert await client.get(NAMESPACES, None, "a")
        server.token = "two"
        plugin(tmp_path, answer("two"), server.url)
        clock.advance(60)
        assert await client.get(NAMESPACES, None, "a")
    finally:
        await client.close()


def status(code: int, message: str = "no", **more: Any) -> web.Response:
    body = {"kind": "Status", "code": code, "message": message, **more}
    headers = {"Retry-After": "7"} if code == 429 else {}
    return web.json_response(body, status=code, headers=headers)


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (status(403), Forbidden, 'lacks {apiGroups: [""], resources: ["services"], verbs: ["list"]}'),
        (status(404, "the server could not find the requested resource"), NotFound, "could not find"),
        (status(410, "too old"), Gone, "too old"),
        (status(504, "Too large resource version: 9, current: 7"), Gone, "Too large"),
        (status(429), TooMany, "busy"),
        (web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), Unreachable, "unexpected answer 302"),
        (web.Response(status=200, text="<html>"), Exception, "no list of services"),
        (web.json_response({"items": []}), Exception, "metadata"),
        (web.json_response({"metadata": {}, "items": []}), Exception, "without a resourceVersion"),
    ],
)
async def test_answers_that_are_no_list(
    server: Server, client: KubeClient, answer: web.Response, error: type[Exception], said: str
) -> None:
    server.answer = answer
    with pytest.raises(error) as caught:
        async for _ in client.pages(SERVICES):
            pass
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(kubeconfig("http://127.0.0.1:1")))
    client = KubeClient(KubernetesSettings(kubeconfig=str(path)), log=log.get("test"), clock=FakeClock())
    with pytest.raises(Unreachable):
        await client.get(NAMESPACES, None, "a")
    await client.close()


async def test_a_line_that_is_longer_than_any_buffer(server: Server, client: KubeClient) -> None:
    line = b"x" * 1_500_000
    server.answer = web.Response(body=line + b"\n" + line[:9])
    watch = client.watch(SERVICES, resource_version="7", timeout_seconds=30)
    assert [await anext(watch), await anext(watch)] == [b"", line]
    with pytest.raises(Unreachable):
        await anext(watch)


@pytest.mark.parametrize(
    ("environment", "proxy_url", "proxy", "auth"),
    [
        ({}, "", "", None),
        ({"https_proxy": "http://me:word@gate:3128"}, "", "http://gate:3128", "me"),
        ({"https_proxy": "http://gate:3128", "no_proxy": "kube.example"}, "", "", None),
        ({"https_proxy": "http://gate:3128"}, "http://other:1", "http://other:1", None),
    ],
)
async def test_the_proxy_is_that_of_the_kubeconfig_or_of_the_environment(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    proxy_url: str,
    proxy: str,
    auth: str | None,
) -> None:
    for key in ("https_proxy", "no_proxy", "HTTPS_PROXY", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(key, raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    made = kubeconfig("https://kube.example:6443")
    if proxy_url:
        made["clusters"][0]["cluster"]["proxy-url"] = proxy_url
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(made))
    connection = await connect(KubernetesSettings(kubeconfig=str(path)))
    try:
        assert str(connection.options.get("proxy", "")).rstrip("/") == proxy
        given = connection.options.get("proxy_auth")
        assert (given.login if given is not None else None) == auth
        assert not connection.session.trust_env  # no look at ~/.netrc before each request
    finally:
        await connection.close()
