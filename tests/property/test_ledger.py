"""Whatever was changed on the way: the changes add up to what a fresh build makes, and nothing is made in vain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.envoy.ledger import Changes, Ledger, Part
from federation.model.cluster import Bundle, Gateway, Peer
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Backend, Endpoint, Import, Locality, Port, Readiness
from federation.model.view import View
from sidecar.build.outbound import Builder, SidecarConfig, Use, build, by_service

KINDS, NAMES, OWNERS = ("k", "l"), ("x", "y", "z"), ("a", "b", "c")
values = st.fixed_dictionaries({(kind, name): st.integers(0, 2) for kind in KINDS for name in NAMES})
owned = st.fixed_dictionaries(
    {}, optional={o: st.sets(st.tuples(st.sampled_from(KINDS), st.sampled_from(NAMES))) for o in OWNERS}
)


def apply(held: dict[tuple[str, str], Any], changes: Changes) -> None:
    for kind, gone in changes.removed.items():
        for name in gone:
            held.pop((kind, name), None)
    for kind, made in changes.put.items():
        held.update({(kind, name): message for name, message in made.items()})


@given(steps=st.lists(st.tuples(values, owned, st.booleans()), max_size=8))
def test_any_sequence_of_writes_and_drops(steps: list[tuple[Mapping[Any, int], Mapping[str, set[Any]], bool]]) -> None:
    ledger = Ledger()
    held: dict[tuple[str, str], Any] = {}
    expected: dict[tuple[str, str], Any] = {}
    for value, wanted, take in steps:
        for owner in OWNERS:
            if owner not in wanted:
                ledger.drop(owner)
        for owner, parts in wanted.items():
            ledger.write(owner, [_part(*p, value[p]) for p in sorted(parts)])
        expected = {p: StringValue(value=str(value[p])) for parts in wanted.values() for p in parts}
        if take:
            changes = ledger.take()
            assert not {(k, n) for k, made in changes.put.items() for n in made if held.get((k, n)) == made[n]} & {
                (k, n) for k, gone in changes.removed.items() for n in gone
            }
            apply(held, changes)
            assert held == expected
    apply(held, ledger.take())
    assert held == expected
    assert not ledger.take()


def _part(kind: str, name: str, value: int) -> Part:
    return Part(kind, name, value, lambda: StringValue(value=str(value)))


SERVICES = tuple(ServiceName("shop", name) for name in ("echo", "db"))
CLUSTERS = ("west", "north")


class Proof:
    chain_pem = b"chain"
    key_pem = b"key"


def _peer(name: str, roots: tuple[bytes, ...], address: int) -> Peer:
    domain = f"{name}.test"
    gateways = (Gateway(name="g", address=f"192.0.2.{address}", port=15443),)
    bundle = Bundle(trust_domain=domain, sequence=1, roots=roots)
    return Peer(cluster=name, trust_domain=domain, own=name == "east", bundle=bundle, gateways=gateways)


@st.composite
def views(draw: st.DrawFn) -> View:
    linked = draw(st.sets(st.sampled_from(CLUSTERS)))
    roots = st.sampled_from(((b"1",), (b"1", b"2"), ()))
    peers = {n: _peer(n, draw(roots), draw(st.integers(1, 3))) for n in sorted(linked)}
    peers["east"] = _peer("east", (b"own",), 9)
    ports = (Port(name="web", port=80, app=AppProtocol.HTTP), Port(name="raw", port=9000))
    imports = {}
    for name in sorted(draw(st.sets(st.sampled_from(SERVICES)))):
        local = Backend(
            cluster="east", local=True, ports=(80,), endpoints=(Endpoint(address="10.0.0.1", ports={80: 1}),)
        )
        ready = (Readiness(Locality(), draw(st.integers(0, 2))),)
        remote = [Backend(cluster=c, ports=(80, 9000), readiness=ready) for c in CLUSTERS if draw(st.booleans())]
        imports[name] = Import(name=name, ports=ports, backends=(*([local] if draw(st.booleans()) else []), *remote))
    return View(cluster="east", peers=peers, imports=imports)


uses = st.sets(
    st.builds(Use, name=st.sampled_from(SERVICES), vip=st.just(""), pinned=st.sampled_from((None, "west"))), max_size=4
).map(lambda given: [replace(u, vip=f"127.128.0.{1 + SERVICES.index(u.name) * 2 + bool(u.pinned)}") for u in given])


@settings(max_examples=40)
@given(
    steps=st.lists(st.tuples(views(), uses, st.booleans()), min_size=1, max_size=5),
    way=st.sampled_from(("loopback", "redirect")),
    told=st.booleans(),
)
def test_a_sidecars_updates_add_up_to_a_fresh_build(
    steps: list[tuple[View, list[Use], bool]], way: Any, told: bool
) -> None:
    config = SidecarConfig(way=way, cluster="east", identity=Proof())
    builder = Builder(config)
    held: dict[tuple[str, str], Any] = {}
    last: tuple[View, dict[ServiceName, list[Use]]] = (View(), {})
    for view, used, known in steps:
        in_use = by_service(used)
        before, last = last, (view, in_use)
        changed = None
        if told:  # only what differs
            changed = {
                n
                for n in SERVICES
                if view.imports.get(n) is not before[0].imports.get(n) or in_use.get(n) != before[1].get(n)
            }
        changes = builder.update(view, in_use, changed=changed)
        apply(held, changes)
        if known:
            changes.begin_checks({name for _, name in held}, None)
    changes.begin_checks({name for _, name in held}, None)
    apply(held, builder.update(view, in_use, changed=()))
    fresh = {(kind, name): message for kind, made in build(view, used, config).items() for name, message in made}
    assert held.keys() == fresh.keys()
    assert held == fresh
