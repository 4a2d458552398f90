"""What a gateway refuses, and what a caller does. In every case of refusal a workload sees nothing: no request and no
connection; and a false gateway sees no byte of a request.

The callers here are no Envoys: they say what no sidecar of ours would say.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from clusters import http2
from clusters.waiting import ANSWER
from federation.model.cluster import Bundle, Gateway
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Import, Port

pytestmark = pytest.mark.integration

HTTP, TCP = AppProtocol.HTTP, AppProtocol.OPAQUE
ECHO, HIDDEN, OTHERS = ServiceName("shop", "echo"), ServiceName("shop", "hidden"), ServiceName("shop", "others")
WEB_SNI = "p80.echo.shop.svc.west.test.internal"
RAW_SNI = "p9000.echo.shop.svc.west.test.internal"
HOST = "echo.shop.global"


class Forger:
    """The authority of a member that signs whatever it likes."""

    def __init__(self, trust_domain: str, directory: Path) -> None:
        self.trust_domain = trust_domain
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.root = self._sign([f"spiffe://{trust_domain}"], self._key, ca=True)
        der = self.root.public_bytes(serialization.Encoding.DER)
        self.bundle = Bundle(trust_domain=trust_domain, sequence=1, roots=(der,))

    def context(self, *uris: str, ca: bool = False) -> ssl.SSLContext:
        """What a caller with a certificate for `uris` connects with."""
        return client_context(self.certificate(*uris, ca=ca))

    def certificate(self, *uris: str, ca: bool = False) -> Path:
        """A certificate for `uris` and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        path = self._directory / f"forged-{x509.random_serial_number()}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(self._sign(list(uris), key, ca=ca).public_bytes(serialization.Encoding.PEM) + private)
        return path

    def _sign(self, uris: list[str], key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, self.trust_domain)])
        subject = issuer if key is self._key else x509.Name([])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(_usage(ca=ca), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(u) for u in uris]), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def client_context(certificate: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # these callers would not mind
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


@dataclass
class Scene:
    port: int
    member: Forger
    stranger: Forger
    web: Any
    raw: Any
    kit: SimpleNamespace
    idle: Forger
    world: Any
    gateway: Any

    def untouched(self) -> bool:
        return bool(self.web.connections == self.raw.connections == 0)

    def caller(self) -> ssl.SSLContext:
        return self.member.context("spiffe://member.test.internal/ns/shop/sa/web")

    async def request(
        self, context: ssl.SSLContext, *, sni: str | None = WEB_SNI, headers: list[tuple[str, str]] | None = None
    ) -> tuple[int, str]:
        """An HTTP/2 request: status and body; (0, "") when the connection was refused."""
        context.set_alpn_protocols(["h2"])
        return await self._talk(context, sni, http2.request(headers or _headers()), http2.answer)

    async def health(self, context: ssl.SSLContext, *, sni: str = WEB_SNI) -> tuple[int, str]:
        context.set_alpn_protocols(["isthmus-health"])
        data = f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()
        return await self._talk(context, sni, data, lambda raw: (int(raw[9:12] or b"0"), ""))

    async def line(self, context: ssl.SSLContext, *, sni: str = RAW_SNI, alpn: str = "isthmus-tcp") -> str:
        context.set_alpn_protocols([alpn])
        return (await self._talk(context, sni, b"hello\n", lambda raw: (1, raw.decode(errors="replace"))))[1]

    @contextlib.asynccontextmanager
    async def kept(self, context: ssl.SSLContext, *, sni: str = WEB_SNI) -> AsyncIterator[http2.Kept]:
        """A connection for several requests."""
        context.set_alpn_protocols(["h2"])
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname=sni)
        try:
            yield http2.Kept(reader, writer)
        finally:
            writer.transport.abort()

    def export(self, name: ServiceName, *, to: Sequence[str]) -> None:
        """From now on `name` is exported to `to`."""
        ports = {80: (HTTP, self.web.port), 9000: (TCP, self.raw.port)}
        self.world.exports["west"][name] = self.kit.export_of(name, ports, to=to)
        self.gateway.publish()

    async def _talk(
        self, context: ssl.SSLContext, sni: str | None, data: bytes, read: Callable[[bytes], tuple[int, str]]
    ) -> tuple[int, str]:
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=context, server_hostname=sni or "127.0.0.1"
            )
        except (ssl.SSLError, ConnectionError):
            return 0, ""
        raw = b""
        try:
            writer.write(data)
            while not (answer := read(raw))[0] or (answer[0] == 1 and b"\n" not in raw):
                piece = await asyncio.wait_for(reader.read(65536), ANSWER)
                if not piece:
                    break
                raw += piece
            return read(raw)
        except (ssl.SSLError, ConnectionError):
            return 0, ""
        finally:
            writer.transport.abort()


def _headers(host: str = HOST, method: str = "GET", *extra: tuple[str, str]) -> http2.Headers:
    return http2.headers(host, method, *extra)


@pytest.fixture
async def scene(world: Any, kit: Any, short_directory: Path) -> Scene:
    """West exports echo to `member` and others to nobody; `stranger` is not linked."""
    web, raw = await world.workload("web"), await world.workload("raw")
    world.domain("west")
    member = Forger("member.test.internal", short_directory)
    stranger = Forger("stranger.test.internal", short_directory)
    idle = Forger("idle.test.internal", short_directory)
    for name, forger in (("member", member), ("idle", idle)):
        world.domains[name] = SimpleNamespace(name=name, trust_domain=forger.trust_domain, authority=forger)
    world.exports["west"] = {
        ECHO: kit.export_of(ECHO, {80: (HTTP, web.port), 9000: (TCP, raw.port)}, to=["member"]),
        OTHERS: kit.export_of(OTHERS, {80: (HTTP, web.port), 9000: (TCP, raw.port)}, to=[]),
    }
    gateway = await world.gateway("west")
    return Scene(world.gateways["west"][0].port, member, stranger, web, raw, kit, idle, world, gateway)


async def test_who_is_admitted_gets_through(scene: Scene) -> None:
    assert await scene.request(scene.caller()) == (200, "web")
    assert (await scene.health(scene.caller()))[0] == 200
    assert (await scene.health(scene.caller(), sni=RAW_SNI))[0] == 200
    assert await scene.line(scene.caller()) == "raw:hello\n"


async def test_foreign_and_forged_identities_do_not_finish_the_handshake(scene: Scene, tmp_path: Path) -> None:
    member, stranger = scene.member, scene.stranger
    refused = {
        "no certificate": client_context(None),
        "an unlinked domain": stranger.context("spiffe://stranger.test.internal/ns/shop/sa/web"),
        "a linked domain's name, signed by a stranger": stranger.context("spiffe://member.test.internal/ns/a/sa/b"),
        "another linked domain's name": member.context("spiffe://idle.test.internal/ns/shop/sa/web"),
        "the gateway's own domain": member.context("spiffe://west.test.internal/ns/shop/sa/web"),
        "no SPIFFE ID": member.context("https://member.test.internal/"),
        "a certificate authority": member.context("spiffe://member.test.internal/ns/shop/sa/web", ca=True),
    }
    for what, context in refused.items():
        assert (await scene.request(context))[0] == 0, what
        assert (await scene.health(context))[0] == 0, what
        assert await scene.line(context) == "", what
    assert scene.untouched()


async def test_a_second_uri_gives_no_second_identity(scene: Scene) -> None:
    own, foreign = "spiffe://idle.test.internal/ns/a/sa/b", "spiffe://member.test.internal/ns/a/sa/b"
    for uris in ((own, foreign), (foreign, own)):
        context = scene.idle.context(*uris)
        assert (await scene.request(context))[0] in (0, 403), uris
        assert (await scene.health(context))[0] in (0, 403), uris
        assert await scene.line(context) == "", uris
    assert scene.untouched()


async def test_without_a_grant_there_is_nothing(scene: Scene) -> None:
    idle = scene.idle.context("spiffe://idle.test.internal/ns/shop/sa/web")
    status, text = await scene.request(idle)
    assert (status, text) == (403, "isthmus: 403: your cluster has no grant for this service\n")
    assert (await scene.health(idle))[0] == 403
    assert await scene.line(idle) == ""
    others = "p80.others.shop.svc.west.test.internal"
    assert (await scene.request(scene.caller(), sni=others, headers=_headers("others.shop.global")))[0] == 403
    assert await scene.line(scene.caller(), sni="p9000.others.shop.svc.west.test.internal") == ""
    assert scene.untouched()


async def test_another_server_name_is_misdirected(scene: Scene) -> None:
    wrong = (
        None,  # for an address Python sends none
        f"{WEB_SNI}.",
        "*.echo.shop.svc.west.test.internal",
        "p80.hidden.shop.svc.west.test.internal",
        "p081.echo.shop.svc.west.test.internal",
        "p81.echo.shop.svc.west.test.internal",
        "echo.shop.svc.west.test.internal",
        "p80.echo.shop.svc.east.test.internal",
        RAW_SNI,
    )
    for sni in wrong:
        for host in (HOST, sni or HOST):
            assert (await scene.request(scene.caller(), sni=sni, headers=_headers(host)))[0] in (0, 421), sni
        if sni != RAW_SNI:
            assert await scene.line(scene.caller(), sni=sni or "127.0.0.1") == "", sni
    assert scene.untouched()


async def test_server_names_are_compared_in_lower_case(scene: Scene) -> None:
    """As DNS names are (RFC 6066, 3): Envoy lowers them before anything looks, so there is one spelling only."""
    assert (await scene.request(scene.caller(), sni=WEB_SNI.upper()))[0] in (200, 421)
    assert (await scene.request(scene.caller(), sni=WEB_SNI.upper(), headers=_headers("others.shop.global")))[0] == 421


async def test_another_authority_is_misdirected(scene: Scene) -> None:
    for host in ("others.shop.global", "hidden.shop.global", "evil.example", "echo.shop.east.global", "*", WEB_SNI):
        assert (await scene.request(scene.caller(), headers=_headers(host)))[0] == 421, host
    assert scene.untouched()


async def test_two_words_for_the_authority_are_one_or_none(scene: Scene) -> None:
    """What is decided by and what the workload reads are the same, whatever else is said."""
    authority, host = (":authority", HOST), ("host", "others.shop.global")
    rest = [(":method", "GET"), (":scheme", "https"), (":path", "/")]
    for headers in (
        [*rest, authority, host],
        [*rest, authority, ("host", HOST), host],
        [*rest, ("host", HOST)],
        [*rest, ("host", HOST), host],
        [*rest, host],
        [*rest, authority, (":authority", "others.shop.global")],
        [*rest, (":authority", "others.shop.global"), authority],
        [*rest, (":authority", "")],
        [(":method", "GET"), (":scheme", "https"), (":path", "https://others.shop.global/"), authority],
    ):
        assert (await scene.request(scene.caller(), headers=headers))[0] in (0, 200, 400, 421, 599), headers
    assert {request.get("host") for request in scene.web.requests} == {HOST}
    assert not any("others" in request.line for request in scene.web.requests)


async def test_names_that_only_look_like_a_service_are_misdirected(scene: Scene) -> None:
    for host in (
        f"{HOST}.",
        f"{HOST}:80:80",
        f"{HOST}:0x50",
        f"{HOST}:+80",
        f"user@{HOST}",
        f"{HOST}|{HOST}",
        f"others.shop.global|{HOST}",
        "echo%2eshop.global",
        "ec%68o.shop.global",
        f"a.{HOST}",
        f"{HOST}:{'0' * 300}80",
        f"{'a' * 300}.shop.global",
        f"[{HOST}]",
        f" {HOST}",
    ):
        assert (await scene.request(scene.caller(), headers=_headers(host)))[0] in (0, 400, 421, 599), host
    assert scene.untouched()


async def test_every_request_of_a_connection_is_bound(scene: Scene) -> None:
    async with scene.kept(scene.caller()) as connection:
        for host, expected in (
            (HOST, 200),
            ("others.shop.global", 421),
            ("evil.example", 421),
            ("echo.shop.svc.clusterset.local", 200),
            ("Echo.Shop.Global:8080", 200),
            (HOST, 200),
        ):
            assert (await connection.ask(_headers(host)))[0] == expected, host


async def test_a_first_request_with_a_body_is_served(scene: Scene) -> None:
    async with scene.kept(scene.caller()) as connection:
        headers = [*_headers(HOST, "POST"), ("content-length", "10000")]
        assert await connection.ask(headers, b"x" * 10_000) == (200, "web")
    assert scene.web.requests[-1].body == b"x" * 10_000


async def test_a_grant_counts_from_the_next_request_on(scene: Scene) -> None:
    """Given, taken and given again, while the connection stays; Envoy asks once only."""
    idle = scene.idle.context("spiffe://idle.test.internal/ns/shop/sa/web")
    async with scene.kept(scene.caller()) as member, scene.kept(idle) as connection:
        assert (await member.ask(_headers()))[0] == 200
        assert (await connection.ask(_headers()))[0] == 403
        for to, expected in ((["member", "idle"], 200), (["member"], 403), (["idle"], 200)):
            scene.export(ECHO, to=to)
            await scene.gateway.settled()
            assert (await connection.ask(_headers()))[0] == expected, to
            assert (await member.ask(_headers()))[0] == (200 if "member" in to else 403), to


async def test_what_is_exported_no_more_is_gone_at_once_and_comes_back(scene: Scene) -> None:
    async with scene.kept(scene.caller()) as connection:
        assert (await connection.ask(_headers()))[0] == 200
        assert (await scene.health(scene.caller()))[0] == 200
        assert await scene.line(scene.caller()) == "raw:hello\n"
        del scene.world.exports["west"][ECHO]
        scene.gateway.publish()
        await scene.gateway.settled()
        assert (await connection.ask(_headers()))[0] == 421
        assert (await scene.health(scene.caller()))[0] == 421
        assert await scene.line(scene.caller()) == ""
        scene.export(ECHO, to=["member"])
        await scene.gateway.settled()
        assert (await connection.ask(_headers()))[0] == 200
        assert (await scene.health(scene.caller()))[0] == 200
        assert await scene.line(scene.caller()) == "raw:hello\n"


async def test_what_did_not_exist_when_it_was_asked_for_is_pushed_later(scene: Scene) -> None:
    sni = "p80.hidden.shop.svc.west.test.internal"
    async with scene.kept(scene.caller(), sni=sni) as connection:
        assert (await connection.ask(_headers("hidden.shop.global")))[0] == 421
        scene.export(HIDDEN, to=["member"])
        await scene.gateway.settled()
        assert (await connection.ask(_headers("hidden.shop.global")))[0] == 200


async def test_what_was_refused_is_refused_again(scene: Scene) -> None:
    """Envoy knows the refusals: to a name that it was told not to exist it would ask no more, and wait in vain."""
    others = "p9000.others.shop.svc.west.test.internal"
    async with scene.kept(scene.caller()) as connection:
        for _ in range(5):
            assert (await connection.ask(_headers("others.shop.global")))[0] == 421
            assert await scene.line(scene.caller(), sni=others) == ""
            assert (await scene.health(scene.caller(), sni=others))[0] == 403
    assert scene.gateway.asked < scene.gateway.snapshot.names(scene.kit.TypeUrl.CLUSTER)


async def test_who_invents_names_kills_none_of_others(scene: Scene) -> None:
    """Envoy asks for a name once: what was refused, and given up for others, has to be served all the same later."""
    gateway = scene.gateway = await scene.world.gateway("west", refused_limit=2)
    scene.port = scene.world.gateways["west"][-1].port
    idle = scene.idle.context("spiffe://idle.test.internal/ns/shop/sa/web")
    async with scene.kept(scene.caller()) as member, scene.kept(idle) as connection:
        assert (await connection.ask(_headers()))[0] == 403
        assert (await member.ask(_headers()))[0] == 200
        for caller in (member, connection):
            for number in range(6):
                assert (await caller.ask(_headers(f"x{number}.shop.global")))[0] == 421
        gateway.publish()
        await gateway.settled()
        made = gateway.snapshot.names(scene.kit.TypeUrl.CLUSTER)
        assert len([name for name in gateway.asked if name in made]) == 3, "one is served, two are refused in words"
        assert (await member.ask(_headers()))[0] == 200
        scene.export(ECHO, to=["member", "idle"])
        await gateway.settled()
        assert (await connection.ask(_headers()))[0] == 200


async def test_invented_authorities_cost_little(scene: Scene) -> None:
    """What cannot be a service's name is not asked for; ways to write one that is are served, but not without end."""
    async with scene.kept(scene.caller()) as connection:
        for number in range(50):
            assert (await connection.ask(_headers(f"x{number}.evil.example")))[0] == 421
        assert scene.gateway.asked == set()
        odd = [(await connection.ask(_headers(f"{HOST}:{port}")))[0] for port in range(1000, 1050)]
        assert set(odd) == {200, 421}
        assert odd.count(200) == 8
        assert (await connection.ask(_headers(f"{HOST}:80")))[0] == 200
        assert (await connection.ask(_headers("x" * 5000 + ".global")))[0] == 421
    assert max(map(len, scene.gateway.asked)) < 600


async def test_a_gateway_is_no_relay(scene: Scene) -> None:
    connect = [(":method", "CONNECT"), (":authority", f"127.0.0.1:{scene.raw.port}")]
    assert (await scene.request(scene.caller(), headers=connect))[0] >= 400
    exported = [(":method", "CONNECT"), (":authority", HOST)]
    assert (await scene.request(scene.caller(), headers=exported))[0] >= 400
    absolute = [*_headers()[:3], (":path", f"http://127.0.0.1:{scene.raw.port}/")]
    assert (await scene.request(scene.caller(), headers=absolute))[0] != 200
    # A port of requests gives no raw connection (headers could not be cleaned), and the other way round.
    assert await scene.line(scene.caller(), sni=WEB_SNI) == ""
    assert (await scene.request(scene.caller(), sni=RAW_SNI))[0] == 421
    assert await scene.line(scene.caller(), alpn="something-else") == ""
    assert scene.untouched()


async def test_old_tls_and_resumption_are_refused(scene: Scene) -> None:
    old = scene.caller()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert (await scene.request(old))[0] == 0
    context = scene.caller()
    context.set_alpn_protocols(["isthmus-tcp"])
    reader, writer = await asyncio.open_connection("127.0.0.1", scene.port, ssl=context, server_hostname=RAW_SNI)
    writer.write(b"x\n")
    assert await asyncio.wait_for(reader.readline(), ANSWER) == b"raw:x\n"  # a ticket would have come by now
    session = writer.get_extra_info("ssl_object").session
    writer.transport.abort()
    assert session is None or not session.has_ticket


SPOOFED = {
    "x-forwarded-client-cert": "URI=spiffe://west.test.internal/ns/bank/sa/admin",
    "x-envoy-internal": "true",
    "x-envoy-external-address": "10.0.0.1",
    "x-envoy-original-dst-host": "10.0.0.1:80",
    "x-envoy-max-retries": "100",
    "x-envoy-retry-on": "5xx",
    "x-envoy-upstream-rq-timeout-ms": "1",
    "x-envoy-expected-rq-timeout-ms": "1",
    "x-envoy-decorator-operation": "x",
    "x-envoy-ip-tags": "x",
    "x-envoy-original-path": "/admin",
    "x-envoy-attempt-count": "7",
    "x-envoy-hedge-on-per-try-timeout": "true",
    "x-isthmus-cluster": "in/shop/others/80",
    "x-isthmus-not-forwarded": "true",
}


async def test_spoofed_internal_headers_do_not_arrive(scene: Scene) -> None:
    headers = _headers(HOST, "GET", *SPOOFED.items(), ("x-forwarded-proto", "gopher"))
    assert (await scene.request(scene.caller(), headers=headers))[0] == 200
    request = scene.web.requests[-1]
    arrived = {name.lower(): value for name, value in request.headers}
    assert {n for n in arrived if n.startswith(("x-envoy", "x-isthmus"))} == set()
    assert arrived["x-forwarded-proto"] == "https"
    xfcc = arrived["x-forwarded-client-cert"]
    assert xfcc.endswith(";URI=spiffe://member.test.internal/ns/shop/sa/web")
    assert "admin" not in xfcc


async def test_odd_paths_and_headers_are_normalised_or_refused(scene: Scene) -> None:
    async def ask(path: str, *extra: tuple[str, str]) -> int:
        headers = [*_headers()[:3], (":path", path), *extra]
        return (await scene.request(scene.caller(), headers=headers))[0]

    assert await ask("/a/../b//c") == 200
    assert scene.web.requests[-1].line == "GET /b/c HTTP/1.1"
    assert await ask("/a%2Fadmin") == 307
    assert await ask("/", ("x_underscore", "1")) >= 400
    assert len(scene.web.requests) == 1


@dataclass
class FalseGateway:
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


WEST_GATEWAY = "spiffe://west.test.internal/ns/isthmus-system/sa/gateway"
NORTH_GATEWAY = "spiffe://north.test.internal/ns/isthmus-system/sa/gateway"


@pytest.mark.parametrize(
    ("signer", "uris", "believed"),
    [
        pytest.param("west", [WEST_GATEWAY], True, id="west"),
        pytest.param("north", [NORTH_GATEWAY, WEST_GATEWAY], False, id="north-and-west"),
        pytest.param("north", [WEST_GATEWAY, NORTH_GATEWAY], False, id="west-and-north"),
        pytest.param("north", [WEST_GATEWAY], False, id="west-signed-by-north"),
        pytest.param("north", [NORTH_GATEWAY], False, id="north"),
        pytest.param("west", ["spiffe://west.test.internal/ns/shop/sa/echo"], False, id="no-gateway-of-west"),
    ],
)
async def test_a_caller_knows_the_gateway_it_wants(
    world: Any, kit: Any, short_directory: Path, signer: str, uris: list[str], believed: bool
) -> None:
    """East is linked with both; somebody who can redirect its packets presents a leaf of `signer` for `uris`."""
    world.domain("east")
    forgers = {name: Forger(f"{name}.test.internal", short_directory) for name in ("west", "north")}
    for name, forger in forgers.items():
        world.domains[name] = SimpleNamespace(name=name, trust_domain=forger.trust_domain, authority=forger)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(forgers[signer].certificate(*uris))
    context.set_alpn_protocols(["isthmus-health", "h2", "isthmus-tcp"])
    false = FalseGateway()
    server = await asyncio.start_server(false.serve, "127.0.0.1", 0, ssl=context)
    world.stack.callback(server.close)
    port = server.sockets[0].getsockname()[1]
    for name in ("west", "north"):
        world.gateways[name] = (Gateway(name="g", address="127.0.0.1" if name == "west" else "127.0.0.2", port=port),)
    ports = (Port(name="web", port=80, app=HTTP), Port(name="raw", port=9000, app=TCP))
    backends = (kit.remote("west", 80, 9000), kit.remote("north", 80, 9000))
    world.imports["east"][ECHO] = Import(name=ECHO, ports=ports, backends=backends)
    await world.sidecar("east", [kit.Use(name=ECHO, vip=kit.vip, pinned="west")])
    if believed:
        assert await kit.line(kit.vip, 9000, "secret") == "secret"
    else:
        assert (await kit.http(kit.vip, 80, host="echo.shop.west.global"))[0] == 503
        assert await kit.line(kit.vip, 9000, "secret") == ""
        assert (false.handshakes, false.heard) == (0, b"")
