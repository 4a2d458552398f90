"""Consul's lists in any order: the claim does not depend on it, and nothing goes on the word of a list in doubt."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from discovery.consul.belief import doubt, is_whole
from discovery.consul.blocking import BURST, REFILL, Blocking
from discovery.consul.client import Meta
from discovery.consul.exports import Context, Exports
from discovery.consul.types import Entry
from federation.model.ids import ServiceName

NAME = ServiceName("shop", "web")
numbers = st.integers(1, 30)


def entry(number: int, *, port: int = 80, status: str = "passing") -> Entry:
    tree: dict[str, Any] = {
        "Node": {"Node": f"n{number % 7}", "Address": f"10.0.0.{number % 7 + 1}"},
        "Service": {"ID": f"web-{number}", "Service": "web", "Port": port, "Meta": {"isthmus-export": "true"}},
        "Checks": [{"CheckID": "up", "Status": status}],
    }
    return msgspec.convert(tree, Entry)


entries = st.builds(
    entry, numbers, port=st.sampled_from([80, 81, 82]), status=st.sampled_from(["passing", "warning", "critical"])
)
unique = st.lists(entries, max_size=12, unique_by=lambda e: (e.node.node, e.service.id))


def claims(*lists: list[Entry]) -> Any:
    exports = Exports(Context(namespaces={"dc1": "shop"}))
    for now, one in enumerate(lists):
        exports.health(("dc1", "web"), one, {}, whole=True, now=float(now))
        exports.build(exports.take_dirty(), wall_ns=1)
    return exports.claims.get(NAME)


@given(found=unique, data=st.data())
def test_the_order_of_a_list_does_not_matter(found: list[Entry], data: st.DataObject) -> None:
    assert claims(found) == claims(data.draw(st.permutations(found)))


metas = st.builds(
    Meta,
    index=st.integers(0, 100),
    known_leader=st.booleans(),
    last_contact=st.sampled_from([0.0, 1.0, 60.0]),
    filtered=st.booleans(),
    streamed=st.booleans(),
)


@given(first=unique.filter(bool), later=st.lists(st.tuples(unique, metas), max_size=10), stale=st.booleans())
def test_no_instance_goes_on_the_word_of_a_list_in_doubt(
    first: list[Entry], later: list[tuple[list[Entry], Meta]], stale: bool
) -> None:
    exports = Exports(Context(namespaces={"dc1": "shop"}))
    key = ("dc1", "web")
    exports.health(key, first, {}, whole=True, now=0.0)
    whole: set[tuple[str, str]] = set(exports.instances[key])
    for now, (found, meta) in enumerate(later, 1):
        if doubt(meta, stale=stale, max_stale=5.0) is not None:
            continue
        before = set(exports.instances[key])
        exports.health(key, found, {}, whole=is_whole(meta, anonymous=False), now=float(now))
        there = {(e.node.node, e.service.id) for e in found}
        after = set(exports.instances[key])
        assert there <= after
        if not is_whole(meta, anonymous=False):
            assert before <= after
        whole = after
    assert whole == set(exports.instances[key])


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 50), st.booleans(), st.sampled_from(["answer", "unbelieved"])),
        min_size=20,
        max_size=200,
    )
)
def test_a_watch_never_asks_with_an_index_that_it_was_not_given(steps: list[tuple[int, bool, str]]) -> None:
    blocking, now = Blocking(now=0.0), 0.0
    given_: set[int] = {0, 1}
    idle = 0
    for index, changed, kind in steps:
        ask = blocking.next()
        assert ask.index in given_
        now = max(now, ask.at)
        blocking.asked(now=now)
        if kind == "unbelieved":
            blocking.unbelieved(now=now)
            assert blocking.index == 0
        else:
            last = blocking.index
            back = blocking.answered(index, changed=changed, now=now)
            given_.add(index)
            assert back is (0 < index < last)
            assert blocking.index == (0 if back else max(index, 1))
        idle += kind == "unbelieved" or not changed
    earned = 2 * (len(steps) - idle)
    assert idle <= BURST + earned + now * REFILL + 1
