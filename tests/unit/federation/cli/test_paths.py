"""Which calls there should be, and what an attempt is worth."""

from __future__ import annotations

import pytest

from federation.cli import paths
from federation.cli.paths import ANY, Path
from federation.model.cluster import Link, LinkGrant
from federation.proto.v1 import agent_pb2, records_pb2, registry_pb2


def export(
    cluster: str, name: str = "echo", *, ready: int = 1, consumers: tuple[str, ...] = ()
) -> registry_pb2.ServiceInfo:
    return registry_pb2.ServiceInfo(
        cluster=cluster,
        service=records_pb2.Service(
            namespace="shop",
            name=name,
            ports=[records_pb2.Port(port=80)],
            readiness=[records_pb2.Readiness(ready=ready)],
            grants=[records_pb2.Grant(consumer=consumer) for consumer in consumers],
        ),
    )


EAST_WEST = Link(a="east", b="west")


def grant(origin: str, consumer: str, namespace: str, service: str) -> LinkGrant:
    return LinkGrant(origin=origin, consumer=consumer, namespace=namespace, service=service)


def planned(
    *exports: registry_pb2.ServiceInfo, links: tuple[Link, ...] = (EAST_WEST,), **limits: list[str]
) -> dict[tuple[str, str], Path]:
    found = paths.plan(exports, links, ["east", "west"], **limits)
    return {(path.source, path.target): path for path in found}


def test_every_cluster_calls_every_other_one_that_exports_and_any() -> None:
    found = planned(export("east"), export("west"), export("edge"))
    assert found.keys() == {
        ("east", "west"),
        ("west", "east"),
        ("east", "edge"),
        ("west", "edge"),
        ("east", ANY),
        ("west", ANY),
    }
    assert found["east", "west"].wanted
    assert [port.port for port in found["east", "west"].ports] == [80]
    unlinked = found["east", "edge"]
    assert (unlinked.wanted, unlinked.hindered is not None) == (False, True)


@pytest.mark.parametrize(
    ("consumers", "link", "granted"),
    [
        ((), EAST_WEST, True),
        (("east",), EAST_WEST, True),
        (("edge",), EAST_WEST, False),
        ((), Link(a="east", b="west", grants=(grant("west", "east", "shop", "echo"),)), True),
        ((), Link(a="east", b="west", grants=(grant("west", "east", "shop", "other"),)), False),
        ((), Link(a="east", b="west", grants=(grant("east", "west", "*", "*"),)), False),
    ],
)  # fmt: skip
def test_grants_say_what_is_wanted(consumers: tuple[str, ...], link: Link, granted: bool) -> None:
    exported = export("west", consumers=consumers)
    found = planned(exported, links=(link,))
    assert (found["east", "west"].granted, found["east", "west"].wanted) == (granted, granted)
    assert (("east", ANY) in found) == granted
    insisted = planned(exported, links=(link,), clusters=["east"], services=["shop/echo"])
    assert (insisted["east", "west"].granted, insisted["east", "west"].wanted) == (granted, True)


def test_limits() -> None:
    exports = (export("east"), export("west"), export("west", "kv"))
    links = (EAST_WEST, Link(a="east", b="edge"))
    assert {p.service for p in paths.plan(exports, links, ["east"], services=["shop/kv"])} == {"shop/kv"}
    only = paths.plan((*exports, export("edge")), links, ["east", "west"], clusters=["edge"])
    assert {(p.source, p.target) for p in only} == {("east", "edge"), ("west", "edge")}


def test_nobody_is_asked_for_what_has_no_ready_copy_anywhere() -> None:
    found = planned(export("west", ready=0))
    assert found.keys() == {("east", "west")}
    assert found["east", "west"].wanted  # and fails: that is worth knowing


GRANTED = Path(service="shop/echo", source="east", target="west")
DENIED = Path(service="shop/echo", source="east", target="west", granted=False, wanted=False)
INSISTED = Path(service="shop/echo", source="east", target="west", granted=False, wanted=True)
ANYONE = Path(service="shop/echo", source="east", target=ANY)


@pytest.mark.parametrize(
    ("path", "code", "state", "bad"),
    [
        (GRANTED, "", "ok", False),
        (GRANTED, "no_grant", "failed", True),
        (GRANTED, "no_egress", "failed", True),
        (DENIED, "no_grant", "refused", False),
        (DENIED, "not_exported", "refused", False),
        (DENIED, "", "failed", True),
        (DENIED, "timed_out", "not tried", False),
        (INSISTED, "no_grant", "failed", True),
        (INSISTED, "", "ok", False),
        (ANYONE, "egress_unreachable", "not tried", False),
        (ANYONE, "no_egress", "not tried", False),
        (ANYONE, "no_ready_copy", "failed", True),
    ],
)
def test_what_an_attempt_is_worth(path: Path, code: str, state: str, bad: bool) -> None:
    (result,) = paths.results(path, [agent_pb2.Attempt(port=80, code=code)])
    assert (result.state, result.bad) == (state, bad)
    assert result.as_dict()["answered_by"] == []


def test_the_matrix() -> None:
    good = agent_pb2.Attempt(port=80, took_ns=3_100_000, clusters=["west"])
    slow = agent_pb2.Attempt(port=80, took_ns=9_000_000, clusters=["west"], gateway="gw-2")
    rows = [
        *paths.results(GRANTED, [good, slow]),
        *paths.results(ANYONE, [agent_pb2.Attempt(port=80, took_ns=2_000_000, clusters=["east", "west"])]),
        *paths.results(
            Path(service="shop/echo", source="west", target="east"), [agent_pb2.Attempt(port=80, code="no_route")]
        ),
        paths.hindered(Path(service="shop/echo", source="west", target=ANY), "no_egress", "none"),
    ]
    assert paths.matrix(rows, ["east", "west"]) == [
        {"service": "shop/echo:80", "from": "east", "east": "", "west": "9 ms", "any": "2 ms (east or west)"},
        {"service": "shop/echo:80", "from": "west", "east": "✗ no_route", "west": "", "any": "✗ no_egress"},
    ]


def test_without_a_registry_what_agents_import_is_what_is_exported() -> None:
    imported = records_pb2.Import(
        namespace="shop",
        name="echo",
        ports=[records_pb2.Port(port=80)],
        backends=[
            records_pb2.Backend(cluster="west", readiness=[records_pb2.Readiness(ready=2)]),
            records_pb2.Backend(cluster="east"),
        ],
    )
    found = paths.as_imported([[imported], [imported]])
    assert [(info.cluster, info.service.name) for info in found] == [("east", "echo"), ("west", "echo")]
    assert [r.ready for r in found[1].service.readiness] == [2]
