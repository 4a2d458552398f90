"""A workload behind a sidecar that takes calls for it by mutual TLS: real Envoys, real traffic, from everywhere."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import grpc
import pytest

from clusters.network import free_port
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Endpoint, Export, Grant, Import, Port

pytestmark = pytest.mark.integration

HTTP, TCP, GRPC = AppProtocol.HTTP, AppProtocol.OPAQUE, AppProtocol.GRPC
ECHO, RPC = ServiceName("shop", "echo"), ServiceName("shop", "rpc")
PORTS = (Port(name="web", port=80, app=HTTP), Port(name="raw", port=9000, app=TCP))
EAST_CLIENT = "URI=spiffe://east.test.internal/ns/shop/sa/client"
WEST_CLIENT = "URI=spiffe://west.test.internal/ns/shop/sa/client"
WEST_GATEWAY = "URI=spiffe://west.test.internal/ns/isthmus-system/sa/gateway"


def exported(name: ServiceName, ports: tuple[Port, ...], *endpoints: Endpoint) -> Export:
    return Export(name=name, ports=ports, endpoints=endpoints, grants=(Grant("east"),))


def at_home(kit: Any, *endpoints: Endpoint) -> Any:
    """The backend of West for callers in West."""
    return kit.replace(kit.local("west", *(p.port for p in PORTS), targets=[]), endpoints=endpoints)


@pytest.fixture
async def vm(world: Any, kit: Any) -> tuple[Any, Any, Endpoint]:
    """A workload of West behind a sidecar that takes calls for it."""
    app = await world.workload("vm")
    world.domain("east")
    served = [kit.Served(name=ECHO, port=p.port, app=p.app, target=app.port) for p in PORTS]
    proxy, endpoint = await world.vm("west", *served)
    world.exports["west"][ECHO] = exported(ECHO, PORTS, endpoint)
    return app, proxy, endpoint


async def test_another_cluster_reaches_it_through_the_gateway(world: Any, kit: Any, vm: Any) -> None:
    app, _, _ = vm
    await world.gateway("west")
    world.imports["east"][ECHO] = Import(name=ECHO, ports=PORTS, backends=(kit.remote("west", 80, 9000),))
    await world.sidecar("east", [kit.Use(name=ECHO, vip=kit.vip)])
    for method, body in (("GET", ""), ("POST", "x" * 100_000)):
        status, _, text = await kit.http(kit.vip, 80, host="echo.shop.global", method=method, body=body)
        assert (status, text) == (200, "vm")
        assert app.requests[-1].body == body.encode()
    assert await kit.line(kit.vip, 9000, "hello") == "vm:hello"
    reader, writer = await asyncio.open_connection(kit.vip, 80)
    writer.write(b"GET /ws HTTP/1.1\r\nHost: echo.shop.global\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert b" 101 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    writer.write(b"frames")
    assert await asyncio.wait_for(reader.readexactly(6), 10) == b"frames"
    writer.close()
    first, second = (app.requests[-1].get("x-forwarded-client-cert") or "").split(",")
    assert first.endswith(EAST_CLIENT), "whom the gateway has verified"
    assert second.endswith(WEST_GATEWAY), "and who has told"


async def test_a_workload_of_its_own_cluster_reaches_it(world: Any, kit: Any, vm: Any) -> None:
    app, _, endpoint = vm
    world.imports["west"][ECHO] = Import(name=ECHO, ports=PORTS, backends=(at_home(kit, endpoint),))
    await world.sidecar("west", [kit.Use(name=ECHO, vip=kit.vip)])
    spoofed = ["X-Forwarded-Client-Cert: URI=spiffe://west.test.internal/ns/bank/sa/admin", "X-Envoy-Internal: true"]
    for host in ("echo.shop.global", "echo.shop.svc.clusterset.local"):
        assert (await kit.http(kit.vip, 80, host=host, headers=spoofed))[::2] == (200, "vm")
    assert await kit.line(kit.vip, 9000, "hello") == "vm:hello"
    xfcc = app.requests[-1].get("x-forwarded-client-cert") or ""
    assert xfcc.endswith(WEST_CLIENT)
    assert "," not in xfcc
    assert app.requests[-1].get("x-envoy-internal") is None


async def test_and_one_without_a_sidecar_through_the_gateway(world: Any, kit: Any, vm: Any) -> None:
    app, _, endpoint = vm
    web, raw = free_port(), free_port()
    merged = Import(name=ECHO, ports=PORTS, backends=(at_home(kit, endpoint),), gateway_ports={80: web, 9000: raw})
    world.imports["west"][ECHO] = merged
    await world.gateway("west")
    assert (await kit.http("127.0.0.1", web, host="echo.shop.global"))[::2] == (200, "vm")
    assert await kit.line("127.0.0.1", raw, "hello") == "vm:hello"
    assert (app.requests[-1].get("x-forwarded-client-cert") or "").endswith(WEST_GATEWAY)


async def test_grpc_passes_with_its_trailers(world: Any, kit: Any) -> None:
    server = grpc.aio.server()

    async def say(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        context.set_trailing_metadata((("x-trailer", "kept"),))
        return b"said " + request

    handler = grpc.unary_unary_rpc_method_handler(say)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.Say", {"Say": handler}),))
    target = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    world.stack.push_async_callback(server.stop, None)
    world.domain("east")
    ports = (Port(port=50051, app=GRPC),)
    _, endpoint = await world.vm("west", kit.Served(name=RPC, port=50051, app=GRPC, target=target))
    world.exports["west"][RPC] = exported(RPC, ports, endpoint)
    await world.gateway("west")
    world.imports["east"][RPC] = Import(name=RPC, ports=ports, backends=(kit.remote("west", 50051),))
    await world.sidecar("east", [kit.Use(name=RPC, vip=kit.vip)])
    options = (("grpc.default_authority", "rpc.shop.global"), ("grpc.enable_http_proxy", 0))
    async with grpc.aio.insecure_channel(f"{kit.vip}:50051", options=options) as channel:
        call = channel.unary_unary("/t.Say/Say")(b"hi")
        assert await call == b"said hi"
        assert ("x-trailer", "kept") in list(await call.trailing_metadata())
        await server.stop(None)
        with pytest.raises(grpc.aio.AioRpcError, match="isthmus: 503: the workload beside this sidecar"):
            await channel.unary_unary("/t.Say/Say")(b"hi")


async def pod_of(world: Any) -> tuple[Any, Endpoint]:
    """A copy of the service that is reached in plain text."""
    pod = await world.workload("pod")
    return pod, Endpoint(address="127.0.0.1", ports={80: pod.port, 9000: pod.port})


def tell(world: Any, kit: Any, *endpoints: Endpoint) -> None:
    """These are West's copies from now on."""
    world.exports["west"][ECHO] = exported(ECHO, PORTS, *endpoints)
    world.imports["west"][ECHO] = Import(name=ECHO, ports=PORTS, backends=(at_home(kit, *endpoints),))
    world.imports["east"][ECHO] = Import(name=ECHO, ports=PORTS, backends=(kit.remote("west", 80, 9000),))


async def callers(world: Any, kit: Any) -> tuple[dict[str, str], list[Any]]:
    """Virtual addresses of the service in West itself and in East, behind West's gateway; and who calls its copies."""
    vips = {"west": kit.vip, "east": kit.vip.rpartition(".")[0] + ".2"}
    gateway = await world.gateway("west")
    near, _ = [await world.sidecar(cluster, [kit.Use(name=ECHO, vip=vip)]) for cluster, vip in vips.items()]
    return vips, [gateway, near]


async def all_of(expected: set[str], ask: Callable[[], Awaitable[str]]) -> None:
    """Nobody but those expected answers, and each of them does."""
    seen: set[str] = set()
    async with asyncio.timeout(20):
        while seen != expected:
            seen.add(await ask())
            assert seen <= expected


async def test_plain_and_secure_endpoints_serve_one_service(world: Any, kit: Any, vm: Any) -> None:
    app, sidecar, secure = vm
    _, plain = await pod_of(world)
    tell(world, kit, plain, secure)
    vips, _ = await callers(world, kit)

    async def get(vip: str) -> str:
        return str((await kit.http(vip, 80, host="echo.shop.global"))[2])

    for vip in vips.values():
        await all_of({"vm", "pod"}, partial(get, vip))
        await all_of({"vm:x", "pod:x"}, partial(kit.line, vip, 9000, "x"))
    # A sidecar whose workload is dead says that it was not reached; whoever asked goes elsewhere, with a POST as well.
    await app.stop()
    for vip in vips.values():
        answers = [await kit.http(vip, 80, host="echo.shop.global", method="POST", body="x") for _ in range(10)]
        assert {(status, text) for status, _, text in answers} == {(200, "pod")}
    sidecar.kill()
    for vip in vips.values():
        answers = [await kit.http(vip, 80, host="echo.shop.global", method="POST", body="x") for _ in range(10)]
        assert {(status, text) for status, _, text in answers} == {(200, "pod")}
        assert {await kit.line(vip, 9000, "x") for _ in range(10)} == {"pod:x"}


async def test_a_frozen_vm_is_left_within_seconds(world: Any, kit: Any, vm: Any) -> None:
    """Its kernel still accepts connections, and never resets one. What was in flight is tried elsewhere."""
    _, sidecar, secure = vm
    _, plain = await pod_of(world)
    tell(world, kit, plain, secure)
    vips, _ = await callers(world, kit)
    calls = [partial(kit.http, vip, 80, host="echo.shop.global") for vip in vips.values() for _ in range(10)]
    assert {answer[0] for answer in await asyncio.gather(*(call() for call in calls))} == {200}
    sidecar.freeze()
    answers = await asyncio.gather(*(call() for call in calls))  # each waits for as long as clients do
    assert {(status, text) for status, _, text in answers} == {(200, "pod")}
    lines = await asyncio.gather(*(kit.line(vip, 9000, "x") for vip in vips.values() for _ in range(5)))
    assert set(lines) == {"pod:x"}


class Load:
    """Requests and connections without end, each on a connection of its own; what is not as it should be is kept."""

    def __init__(self, kit: Any, vips: Iterable[str], answers: set[str]) -> None:
        self.count = 0
        self.failed: list[object] = []
        self._kit, self._vips, self._answers = kit, [*vips, *vips], answers
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._run(vip), name=vip) for vip in self._vips]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def more(self) -> None:
        """Wait until some more of it is done."""
        before = self.count
        await self._kit.until(lambda: self.count > before + 30)

    async def _run(self, vip: str) -> None:
        while not self._stop.is_set():
            status, _, text = await self._kit.http(vip, 80, host="echo.shop.global")
            line = await self._kit.line(vip, 9000, "x")
            self.count += 1
            if status != 200 or text not in self._answers or line.removesuffix(":x") not in self._answers:
                self.failed.append((vip, status, text, line))


async def test_endpoints_move_to_mutual_tls_without_a_failed_request(world: Any, kit: Any, vm: Any) -> None:
    """From pods to VMs and back, which changes Envoy's clusters: a VM is never sent plain text meanwhile."""
    app, _, first = vm
    _, plain = await pod_of(world)
    served = [kit.Served(name=ECHO, port=p.port, app=p.app, target=app.port) for p in PORTS]
    _, second = await world.vm("west", *served, account="vm-2")
    taps = [await world.tap(endpoint.ports[80]) for endpoint in (first, second)]
    first, second = (
        kit.replace(e, ports=dict.fromkeys(e.ports, tap.port)) for e, tap in zip((first, second), taps, strict=True)
    )
    tell(world, kit, plain)
    vips, proxies = await callers(world, kit)
    async with Load(kit, vips.values(), {"vm", "pod"}) as load:
        for copies in (
            (plain, first),
            (first,),
            (first, second),
            (second,),
            (plain,),
            (second,),
            (plain, first, second),
        ):
            tell(world, kit, *copies)
            for proxy in proxies:
                proxy.publish()
            for proxy in proxies:
                await proxy.settled()
            await load.more()
    assert not load.failed
    assert {byte for tap in taps for byte in tap.first} == {kit.HANDSHAKE}


async def shown(port: int) -> bytes:
    """The leaf that a sidecar presents (TLS 1.3: before it knows who calls)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["isthmus-tcp"])
    sni = "p9000.echo.shop.svc.west.test.internal"
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=sni)
    leaf: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return leaf


async def test_identities_are_renewed_without_a_failed_request(world: Any, kit: Any, vm: Any) -> None:
    _, proxy, secure = vm
    tell(world, kit, secure)
    vips, (gateway, near) = await callers(world, kit)
    west = world.domain("west")
    accounts = {proxy: ("vm", "shop"), gateway: ("gateway", "isthmus-system"), near: ("client", "shop")}
    async with Load(kit, vips.values(), {"vm"}) as load:
        for _ in range(3):
            for renewed, account in accounts.items():
                renewed.renewed = west.svid(*account)
                renewed.publish()
                await renewed.settled()
                await load.more()
    assert not load.failed
    assert await shown(secure.ports[80]) == proxy.renewed.chain[0]
