"""Instances of one service become a claim."""

from __future__ import annotations

import random
from typing import Any

import pytest

from discovery.consul.convert import Before, Claim, How, convert
from discovery.consul.rules import Rule
from discovery.consul.types import Instance, State
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Grant, Locality, Readiness

EXPORT = {"isthmus-export": "true"}
NAME = ServiceName("shop", "web")
HOME = Locality("eu", "a")


def one(number: int = 1, **given: Any) -> Instance:
    values: dict[str, Any] = {
        "node": f"n{number}",
        "id": "web",
        "addresses": (f"10.0.0.{number}",),
        "ports": (("", 80),),
        "state": State.PASSING,
        "weight": 1,
        "region": "",
        "zone": "",
        "tags": (),
        "meta": EXPORT,
        "created": number,
        **given,
    }
    return Instance(**values)


def claim(*instances: Instance, name: ServiceName = NAME, before: Before = Before(), **how: Any) -> Claim:  # noqa: B008
    return convert(name, list(instances), how=How(locality=HOME, **how), before=before)


def made(*instances: Instance, **given: Any) -> Any:
    found = claim(*instances, **given)
    assert found.service is not None, found.faults
    return found.service


def codes(found: Claim) -> list[str]:
    return [f.code for f in found.faults]


def test_nothing_is_exported_that_does_not_say_so() -> None:
    assert claim(one(meta={}), one(2, tags=("export",), meta={})) == Claim()


def test_only_the_instances_that_say_so() -> None:
    assert [e.address for e in made(one(1), one(2, meta={})).endpoints] == ["10.0.0.1"]
    assert [e.address for e in made(one(1, meta={}, tags=("public",)), one(2, meta={}), tag="public").endpoints] == [
        "10.0.0.1"
    ]
    assert len(made(one(1, meta={}), one(2, meta={}), rule=Rule(service="web")).endpoints) == 2


def test_the_same_id_on_two_nodes_is_two_instances() -> None:
    service = made(one(1), one(2))
    assert len(service.endpoints) == 2
    assert service.readiness == (Readiness(HOME, 2),)


def test_the_main_port_may_be_another_one_at_each_address() -> None:
    given = {"ports": (("http", 80), ("admin", 9)), "addresses": ("192.0.2.1", "2001:db8::1")}
    found = made(one(1, **given, mains=(30443, 0)), one(2, ports=(("", 80),), mains=(30444,)))
    assert [(p.name, p.port) for p in found.ports] == [("admin", 9), ("http", 80)]
    assert [(e.address, e.ports) for e in found.endpoints] == [
        ("10.0.0.2", {80: 30444}),
        ("192.0.2.1", {9: 9, 80: 30443}),
        ("2001:db8::1", {9: 9, 80: 80}),
    ]


def test_why_there_is_no_port_is_told_once() -> None:
    assert codes(claim(one(ports=(), fault=("consul_port", "its port is 0")))) == ["consul_port"]


def test_states_become_conditions() -> None:
    service = made(one(1), one(2, state=State.WARNING), one(3, state=State.CRITICAL), one(4, state=State.MAINTENANCE))
    assert [(e.ready, e.terminating) for e in service.endpoints] == [
        (True, False),
        (True, False),
        (False, False),
        (False, True),
    ]
    assert service.ready == 2


def test_weights_are_those_of_the_instances() -> None:
    service = made(one(1, weight=3), one(2), one(3, weight=7, state=State.CRITICAL))
    assert [e.weight for e in service.endpoints] == [3, 1, 7]
    assert service.readiness == (Readiness(HOME, 2, weight=4),)


def test_instances_of_one_machine_with_ports_of_their_own() -> None:
    service = made(
        one(1, addresses=("10.0.0.1",), ports=(("", 8001),), meta={**EXPORT, "isthmus-service-port": "80"}),
        one(2, addresses=("10.0.0.1",), ports=(("", 8002),)),
    )
    assert [p.port for p in service.ports] == [80]
    assert [dict(e.ports) for e in service.endpoints] == [{80: 8001}, {80: 8002}]


@pytest.mark.parametrize(
    ("ports", "before", "rule", "number", "code"),
    [
        ((80, 80, 81), None, None, 80, "ports_differ"),
        ((80, 81), None, None, 80, "ports_differ"),
        ((81, 82), {"": 80}, None, 80, ""),  # every instance has another one: it stays what it was
        ((81, 81), {"": 80}, None, 81, ""),  # all moved
        ((80, 81), {"": 81}, None, 81, ""),
        ((80, 81), None, Rule(service="web", ports={"": 443}), 443, ""),
    ],
)
def test_the_number_of_the_port(
    ports: tuple[int, ...], before: dict[str, int] | None, rule: Rule | None, number: int, code: str
) -> None:
    instances = [one(n, ports=(("", port),)) for n, port in enumerate(ports, 1)]
    found = claim(*instances, before=Before(ports=before), rule=rule)
    assert found.service is not None
    assert [p.port for p in found.service.ports] == [number]
    assert found.ports == {"": number}
    assert codes(found) == ([code] if code else [])


def test_several_ports_have_names() -> None:
    service = made(one(ports=(("", 80), ("admin", 9000)), meta={**EXPORT, "isthmus-protocol-admin": "grpc"}))
    assert [(p.name, p.port, p.app) for p in service.ports] == [
        ("default", 80, AppProtocol.OPAQUE),
        ("admin", 9000, AppProtocol.GRPC),
    ]
    assert dict(service.endpoints[0].ports) == {80: 80, 9000: 9000}


@pytest.mark.parametrize(
    ("said", "app", "declared"),
    [
        ("http", AppProtocol.HTTP, "http"),
        ("h2c", AppProtocol.H2C, "kubernetes.io/h2c"),
        ("grpc", AppProtocol.GRPC, "grpc"),
        ("tcp", AppProtocol.OPAQUE, ""),
    ],
)
def test_protocols(said: str, app: AppProtocol, declared: str) -> None:
    (port,) = made(one(meta={**EXPORT, "isthmus-protocol": said})).ports
    assert (port.app, port.declared) == (app, declared)


@pytest.mark.parametrize(
    ("instances", "code"),
    [
        ([one(meta={**EXPORT, "isthmus-protocol": "smtp"})], "consul_meta"),
        ([one(meta={**EXPORT, "isthmus-service-port": "http"})], "consul_meta"),
        ([one(), one(2, fault=("consul_address", "its address is bad"), addresses=())], "consul_address"),
        ([one(ports=(("", 80), ("Bad_Name", 81)))], "consul_port_name"),
        ([one(ports=(("", 80), ("same", 80)))], "duplicate_port"),
        ([one(), one(2, meta={**EXPORT, "isthmus-consumers": "west"})], "consumers_differ"),
        ([one(), one(2, meta={"isthmus-export": "yes please"})], "consul_meta"),
    ],
)
def test_garbage_costs_what_it_is_in_and_nothing_else(instances: list[Instance], code: str) -> None:
    found = claim(*instances)
    assert codes(found) == [code]
    assert found.service is not None
    assert found.service.endpoints[0].address == "10.0.0.1"


@pytest.mark.parametrize(
    ("instances", "name", "code"),
    [
        ([one()], ServiceName("shop", "Web_1"), "consul_name"),
        ([one(ports=(), fault=("consul_port", "its port is 0"))], NAME, "consul_port"),
        ([one(meta={**EXPORT, "isthmus-consumers": "We st"})], NAME, "invalid_consumers"),
    ],
)
def test_what_cannot_be_exported_says_why(instances: list[Instance], name: ServiceName, code: str) -> None:
    found = claim(*instances, name=name)
    assert found.service is None
    assert found.exported
    assert code in codes(found)


def test_consumers() -> None:
    meta = {**EXPORT, "isthmus-consumers": "west, edge:80"}
    assert made(one(meta=meta)).grants == (Grant("edge", (80,)), Grant("west"))
    assert made(one(meta=meta), rule=Rule(service="web", consumers="north")).grants == (Grant("north"),)
    assert made(one(meta=meta), rule=Rule(service="web", consumers="*")).grants == ()


def test_labels_are_what_all_instances_say() -> None:
    service = made(
        one(1, tags=("v1", "blue"), meta={**EXPORT, "team": "a", "build": "1"}),
        one(2, tags=("v1", "green"), meta={**EXPORT, "team": "a", "build": "2"}),
        labels=("*",),
    )
    assert service.labels == {"team": "a", "tag.isthmus.io/v1": "true"}
    assert made(one(tags=("v1",), meta={**EXPORT, "team": "a"}), labels=("te*",)).labels == {"team": "a"}


def test_the_order_of_instances_does_not_matter() -> None:
    rng = random.Random(7)
    instances = [
        one(
            n,
            ports=(("", rng.choice([80, 81, 82])),),
            state=rng.choice(list(State)),
            addresses=(f"10.0.0.{rng.randrange(5)}",),
            meta={**EXPORT, "isthmus-consumers": rng.choice(["west", "east"])},
        )
        for n in range(20)
    ]
    first = claim(*instances)
    for _ in range(20):
        rng.shuffle(instances)
        assert claim(*instances) == first
