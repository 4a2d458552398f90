"""Records become a view; what cannot be decoded keeps what was held, and is reported."""

from __future__ import annotations

import pytest

from federation import log
from federation.aio.clock import FakeClock
from federation.model.cluster import Bundle, Peer
from federation.model.ids import ServiceName
from federation.model.record import Key, Kind, Record, Version
from federation.model.service import Export, Import, Port
from federation.model.wire import encode_export, encode_import, encode_peer
from federation.registry.edge.problems import MAX_PROBLEMS, Problems
from federation.registry.edge.views import Views

ECHO = ServiceName("shop", "echo")


@pytest.fixture
def problems() -> Problems:
    return Problems(clock=FakeClock(), log=log.get("test"), on_change=lambda: None)


@pytest.fixture
def views(problems: Problems) -> Views:
    return Views(cluster="west", problems=problems)


def record(kind: Kind, name: str, payload: bytes | None) -> Record:
    return Record(Key("west", kind, name), Version(1, 1), payload)


IMPORTED = record(Kind.IMPORT, "shop/echo", encode_import(Import(name=ECHO, ports=(Port(port=80),))))
EXPORTED = record(Kind.EXPORT, "shop/echo", encode_export(Export(name=ECHO)))
PEER = Peer(
    cluster="west", trust_domain="west.test", own=True, bundle=Bundle(trust_domain="west.test", sequence=1, roots=())
)


def test_records_become_a_view_that_never_changes(views: Views) -> None:
    before = views.view
    assert views.put([IMPORTED, EXPORTED, record(Kind.PEER, "west", encode_peer(PEER))]) == {ECHO}
    assert not before.imports
    assert views.view.imports[ECHO].ports == (Port(port=80),)
    assert views.view.exports.keys() == {ECHO}
    assert views.view.own == PEER
    assert views.take_changed() == {ECHO}
    assert views.take_changed() == set()


def test_deletions_tell_which_imports_went(views: Views) -> None:
    views.put([IMPORTED, EXPORTED])
    views.take_changed()
    assert views.delete([EXPORTED.key]) == set()
    assert views.take_changed() == {ECHO}
    assert views.delete([IMPORTED.key]) == {ECHO}
    assert views.delete([IMPORTED.key]) == set()
    assert views.find(ECHO) is None


def test_a_malformed_record_keeps_the_last_good_and_is_reported_until_it_is_whole(
    views: Views, problems: Problems
) -> None:
    views.put([IMPORTED])
    assert views.put([record(Kind.IMPORT, "shop/echo", b"\xff\xff")]) == set()
    assert views.find(ECHO) is not None
    assert [(p.code, p.subject) for p in problems.all()] == [("record_malformed", "import shop/echo")]
    views.put([IMPORTED])
    assert problems.all() == ()


def test_problems_keep_when_they_began_and_are_bounded() -> None:
    clock = FakeClock()
    changes: list[None] = []
    problems = Problems(clock=clock, log=log.get("test"), on_change=lambda: changes.append(None))
    problems.set("xds_nack", "listener a", "refused")
    began = problems.all()[0].since_ns
    clock.advance(5)
    problems.set("xds_nack", "listener a", "refused")
    assert len(changes) == 1
    problems.replace("xds_nack", {"listener a": "refused again", "listener b": "too"})
    assert [p.since_ns == began for p in problems.all()] == [True, False]
    problems.set("port_clash", "shop/echo", "x" * 10_000)
    problems.replace("xds_nack", {})
    assert [p.code for p in problems.all()] == ["port_clash"]
    assert len(problems.all()[0].detail) == 500
    problems.replace("xds_nack", {str(i): "x" for i in range(100)})
    assert len(problems.all()) == MAX_PROBLEMS


def test_exports_are_decoded_when_they_are_looked_at(views: Views, problems: Problems) -> None:
    views.put([EXPORTED])
    before = views.view
    assert before.exports[ECHO] == Export(name=ECHO)
    assert list(before.exports.values()) == [Export(name=ECHO)]
    assert before.exports.get(ServiceName("shop", "other")) is None
    views.put([record(Kind.EXPORT, "shop/echo", b"\xff\xff")])
    assert views.view.exports[ECHO] == Export(name=ECHO)
    assert [p.code for p in problems.all()] == ["record_malformed"]
    views.put([record(Kind.EXPORT, "shop/echo", encode_export(Export(name=ECHO, ports=(Port(port=80),))))])
    assert views.view.exports[ECHO].ports == (Port(port=80),)
    assert before.exports[ECHO].ports == ()
