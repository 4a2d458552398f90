"""From a sidecar through a gateway to a workload, with real Envoys and real traffic."""

from __future__ import annotations

import asyncio
import socket
from types import ModuleType
from typing import Any

import grpc
import pytest

from clusters.network import free_port
from clusters.waiting import ANSWER
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Import, Port

pytestmark = pytest.mark.integration

HTTP, TCP, GRPC = AppProtocol.HTTP, AppProtocol.OPAQUE, AppProtocol.GRPC
ECHO = ServiceName("shop", "echo")


def imported(kit: ModuleType, *backends: object, affinity: str = "None") -> Import:
    ports = (Port(name="web", port=80, app=HTTP), Port(name="raw", port=9000, app=TCP))
    return Import(name=ECHO, ports=ports, backends=backends, session_affinity=affinity)  # type: ignore[arg-type]


@pytest.fixture
async def pair(world: Any, kit: Any) -> tuple[Any, Any, Any]:
    """East calls; west exports. east-1 and west-1 are workloads."""
    near, far = await world.workload("east-1"), await world.workload("west-1")
    world.domain("east")
    world.domain("west")
    world.exports["west"][ECHO] = kit.export_of(ECHO, {80: (HTTP, far.port), 9000: (TCP, far.port)}, to=["east"])
    gateway = await world.gateway("west")
    return near, far, gateway


async def test_the_local_copy_answers_and_the_remote_one_when_it_is_gone(world: Any, kit: Any, pair: Any) -> None:
    near, far, _ = pair
    targets = [{80: near.port, 9000: near.port}]
    world.imports["east"][ECHO] = imported(
        kit, kit.local("east", 80, 9000, targets=targets), kit.remote("west", 80, 9000)
    )
    await world.sidecar("east", [kit.Use(name=ECHO, vip=kit.vip)])

    assert (await kit.http(kit.vip, 80, host="echo.shop.global"))[2] == "east-1"
    assert await kit.line(kit.vip, 9000, "hello") == "east-1:hello"
    await near.stop()
    for method, body in (("GET", ""), ("POST", "x")):
        status, _, text = await kit.http(kit.vip, 80, host="echo.shop.svc.clusterset.local", method=method, body=body)
        assert (status, text) == (200, "west-1")
    assert await kit.line(kit.vip, 9000, "hello") == "west-1:hello"
    assert far.requests[-1].body == b"x"
    xfcc = far.requests[-1].get("x-forwarded-client-cert")
    assert xfcc is not None
    assert xfcc.endswith("URI=spiffe://east.test.internal/ns/shop/sa/client")


async def test_a_dead_gateway_costs_no_request(world: Any, kit: Any, pair: Any) -> None:
    _, far, gateway = pair
    spare = await world.gateway("west")
    world.imports["east"][ECHO] = imported(kit, kit.remote("west", 80, 9000))
    await world.sidecar("east", [kit.Use(name=ECHO, vip=kit.vip)])
    assert (await kit.http(kit.vip, 80, host="echo.shop.global"))[0] == 200
    failed: list[object] = []
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            status, _, text = await kit.http(kit.vip, 80, host="echo.shop.global")
            if status != 200:
                failed.append((status, text))

    tasks = [asyncio.create_task(load()) for _ in range(4)]
    await kit.until(lambda: len(far.requests) > 20)
    gateway.kill()
    before = len(far.requests)
    await kit.until(lambda: len(far.requests) > before + 100)
    stop.set()
    await asyncio.gather(*tasks)
    assert not failed
    assert spare.envoy.pid is not None


async def test_a_frozen_gateway_is_left_within_seconds(world: Any, kit: Any, pair: Any) -> None:
    """Its kernel still accepts connections, and never resets one. What was in flight is tried elsewhere."""
    _, _, gateway = pair
    await world.gateway("west")
    world.imports["east"][ECHO] = imported(kit, kit.remote("west", 80, 9000))
    await world.sidecar("east", [kit.Use(name=ECHO, vip=kit.vip)])
    for _ in range(4):
        assert (await kit.http(kit.vip, 80, host="echo.shop.global"))[0] == 200
    gateway.freeze()
    # Each waits for as long as clients do, which is much shorter than a frozen gateway stays.
    answers = await asyncio.gather(*(kit.http(kit.vip, 80, host="echo.shop.global") for _ in range(10)))
    assert {status for status, _, _ in answers} == {200}


async def test_nothing_ready_is_said_in_words(world: Any, kit: Any, pair: Any) -> None:
    _, far, _ = pair
    world.imports["east"][ECHO] = imported(kit, kit.remote("west", 80, 9000))
    sidecar = await world.sidecar("east", [kit.Use(name=ECHO, vip=kit.vip)])
    await far.stop()
    status, _, text = await kit.http(kit.vip, 80, host="echo.shop.global")
    assert status == 503
    assert text.startswith("isthmus: 503")
    world.imports["east"][ECHO] = imported(kit, kit.remote("west", 80, 9000, ready=0))
    sidecar.publish()
    await sidecar.settled()
    status, _, text = await kit.http(kit.vip, 80, host="echo.shop.global")
    assert (status, text) == (503, "isthmus: 503: no cluster has a ready endpoint of this service\n")


async def test_a_pinned_name_never_leaves_its_cluster(world: Any, kit: Any, pair: Any) -> None:
    near, far, _ = pair
    targets = [{80: near.port, 9000: near.port}]
    world.imports["east"][ECHO] = imported(
        kit, kit.local("east", 80, 9000, targets=targets), kit.remote("west", 80, 9000)
    )
    await world.sidecar("east", [kit.Use(name=ECHO, vip=kit.vip, pinned="west")])
    assert (await kit.http(kit.vip, 80, host="echo.shop.west.global"))[2] == "west-1"
    assert (await kit.http(kit.vip, 80, host="echo.shop.global"))[0] == 421
    await far.stop()
    assert (await kit.http(kit.vip, 80, host="echo.shop.west.global"))[0] == 503
    assert near.requests == []


async def test_one_endpoint_change_is_one_small_push(world: Any, kit: Any, pair: Any) -> None:
    _, _, gateway = pair
    second = await world.workload("west-2")
    world.imports["east"][ECHO] = imported(kit, kit.remote("west", 80, 9000))
    await world.sidecar("east", [kit.Use(name=ECHO, vip=kit.vip)])
    assert (await kit.http(kit.vip, 80, host="echo.shop.global"))[2] == "west-1"
    assert await kit.line(kit.vip, 9000, "hello") == "west-1:hello"
    before = gateway.snapshot
    world.exports["west"][ECHO] = kit.export_of(ECHO, {80: (HTTP, second.port), 9000: (TCP, second.port)}, to=["east"])
    gateway.publish()
    await gateway.settled()
    changed = {
        n for k in kit.TypeUrl for n in gateway.snapshot.names(k) if gateway.snapshot.get(k, n) != before.get(k, n)
    }
    assert changed == {"in/shop/echo/80", "in/shop/echo/9000"}
    assert (await kit.http(kit.vip, 80, host="echo.shop.global"))[2] == "west-2"


async def test_a_first_gateway_is_never_sent_plain_text(world: Any, kit: Any, pair: Any) -> None:
    """A service that had local copies alone comes to have others, while it is called: Envoy's cluster is replaced."""
    near, far, _ = pair
    local = kit.local("east", 80, 9000, targets=[{80: near.port, 9000: near.port}])
    (gateway,) = world.gateways["west"]
    tap = await world.tap(gateway.port)
    world.gateways["west"] = (kit.replace(gateway, port=tap.port),)
    world.imports["east"][ECHO] = imported(kit, local)
    sidecar = await world.sidecar("east", [kit.Use(name=ECHO, vip=kit.vip)])
    stop = asyncio.Event()
    failed: list[object] = []

    async def load() -> None:
        while not stop.is_set():
            status, _, text = await kit.http(kit.vip, 80, host="echo.shop.global")
            if status != 200:
                failed.append((status, text))

    tasks = [asyncio.create_task(load()) for _ in range(4)]
    for _ in range(3):
        for backend in (kit.remote("west", 80, 9000), local):
            world.imports["east"][ECHO] = imported(kit, backend)
            sidecar.publish()
            await sidecar.settled()
            before = len(near.requests) + len(far.requests)
            await kit.until(lambda before=before: len(near.requests) + len(far.requests) > before + 20)
    stop.set()
    await asyncio.gather(*tasks)
    assert not failed
    assert set(tap.first) == {kit.HANDSHAKE}


async def test_websockets_pass(world: Any, kit: Any, pair: Any) -> None:
    world.imports["east"][ECHO] = imported(kit, kit.remote("west", 80, 9000))
    await world.sidecar("east", [kit.Use(name=ECHO, vip=kit.vip)])
    reader, writer = await asyncio.open_connection(kit.vip, 80)
    writer.write(b"GET /ws HTTP/1.1\r\nHost: echo.shop.global\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert b" 101 " in await asyncio.wait_for(reader.readline(), ANSWER)
    while await reader.readline() != b"\r\n":
        pass
    writer.write(b"frames")
    assert await asyncio.wait_for(reader.readexactly(6), ANSWER) == b"frames"
    writer.close()


async def test_grpc_passes_with_its_trailers(world: Any, kit: Any) -> None:
    name = ServiceName("shop", "rpc")
    server = grpc.aio.server()

    async def say(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        context.set_trailing_metadata((("x-trailer", "kept"),))
        if request == b"no":
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today")
        return b"said " + request

    handler = grpc.unary_unary_rpc_method_handler(say)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.Say", {"Say": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    world.stack.push_async_callback(server.stop, None)
    world.domain("east")
    world.exports[world.domain("west").name][name] = kit.export_of(name, {50051: (GRPC, port)}, to=["east"])
    await world.gateway("west")
    world.imports["east"][name] = Import(
        name=name, ports=(Port(port=50051, app=GRPC),), backends=(kit.remote("west", 50051),)
    )
    await world.sidecar("east", [kit.Use(name=name, vip=kit.vip)])
    options = (("grpc.default_authority", "rpc.shop.global"), ("grpc.enable_http_proxy", 0))
    async with grpc.aio.insecure_channel(f"{kit.vip}:50051", options=options) as channel:
        call = channel.unary_unary("/t.Say/Say")(b"hi")
        assert await call == b"said hi"
        assert ("x-trailer", "kept") in list(await call.trailing_metadata())
        with pytest.raises(grpc.aio.AioRpcError, match="not today"):
            await channel.unary_unary("/t.Say/Say")(b"no")
        await server.stop(None)
        with pytest.raises(grpc.aio.AioRpcError, match="isthmus: 503"):
            await channel.unary_unary("/t.Say/Say")(b"hi")


async def test_a_gateway_calls_out_for_workloads_without_a_sidecar(world: Any, kit: Any, pair: Any) -> None:
    near, _, _ = pair
    targets = [{80: near.port, 9000: near.port}]
    web, raw = free_port(), free_port()
    merged = imported(kit, kit.local("east", 80, 9000, targets=targets), kit.remote("west", 80, 9000))
    world.imports["east"][ECHO] = kit.replace(merged, gateway_ports={80: web, 9000: raw})
    await world.gateway("east")
    assert (await kit.http("127.0.0.1", web, host="echo.shop.svc.clusterset.local"))[2] == "east-1"
    await near.stop()
    assert (await kit.http("127.0.0.1", web, host="echo.shop.svc.clusterset.local"))[2] == "west-1"
    assert await kit.line("127.0.0.1", raw, "hello") == "west-1:hello"


async def test_a_callers_address_can_choose_the_endpoint(world: Any, kit: Any, pair: Any) -> None:
    near, far, _ = pair
    third = await world.workload("east-2")
    targets = [{80: w.port, 9000: w.port} for w in (near, far, third)]
    local = kit.local("east", 80, 9000, targets=targets)
    world.imports["east"][ECHO] = imported(kit, local, affinity="ClientIP")
    await world.sidecar("east", [kit.Use(name=ECHO, vip=kit.vip)])
    assert len({(await kit.http(kit.vip, 80, host="echo.shop.global"))[2] for _ in range(8)}) == 1
    assert len({await kit.line(kit.vip, 9000, "x") for _ in range(8)}) == 1


async def silent_gateway(world: Any, kit: Any) -> None:
    """West's first gateway never answers; the kernel accepts for it."""
    silent = world.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    first, *others = world.gateways["west"]
    world.gateways["west"] = (kit.replace(first, port=silent.getsockname()[1]), *others)


async def test_a_silent_gateway_does_not_hold_up_a_new_name(world: Any, kit: Any, pair: Any) -> None:
    """Envoy uses a new cluster only when all that is to be checked has been checked: a second, for a black hole."""
    near, _, _ = pair
    await silent_gateway(world, kit)
    uses: list[object] = []
    sidecar = await world.sidecar("east", uses)
    targets = [{80: near.port, 9000: near.port}]
    local = kit.local("east", 80, 9000, targets=targets)
    world.imports["east"][ECHO] = imported(kit, local, kit.remote("west", 80, 9000))
    uses.append(kit.Use(name=ECHO, vip=kit.vip))
    sidecar.publish()
    await sidecar.settled()
    assert (await kit.http(kit.vip, 80, host="echo.shop.global"))[2] == "east-1"  # it is not checked yet
    assert await stat(sidecar, "cluster.out/shop/echo/80.health_check.attempt") == 0
    sidecar.begin_checks()
    await sidecar.settled()
    answers = [(await kit.http(kit.vip, 80, host="echo.shop.global"))[2] for _ in range(5)]
    assert set(answers) == {"east-1"}
    await reaches(sidecar, "cluster.out/shop/echo/80.health_check.failure", 1)
    assert (await kit.http(kit.vip, 80, host="echo.shop.global"))[2] == "east-1"


async def test_checks_begin_without_a_failed_request(world: Any, kit: Any, pair: Any) -> None:
    await world.gateway("west")
    world.imports["east"][ECHO] = imported(kit, kit.remote("west", 80, 9000))
    uses: list[object] = []
    sidecar = await world.sidecar("east", uses)
    uses.append(kit.Use(name=ECHO, vip=kit.vip))
    sidecar.publish()
    await sidecar.settled()
    failed: list[object] = []
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            status, _, text = await kit.http(kit.vip, 80, host="echo.shop.global")
            if status != 200:
                failed.append((status, text))

    tasks = [asyncio.create_task(load()) for _ in range(4)]
    held = asyncio.create_task(kit.line(kit.vip, 9000, "hello"))
    sidecar.begin_checks()
    await sidecar.settled()
    await reaches(sidecar, "cluster.out/shop/echo/80.health_check.success", 2)
    stop.set()
    await asyncio.gather(*tasks)
    assert not failed
    assert await held == "west-1:hello"


@pytest.mark.parametrize("end", ["kill", "freeze"])
@pytest.mark.parametrize("used", [True, False], ids=["in use", "not yet used"])
async def test_before_its_checks_begin_a_new_name_leaves_a_dead_gateway(
    world: Any, kit: Any, pair: Any, end: str, used: bool
) -> None:
    """Look-ups without end put checks off: connect time-outs, pings and retries have to do without."""
    _, _, gateway = pair
    await world.gateway("west")
    world.imports["east"][ECHO] = imported(kit, kit.remote("west", 80, 9000))
    uses: list[object] = []
    sidecar = await world.sidecar("east", uses)
    uses.append(kit.Use(name=ECHO, vip=kit.vip))
    sidecar.publish()
    await sidecar.settled()
    for _ in range(4 if used else 0):
        assert (await kit.http(kit.vip, 80, host="echo.shop.global"))[0] == 200
    getattr(gateway, end)()
    for _ in range(3):  # the later ones meet what the first have found out
        answers = await asyncio.gather(*(kit.http(kit.vip, 80, host="echo.shop.global") for _ in range(8)))
        assert {status for status, _, _ in answers} == {200}
        assert await kit.line(kit.vip, 9000, "hello") == "west-1:hello"
    assert await stat(sidecar, "cluster.out/shop/echo/80.health_check.attempt") == 0


async def reaches(proxy: Any, name: str, least: int) -> None:
    async with asyncio.timeout(10):
        while await stat(proxy, name) < least:
            await asyncio.sleep(0.02)


async def stat(proxy: Any, name: str) -> int:
    text = (await proxy.envoy.admin.get(f"/stats?filter=^{name.replace('/', '.')}$")).decode()
    return int(text.rpartition(":")[2]) if text.strip() else 0
