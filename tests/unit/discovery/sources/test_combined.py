"""Several sources as one: what is handed on, what is said to be changed, and where commands go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from discovery.sources.base import Preview, SourceState
from discovery.sources.combined import Combined, Part, combine, whence
from federation.aio.latest import Latest
from federation.errors import Conflict, NotFound, Unavailable
from federation.model.cluster import Problem
from federation.model.ids import ServiceName
from federation.model.service import Endpoint, Grant, Port, Service

DB, WEB = ServiceName("shop", "db"), ServiceName("shop", "web")


def service(name: ServiceName, *addresses: str, at: int = 5, port: int = 80) -> Service:
    return Service(
        name=name,
        exported_at_ns=at,
        ports=(Port(name="p", port=port),),
        endpoints=tuple(Endpoint(address=a, ports={port: 1}) for a in addresses),
    )


class Fake:
    """A source that is told what to say, and that writes down what it is asked."""

    def __init__(self, what: str) -> None:
        self.state: Latest[SourceState] = Latest(SourceState())
        self.what = what
        self.asked: list[Any] = []
        self.conflict = False

    def say(
        self,
        exports: Mapping[ServiceName, Service],
        unexported: Mapping[ServiceName, Service] | None = None,
        **more: Any,
    ) -> SourceState:
        """The next state, in which everything may be changed."""
        known = {"services": frozenset({*exports, *(unexported or {})}), "complete": True, **more}
        number = self.state.value.number + 1
        self.state.set(SourceState(exports=exports, unexported=unexported or {}, number=number, **known))
        return self.state.value

    async def run(self) -> None:
        raise NotImplementedError

    async def export(self, name: ServiceName, grants: tuple[Grant, ...]) -> tuple[str, bool]:
        self.asked.append(("export", name, grants))
        return self.what, True

    async def unexport(self, name: ServiceName) -> tuple[str, bool]:
        self.asked.append(("unexport", name))
        if self.conflict:
            raise Conflict("no", code="registered_by_vm")
        return self.what, True

    async def preview(self, name: ServiceName, grants: tuple[Grant, ...] | None) -> Preview:
        claim = service(name, "10.0.0.7") if grants is not None else None
        return Preview(where=self.what, changed=True, claim=claim)

    def has_namespace(self, namespace: str) -> bool | None:
        return {"kubernetes": False, "vms": True}[self.what]


class Pair:
    """Kubernetes and VMs as one, without the tasks between."""

    def __init__(self) -> None:
        self.parts = (Fake("kubernetes"), Fake("vms"))
        self.source = Combined([Part("kubernetes", self.parts[0]), Part("vm", self.parts[1])])

    def say(self, number: int, *args: Any, **more: Any) -> SourceState:
        self.source.take(number, self.parts[number].say(*args, **more))
        return self.source.state.value


def test_one_source_is_itself() -> None:
    alone = Fake("kubernetes")
    assert combine([Part("kubernetes", alone)]) is alone


def test_as_long_as_only_the_first_says_anything_its_states_are_handed_on() -> None:
    pair = Pair()
    assert not pair.say(0, {DB: service(DB, "10.0.0.1")}).complete
    pair.say(1, {})
    assert pair.source.state.value is pair.parts[0].state.value
    state = pair.say(0, {})
    assert state is pair.parts[0].state.value
    version = pair.source.state.version
    pair.say(1, {})
    assert pair.source.state.version == version, "an empty word changes nothing"


def test_what_one_part_has_is_that_object_and_what_both_have_is_united() -> None:
    pair = Pair()
    db, web, vm = service(DB, "10.0.0.1"), service(WEB, "10.0.0.2"), service(DB, "192.0.2.1", at=2)
    pair.say(1, {})
    before = pair.say(0, {DB: db, WEB: web})
    state = pair.say(1, {DB: vm})
    assert state.exports[WEB] is web
    assert [e.address for e in state.exports[DB].endpoints] == ["10.0.0.1", "192.0.2.1"]
    assert state.exports[DB].exported_at_ns == 2
    assert (state.changed, state.number, state.complete) == ({DB}, before.number + 1, True)
    united = state.exports[DB]

    other = service(WEB, "10.0.0.3")
    state = pair.say(0, {DB: db, WEB: other}, changed=frozenset({DB, WEB}))
    assert (state.changed, state.exports[DB] is united) == ({WEB}, True)

    state = pair.say(0, {WEB: other})
    assert (state.changed, state.exports[DB]) == ({DB}, vm)
    assert state.exports[DB] is vm

    state = pair.say(1, {})
    assert (set(state.exports), state.changed, set(state.services)) == ({WEB}, {DB}, {WEB})


def test_a_leap_of_numbers_is_looked_through() -> None:
    pair = Pair()
    pair.say(1, {WEB: service(WEB, "192.0.2.1")})
    pair.say(0, {})
    pair.parts[0].say({DB: service(DB, "10.0.0.1")}, changed=frozenset({DB}))
    state = pair.say(0, {DB: service(DB, "10.0.0.1")}, changed=frozenset())
    assert set(state.exports) == {DB, WEB}
    assert state.changed == {DB}


def test_what_is_not_exported_joins_what_is() -> None:
    pair = Pair()
    vm = service(DB, "192.0.2.1")
    state = pair.say(1, {}, {DB: vm})
    assert dict(state.exports) == {}
    pair.say(0, {DB: service(DB, "10.0.0.1")})
    assert [e.address for e in pair.source.state.value.exports[DB].endpoints] == ["10.0.0.1", "192.0.2.1"]
    state = pair.say(0, {})
    assert (dict(state.exports), set(state.services)) == ({}, {DB})


def test_it_is_complete_when_all_are_and_stays_so() -> None:
    pair = Pair()
    assert not pair.say(0, {}, complete=False).complete
    assert not pair.say(1, {DB: service(DB)}).complete
    assert pair.say(0, {}).complete
    assert pair.say(0, {}, complete=False).complete


def test_problems_of_all_and_conflicts_between_them() -> None:
    pair = Pair()
    theirs = Problem("bad", "x", "y")
    pair.say(0, {DB: service(DB, "10.0.0.1")}, problems=(theirs,))
    state = pair.say(1, {DB: service(DB, "192.0.2.1", port=81)})
    assert state.problems[0] == theirs
    # the ports have one name, so they fit; another name does not
    assert len(state.problems) == 1
    odd = Service(name=DB, exported_at_ns=1, ports=(Port(name="q", port=82),))
    state = pair.say(1, {DB: odd})
    assert [p.code for p in state.problems] == ["bad", "port_conflict", "port_conflict"]
    assert all("kubernetes" in p.detail and "vm" in p.detail for p in state.problems[1:])
    assert pair.say(1, {}).problems == (theirs,)


async def test_commands_go_where_the_service_is() -> None:
    pair = Pair()
    pair.say(0, {WEB: service(WEB)}, services=frozenset({WEB, DB}))
    pair.say(1, {DB: service(DB)})
    assert await pair.source.export(DB, ()) == ("kubernetes", True)
    assert await pair.source.unexport(WEB) == ("kubernetes", True)
    pair.parts[1].conflict = True
    with pytest.raises(Conflict):
        await pair.source.unexport(DB)
    with pytest.raises(NotFound, match="kubernetes and vms"):
        await pair.source.export(ServiceName("shop", "nothing"), ())
    assert pair.source.has_namespace("shop") is False


async def test_before_all_is_read_nobody_knows_that_a_service_is_not_there() -> None:
    pair = Pair()
    pair.say(1, {})
    with pytest.raises(Unavailable):
        await pair.source.export(DB, ())


async def test_a_preview_shows_the_whole_service() -> None:
    pair = Pair()
    pair.say(0, {DB: service(DB, "10.0.0.1")})
    pair.say(1, {DB: service(DB, "192.0.2.1")})
    planned = await pair.source.preview(DB, ())
    assert planned.claim is not None
    assert [e.address for e in planned.claim.endpoints] == ["10.0.0.7", "192.0.2.1"]
    planned = await pair.source.preview(DB, None)
    assert planned.claim is not None, "the VM exports it still"
    assert [e.address for e in planned.claim.endpoints] == ["192.0.2.1"]


def test_where_endpoints_were_read() -> None:
    kubernetes, vms = Fake("kubernetes"), Fake("vms")
    kubernetes.say({DB: service(DB, "10.0.0.1", "192.0.2.1")})
    vms.say({}, {DB: service(DB, "192.0.2.1", "192.0.2.2")})
    parts = [Part("kubernetes", kubernetes), Part("vm", vms, lambda name: {"192.0.2.2": "vm db-2"})]
    assert whence(parts, DB) == {"10.0.0.1": "kubernetes", "192.0.2.1": "kubernetes", "192.0.2.2": "vm db-2"}
    assert whence(parts, WEB) == {}
