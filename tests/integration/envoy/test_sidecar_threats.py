"""What the sidecar of a workload refuses, and what its callers do. In every case of refusal the workload sees nothing:
no request and no connection; and a false endpoint sees no byte of a request.

The callers here are no Envoys: they say what none of ours would say.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clusters import http2
from clusters.network import free_port
from clusters.waiting import ANSWER
from federation.aio.clock import SystemClock
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Endpoint, Import, Port
from federation.trust.authority import Authority
from federation.trust.svid import Svid

pytestmark = pytest.mark.integration

HTTP, TCP = AppProtocol.HTTP, AppProtocol.OPAQUE
ECHO, OTHERS = ServiceName("shop", "echo"), ServiceName("shop", "others")
WEB_SNI = "p80.echo.shop.svc.west.test.internal"
RAW_SNI = "p9000.echo.shop.svc.west.test.internal"
OTHERS_SNI = "p80.others.shop.svc.west.test.internal"
HOST = "echo.shop.global"
ALPN_HTTP, ALPN_TCP, ALPN_HEALTH = "h2", "isthmus-tcp", "isthmus-health"
CHECK = f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()


def proving(svid: Svid | None, directory: Path, *, purpose: int = ssl.PROTOCOL_TLS_CLIENT) -> ssl.SSLContext:
    """What somebody speaks TLS with who has `svid`; whom it talks to is nothing to it."""
    context = ssl.SSLContext(purpose)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if svid is not None:
        path = directory / f"{abs(hash(svid.chain))}.pem"
        path.write_bytes(svid.chain_pem + svid.key_pem)
        context.load_cert_chain(path)
    return context


@dataclass
class Scene:
    """A VM of West: `web` and `raw` are what is behind its sidecar, which callers reach at `port`."""

    world: Any
    kit: Any
    port: int
    web: Any
    raw: Any
    directory: Path

    def untouched(self) -> bool:
        return bool(self.web.connections == self.raw.connections == 0)

    def caller(self, account: str = "client", *, namespace: str = "shop", cluster: str = "west") -> ssl.SSLContext:
        return proving(self.world.domain(cluster).svid(account, namespace), self.directory)

    async def request(
        self,
        context: ssl.SSLContext,
        *,
        sni: str | None = WEB_SNI,
        headers: http2.Headers | None = None,
        alpn: str = ALPN_HTTP,
    ) -> tuple[int, str]:
        """Status and body; (0, "") when the connection was refused."""
        return await self._talk(context, sni, alpn, http2.request(headers or http2.headers(HOST)), http2.answer)

    async def health(self, context: ssl.SSLContext, *, sni: str | None = WEB_SNI) -> int:
        return (await self._talk(context, sni, ALPN_HEALTH, CHECK, lambda raw: (int(raw[9:12] or b"0"), "")))[0]

    async def line(self, context: ssl.SSLContext, *, sni: str | None = RAW_SNI, alpn: str = ALPN_TCP) -> str:
        def read(raw: bytes) -> tuple[int, str]:
            return int(b"\n" in raw), raw.decode(errors="replace")

        return (await self._talk(context, sni, alpn, b"hello\n", read))[1]

    async def refuses(self, what: object, context: ssl.SSLContext, **asked: Any) -> None:
        """Nothing at all is to be had this way."""
        assert (await self.request(context, **{"sni": WEB_SNI, **asked}))[0] == 0, what
        assert await self.line(context, **{"sni": RAW_SNI, **asked}) == "", what
        assert await self.health(context, **{"sni": RAW_SNI, **asked}) == 0, what

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[http2.Kept]:
        """A connection for several requests."""
        context = self.caller()
        context.set_alpn_protocols([ALPN_HTTP])
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname=WEB_SNI)
        try:
            yield http2.Kept(reader, writer)
        finally:
            writer.transport.abort()

    async def _talk(
        self,
        context: ssl.SSLContext,
        sni: str | None,
        alpn: str,
        data: bytes,
        read: Callable[[bytes], tuple[int, str]],
    ) -> tuple[int, str]:
        context.set_alpn_protocols([alpn])
        raw, writer = b"", None
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=context, server_hostname=sni or "127.0.0.1"
            )
            writer.write(data)
            while not read(raw)[0] and (piece := await asyncio.wait_for(reader.read(65536), ANSWER)):
                raw += piece
            return read(raw)
        except (ssl.SSLError, ConnectionError):
            return 0, ""
        finally:
            if writer is not None:
                writer.transport.abort()


@pytest.fixture
async def stage(world: Any, kit: Any, short_directory: Path) -> Any:
    """Makes the scene, with the settings of `inbound`. East is linked with West."""

    async def make(**at: Any) -> Scene:
        web, raw = await world.workload("web"), await world.workload("raw")
        world.domain("east")
        served = [
            kit.Served(name=ECHO, port=80, app=HTTP, target=web.port),
            kit.Served(name=ECHO, port=9000, app=TCP, target=raw.port),
            kit.Served(name=OTHERS, port=80, app=HTTP, target=web.port),
        ]
        _, endpoint = await world.vm("west", *served, **at)
        return Scene(world, kit, endpoint.ports[80], web, raw, short_directory)

    return make


@pytest.fixture
async def scene(stage: Any) -> Scene:
    made: Scene = await stage()
    return made


async def test_the_own_cluster_gets_through(scene: Scene) -> None:
    for caller in (
        scene.caller(),
        scene.caller("teller", namespace="bank"),
        scene.caller("gateway", namespace="isthmus-system"),
    ):
        assert await scene.request(caller) == (200, "web")
        assert await scene.health(caller) == 200
        assert await scene.health(caller, sni=RAW_SNI) == 200
        assert await scene.line(caller) == "raw:hello\n"


async def test_foreign_and_forged_identities_do_not_finish_the_handshake(scene: Scene) -> None:
    """East is linked, and its workloads may come through the gateway: not here."""
    forger = Authority.open(scene.directory / "ca-forged", trust_domain="west.test.internal", clock=SystemClock())
    forged = scene.kit.replace(scene.world.domain("west"), authority=forger).svid("client", "shop")
    refused = {
        "no certificate": proving(None, scene.directory),
        "a linked cluster": scene.caller(cluster="east"),
        "its gateway": scene.caller("gateway", namespace="isthmus-system", cluster="east"),
        "a cluster that is not linked": scene.caller(cluster="stranger"),
        "the own domain's name, signed by a stranger": proving(forged, scene.directory),
    }
    for what, context in refused.items():
        await scene.refuses(what, context)
    assert scene.untouched()


async def test_only_those_callers_who_are_named(stage: Any) -> None:
    scene = await stage(callers=("shop/client", "bank/teller-*"))
    for caller in (scene.caller(), scene.caller("teller-1", namespace="bank")):
        assert await scene.request(caller) == (200, "web")
        assert await scene.line(caller) == "raw:hello\n"
    before = (scene.web.connections, scene.raw.connections)
    for account, namespace in (
        ("gateway", "isthmus-system"),
        ("client", "bank"),
        ("client2", "shop"),
        ("clien", "shop"),
        ("teller", "bank"),
        ("x-teller-1", "bank"),
        ("teller-1", "shop"),
    ):
        await scene.refuses((account, namespace), scene.caller(account, namespace=namespace))
    await scene.refuses("the same name of another domain", scene.caller(cluster="east"))
    assert (scene.web.connections, scene.raw.connections) == before


async def test_plain_text_is_refused(scene: Scene) -> None:
    for data in (CHECK, http2.request(http2.headers(HOST)), b"hello\n"):
        with contextlib.suppress(ConnectionError):
            assert await scene.kit.exchange("127.0.0.1", scene.port, data) == b""
    assert scene.untouched()


async def test_another_server_name_is_refused(scene: Scene) -> None:
    for sni in (
        None,  # for an address Python sends none
        f"{WEB_SNI}.",
        "*.echo.shop.svc.west.test.internal",
        "p80.hidden.shop.svc.west.test.internal",
        "p080.echo.shop.svc.west.test.internal",
        "p81.echo.shop.svc.west.test.internal",
        "p9001.echo.shop.svc.west.test.internal",
        "echo.shop.svc.west.test.internal",
        "p80.echo.shop.svc.east.test.internal",
        f"a.{WEB_SNI}",
        HOST,
    ):
        await scene.refuses(sni, scene.caller(), sni=sni)
    assert scene.untouched()


async def test_server_names_are_compared_in_lower_case(scene: Scene) -> None:
    """As DNS names are (RFC 6066, 3): Envoy lowers them before anything looks, so there is one spelling only."""
    upper = WEB_SNI.upper()
    assert (await scene.request(scene.caller(), sni=upper))[0] == 200
    assert (await scene.request(scene.caller(), sni=upper, headers=http2.headers("others.shop.global")))[0] == 421


async def test_every_request_is_bound_to_the_server_name(scene: Scene) -> None:
    """Both services are the same workload's, so that nothing but the name can tell them apart."""
    assert (await scene.request(scene.caller(), sni=OTHERS_SNI, headers=http2.headers("others.shop.global")))[0] == 200
    async with scene.kept() as connection:
        for host, expected in (
            (HOST, 200),
            ("others.shop.global", 421),
            ("echo.shop.east.global", 421),
            ("echo.shop.west.global", 200),
            ("evil.example", 421),
            (f"{HOST}.", 421),
            (f"a.{HOST}", 421),
            (WEB_SNI, 421),
            ("*", 421),
            ("echo.shop.svc.clusterset.local", 200),
            (HOST, 200),
        ):
            assert (await connection.ask(http2.headers(host)))[0] == expected, host
    assert {request.get("host") for request in scene.web.requests} == {
        HOST,
        "others.shop.global",
        "echo.shop.west.global",
        "echo.shop.svc.clusterset.local",
    }


async def test_a_sidecar_is_no_relay(scene: Scene) -> None:
    connect = [(":method", "CONNECT"), (":authority", f"127.0.0.1:{scene.raw.port}")]
    assert (await scene.request(scene.caller(), headers=connect))[0] >= 400
    assert (await scene.request(scene.caller(), headers=[(":method", "CONNECT"), (":authority", HOST)]))[0] >= 400
    absolute = http2.headers(HOST, path=f"http://127.0.0.1:{scene.raw.port}/")
    assert (await scene.request(scene.caller(), headers=absolute))[0] != 200
    # A port of requests gives no raw connection (headers could not be cleaned), and the other way round.
    assert await scene.line(scene.caller(), sni=WEB_SNI) == ""
    assert (await scene.request(scene.caller(), sni=RAW_SNI))[0] == 0
    for alpn in ("http/1.1", "h3", "isthmus"):
        assert await scene.line(scene.caller(), alpn=alpn) == ""
        assert (await scene.request(scene.caller(), alpn=alpn))[0] == 0
    assert scene.untouched()


async def test_old_tls_and_resumption_are_refused(scene: Scene) -> None:
    old = scene.caller()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    await scene.refuses("TLS 1.2", old)
    assert scene.untouched()
    context = scene.caller()
    context.set_alpn_protocols([ALPN_TCP])
    reader, writer = await asyncio.open_connection("127.0.0.1", scene.port, ssl=context, server_hostname=RAW_SNI)
    writer.write(b"x\n")
    assert await asyncio.wait_for(reader.readline(), ANSWER) == b"raw:x\n"  # a ticket would have come by now
    session = writer.get_extra_info("ssl_object").session
    writer.transport.abort()
    assert session is None or not session.has_ticket


ADMIN = "URI=spiffe://west.test.internal/ns/bank/sa/admin"
SPOOFED = {
    "x-envoy-internal": "true",
    "x-envoy-external-address": "10.0.0.1",
    "x-envoy-original-dst-host": "10.0.0.1:80",
    "x-envoy-max-retries": "100",
    "x-envoy-attempt-count": "7",
    "x-isthmus-cluster": "workload/shop/others/80",
    "x-isthmus-not-forwarded": "true",
}


async def test_spoofed_internal_headers_do_not_arrive(scene: Scene) -> None:
    for forged in (ADMIN, f"By=x;Hash=y;{ADMIN}", f"{ADMIN},{ADMIN}", ""):
        extra = [*SPOOFED.items(), ("x-forwarded-proto", "gopher"), ("x-forwarded-client-cert", forged)]
        assert (await scene.request(scene.caller(), headers=http2.headers(HOST, "GET", *extra)))[0] == 200
        arrived = [(name.lower(), value) for name, value in scene.web.requests[-1].headers]
        assert not [name for name, _ in arrived if name.startswith(("x-envoy", "x-isthmus"))]
        assert ("x-forwarded-proto", "https") in arrived
        (xfcc,) = [value for name, value in arrived if name == "x-forwarded-client-cert"]
        by, digest, uri = xfcc.split(";")
        assert by == "By=spiffe://west.test.internal/ns/shop/sa/vm"
        assert len(digest.removeprefix("Hash=")) == 64
        assert uri == "URI=spiffe://west.test.internal/ns/shop/sa/client"


async def test_only_the_own_gateway_is_believed_on_its_callers(scene: Scene) -> None:
    told = (
        "By=spiffe://west.test.internal/ns/isthmus-system/sa/gateway;Hash=0;URI=spiffe://east.test.internal/ns/a/sa/b"
    )
    headers = http2.headers(HOST, "GET", ("x-forwarded-client-cert", told))
    for account, namespace, believed in (
        ("gateway", "isthmus-system", True),
        ("gateway", "shop", False),
        ("gateway-2", "isthmus-system", False),
        ("agent", "isthmus-system", False),
    ):
        assert (await scene.request(scene.caller(account, namespace=namespace), headers=headers))[0] == 200
        first, *rest = (scene.web.requests[-1].get("x-forwarded-client-cert") or "").split(",")
        own = f";URI=spiffe://west.test.internal/ns/{namespace}/sa/{account}"
        assert (first == told and [one.endswith(own) for one in rest] == [True]) is believed
        assert (first.endswith(own) and not rest) is not believed


async def test_odd_paths_and_headers_are_normalised_or_refused(scene: Scene) -> None:
    async def ask(path: str, *extra: tuple[str, str]) -> int:
        return (await scene.request(scene.caller(), headers=http2.headers(HOST, "GET", *extra, path=path)))[0]

    assert await ask("/a/../b//c") == 200
    assert scene.web.requests[-1].line == "GET /b/c HTTP/1.1"
    assert await ask("/a%2Fadmin") == 307
    assert await ask("/", ("x_underscore", "1")) >= 400
    assert len(scene.web.requests) == 1


@dataclass
class FalseEndpoint:
    """It finishes every handshake that its callers finish; then it keeps what it is told, and says it back."""

    handshakes: int = 0
    heard: bytes = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.handshakes += 1
        try:
            while data := await reader.read(4096):
                self.heard += data
                writer.write(data)
        except (ssl.SSLError, ConnectionError):
            pass
        finally:
            writer.transport.abort()


@pytest.mark.parametrize("way", ["sidecar", "gateway"])
async def test_a_caller_knows_the_endpoint_it_wants(world: Any, kit: Any, short_directory: Path, way: str) -> None:
    """Somebody who can redirect packets to shop/vm of West has another identity of this or of a linked cluster."""
    world.domain("east")
    world.domain("west")
    listeners = {80: 80, 9000: 9000} if way == "sidecar" else {80: free_port(), 9000: free_port()}
    address = kit.vip if way == "sidecar" else "127.0.0.1"

    def tell(*ports: int) -> None:
        vm = "spiffe://west.test.internal/ns/shop/sa/vm"
        endpoints = tuple(Endpoint(address="127.0.0.1", ports={80: at, 9000: at}, identity=vm) for at in ports)
        world.imports["west"][ECHO] = Import(
            name=ECHO,
            ports=(Port(name="web", port=80, app=HTTP), Port(name="raw", port=9000, app=TCP)),
            backends=(kit.replace(kit.local("west", 80, 9000, targets=[]), endpoints=endpoints),),
            gateway_ports=listeners,
        )

    tell()
    uses = [kit.Use(name=ECHO, vip=kit.vip)]
    proxy = await (world.sidecar("west", uses) if way == "sidecar" else world.gateway("west"))
    for cluster, namespace, account, believed in (
        ("west", "shop", "vm-2", False),
        ("west", "bank", "vm", False),
        ("west", "isthmus-system", "gateway", False),
        ("east", "shop", "vm", False),
        ("west", "shop", "vm", True),
    ):
        svid = world.domain(cluster).svid(account, namespace)
        context = proving(svid, short_directory, purpose=ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols([ALPN_HTTP, ALPN_TCP])
        false = FalseEndpoint()
        server = await asyncio.start_server(false.serve, "127.0.0.1", 0, ssl=context)
        world.stack.callback(server.close)
        tell(server.sockets[0].getsockname()[1])
        proxy.publish()
        await proxy.settled()
        what = (cluster, namespace, account)
        if believed:
            assert await kit.line(address, listeners[9000], "secret") == "secret", what
        else:
            assert (await kit.http(address, listeners[80], host=HOST))[0] == 503, what
            assert await kit.line(address, listeners[9000], "secret") == "", what
            assert (false.handshakes, false.heard) == (0, b""), what
