"""What a Service says of where gateways are reached, as tables; and its name, resolved or not."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
import pytest

from clusters.waiting import until
from discovery.gateways import Reach
from discovery.kube import gateway_service
from discovery.kube.gateway_service import Front, ServiceFront, front, preferred
from discovery.kube.types import GatewayService
from federation import log
from federation.aio.clock import SystemClock
from federation.aio.tasks import cancel


def service(kind: str, *ports: dict[str, Any], ingress: Any = None, **spec: Any) -> GatewayService:
    body = {
        "metadata": {"name": "gw", "namespace": "isthmus-system", "resourceVersion": "1"},
        "spec": {"type": kind, "ports": list(ports), **spec},
        "status": {"loadBalancer": {"ingress": ingress} if ingress is not None else {}},
    }
    return msgspec.convert(body, GatewayService)


MTLS = {"port": 443, "targetPort": 15443}
IP = [{"ip": "198.51.100.7"}]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            service("LoadBalancer", MTLS, ingress=IP),
            Front(addresses=("198.51.100.7",), ports=((443, 443), (15443, 443))),
        ),
        (
            service("LoadBalancer", {"port": 15443}, ingress=IP),
            Front(addresses=("198.51.100.7",), ports=((15443, 15443),)),
        ),
        (
            service("LoadBalancer", {"port": 443, "targetPort": "mtls"}, ingress=IP),
            Front(addresses=("198.51.100.7",), ports=((443, 443),), only_port=443),
        ),
        (
            service("LoadBalancer", MTLS, {"port": 53, "protocol": "UDP"}, ingress=IP),
            Front(addresses=("198.51.100.7",), ports=((443, 443), (15443, 443))),
        ),
        (
            service("LoadBalancer", MTLS, ingress=[{"hostname": "lb.example.com"}]),
            Front(names=("lb.example.com",), ports=((443, 443), (15443, 443))),
        ),
        (
            service("LoadBalancer", MTLS, ingress=[{"ip": "198.51.100.7", "hostname": "lb.example.com"}]),
            Front(addresses=("198.51.100.7",), ports=((443, 443), (15443, 443))),
        ),
        (
            service("LoadBalancer", MTLS),
            Front(ports=((443, 443), (15443, 443)), reason="its load balancer has no address yet"),
        ),
        (
            service("ClusterIP", MTLS, externalIPs=["198.51.100.9"]),
            Front(addresses=("198.51.100.9",), ports=((443, 443), (15443, 443))),
        ),
        (
            service("LoadBalancer", MTLS, {"port": 15443, "targetPort": 8443}, ingress=IP),  # what is listened on first
            Front(addresses=("198.51.100.7",), ports=((443, 443), (8443, 15443), (15443, 443))),
        ),
        (None, Front(reason="there is no such Service")),
    ],
)
def test_what_it_says(found: GatewayService | None, expected: Front) -> None:
    assert front(found) == expected


@pytest.mark.parametrize("kind", ["NodePort", "ClusterIP"])
def test_a_service_without_an_address_says_what_to_do(kind: str) -> None:
    found = front(service(kind, MTLS, ingress=IP))  # left over from when it was a load balancer
    assert found.addresses == ()
    assert f"of type {kind}" in found.reason
    assert "address" in found.reason


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["198.51.100.9", "198.51.100.10"], ("198.51.100.9", "198.51.100.10")),
        (["2001:db8::1", "198.51.100.9"], ("198.51.100.9",)),
        (["2001:db8::1"], ("2001:db8::1",)),
        (["nonsense"], ()),
        ([], ()),
    ],
)
def test_ipv4_where_there_is_any(addresses: list[str], expected: tuple[str, ...]) -> None:
    assert preferred(addresses) == expected


def test_a_name_without_an_address_is_told() -> None:
    named = Front(names=("lb.example.com",), ports=((443, 443), (15443, 443)))
    assert named.reach().reason == "lb.example.com has no address"
    assert named.reach(["198.51.100.7"]) == Reach(addresses=("198.51.100.7",), ports={443: 443, 15443: 443})


async def test_a_name_is_resolved_again_and_what_was_known_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [["198.51.100.7"], OSError("no answer"), ["198.51.100.8"]]
    asked: list[str] = []

    async def look_up(name: str) -> list[str]:
        asked.append(name)
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, OSError):
            raise answer
        return list(answer)

    monkeypatch.setattr(gateway_service, "look_up", look_up)
    monkeypatch.setattr(gateway_service, "RESOLVE_SECONDS", 0.01)
    client: Any = object()
    made = ServiceFront(
        client,
        "gw",
        namespace="isthmus-system",
        lists=asyncio.Semaphore(1),
        watch_seconds=1,
        confirm_seconds=1,
        clock=SystemClock(),
        log=log.get("test"),
        rng=random.Random(1),
    )
    made._reflector.run = asyncio.Event().wait  # type: ignore[method-assign,assignment]  # what it sees is put by hand
    made._store.put(service("LoadBalancer", MTLS, ingress=[{"hostname": "lb.example.com"}]))
    seen: list[tuple[str, ...]] = []
    running = asyncio.create_task(made.run(), name="front")
    try:
        assert made.reach.value is None, "nothing is known before the Service was read"
        made._reflector.synced.set(True)
        version = made.reach.version - 1
        while not seen or seen[-1] != ("198.51.100.8",):
            version, reach = await asyncio.wait_for(made.reach.newer(version), 10)
            if reach is not None:
                seen.append(reach.addresses)
        assert seen == [("198.51.100.7",), ("198.51.100.8",)]
        made._store.delete("isthmus-system", "gw")
        await until(lambda: made.reach.value is not None and made.reach.value.reason == "there is no such Service")
    finally:
        await cancel(running)
    assert len(asked) >= 3
