"""What is exported, as lists come in: nothing goes because a list is not whole, and no crowd goes at once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from discovery.consul.exports import FORGET_NS, Context, Exports, Key
from discovery.consul.rules import Rule, Rules
from discovery.consul.types import Entry
from federation.model.ids import ServiceName
from federation.model.service import Service

EXPORT = {"isthmus-export": "true"}


def entry(number: int, name: str = "web", *, node: str = "", status: str = "passing", **service: Any) -> Entry:
    tree = {
        "Node": {"Node": node or f"n{number}", "Address": f"10.0.1.{number}"},
        "Service": {"ID": f"{name}-{number}", "Service": name, "Port": 80, "Meta": EXPORT, "CreateIndex": 1, **service},
        "Checks": [{"CheckID": "up", "Status": status}],
    }
    return msgspec.convert(tree, Entry)


class Made:
    """Exports of dc1 (namespace shop) and dc2 (namespace lab)."""

    def __init__(self, **context: Any) -> None:
        self.exports = Exports(Context(namespaces={"dc1": "shop", "dc2": "lab"}, **context))
        self.now = 0.0

    def health(self, *entries: Entry, name: str = "web", dc: str = "dc1", whole: bool = True, **bad: Any) -> bool:
        return self.exports.health((dc, name), entries, bad.get("unreadable", {}), whole=whole, now=self.now)

    def built(self, wall_ns: int = 5) -> frozenset[ServiceName]:
        return self.exports.build(self.exports.take_dirty(), wall_ns=wall_ns)

    def claim(self, name: str = "web", namespace: str = "shop") -> Service:
        self.built()
        found: Service = self.exports.claims[ServiceName(namespace, name)]
        return found

    def names(self) -> list[str]:
        self.built()
        return sorted(map(str, self.exports.claims))

    def codes(self) -> list[str]:
        self.built()
        return [p.code for p in self.exports.problems()]


def test_a_list_without_news_changes_nothing() -> None:
    made = Made()
    assert made.health(entry(1), entry(2))
    claim = made.claim()
    assert not made.health(entry(2), entry(1))
    assert made.built() == frozenset()
    assert made.claim() is claim


def test_one_change_leaves_the_other_endpoints_as_they_are() -> None:
    made = Made()
    made.health(entry(1), entry(2))
    before = made.claim()
    assert made.health(entry(1), entry(2, status="critical"))
    after = made.claim()
    assert after.endpoints[0] is before.endpoints[0]
    assert after.ready == 1


@pytest.mark.parametrize("unreadable", [False, True])
def test_what_is_missing_from_a_list_that_is_not_whole_stays(unreadable: bool) -> None:
    made = Made()
    made.health(entry(1), entry(2))
    bad = {("n2", "web-2"): "garbage"} if unreadable else {}
    made.health(entry(1), whole=unreadable, unreadable=bad)
    assert len(made.claim().endpoints) == 2
    assert made.codes() == (["consul_unreadable"] if unreadable else [])


def test_the_last_instance_goes_when_a_second_look_finds_the_same() -> None:
    made = Made()
    made.health(entry(1))
    made.claim()
    made.health()
    assert made.names() == ["shop/web"]
    assert made.codes() == ["removal_held"]
    assert made.exports.due("dc1") == 2.0
    assert made.exports.held("dc1") == {"web"}
    made.now = 1.0
    made.health()
    assert not made.exports.confirm("dc1", made.exports.held("dc1"), now=1.0)
    made.now = 2.5
    made.health()
    assert made.exports.confirm("dc1", made.exports.held("dc1"), now=2.5)
    assert made.names() == []
    assert made.codes() == []
    assert made.exports.due("dc1") is None


def test_few_of_many_go_at_once_and_a_crowd_does_not() -> None:
    made = Made()
    made.health(*(entry(n) for n in range(1, 101)))
    made.health(*(entry(n) for n in range(3, 101)))
    assert len(made.claim().endpoints) == 98
    made.now = 10.0
    made.health(*(entry(n) for n in range(50, 101)))
    assert len(made.claim().endpoints) == 98
    assert made.exports.due("dc1") == 12.0
    made.health(*(entry(n) for n in range(3, 101)))  # a server that was behind: all are there
    assert made.exports.due("dc1") is None
    assert made.codes() == []


def test_a_crowd_is_counted_over_all_services() -> None:
    made = Made()
    for number in range(1, 41):
        made.health(entry(number, f"s{number}"), name=f"s{number}")
    for number in range(1, 21):  # restored from an old snapshot: one after another goes
        made.health(name=f"s{number}")
    assert len(made.names()) >= 32
    assert made.exports.due("dc1") is not None
    made.health(entry(50, "other"), name="other", dc="dc2")
    assert made.exports.due("dc2") is None


def test_what_an_incomplete_list_says_afterwards_does_not_bring_the_missing_back_to_life() -> None:
    made = Made()
    made.health(entry(1))
    made.health()
    due = made.exports.due("dc1")
    made.health(whole=False)
    assert made.exports.due("dc1") == due


# --- which services are read ---


def test_which_services_are_read() -> None:
    made = Made(tag="public")
    made.exports.catalog("dc1", {"a": ["public"], "b": [], "c": [], "d": []}, filtered=False)
    made.exports.catalog("dc2", {"b": []}, filtered=False)
    made.exports.flagged("dc1", {"b"}, filtered=False)
    made.exports.rule(Rules((Rule(service="c*", datacenter="dc1"),), (1,)))
    assert made.exports.wanted("dc1") == {"a", "b", "c"}
    assert made.exports.wanted("dc2") == set()


def test_an_export_is_read_on_until_its_own_list_says_that_it_is_gone() -> None:
    made = Made()
    made.exports.catalog("dc1", {"web": []}, filtered=False)
    made.exports.flagged("dc1", {"web"}, filtered=False)
    made.health(entry(1))
    made.built()
    made.exports.flagged("dc1", set(), filtered=False)
    made.exports.catalog("dc1", {}, filtered=False)
    assert made.exports.wanted("dc1") == {"web"}
    assert made.names() == ["shop/web"]
    made.health(entry(1, Meta={}))
    assert made.names() == []
    assert made.exports.ended == {"dc1"}
    assert made.exports.wanted("dc1") == set()
    made.exports.drop(("dc1", "web"))
    assert made.exports.instances == {}


def test_names_that_a_filtered_catalog_lacks_stay() -> None:
    made = Made()
    made.exports.catalog("dc1", {"web": [], "Not_A_Label": []}, filtered=False)
    assert set(made.exports.names) == {ServiceName("shop", "web")}
    assert not made.exports.catalog("dc1", {}, filtered=True)
    assert set(made.exports.names) == {ServiceName("shop", "web")}
    assert made.exports.catalog("dc1", {}, filtered=False)
    assert not made.exports.names


# --- names ---


def test_a_name_that_is_no_label_is_refused_by_name() -> None:
    made = Made()
    made.health(entry(1, "Web_1"), name="Web_1")
    assert made.names() == []
    (problem,) = made.exports.problems()
    assert problem.code == "consul_name"
    assert problem.subject == "Consul dc1/Web_1"
    assert "'Web_1' is no DNS label" in problem.detail
    made.exports.rule(Rules((Rule(service="Web_1", name="web-one"),), (1,)))
    assert made.names() == ["shop/web-one"]
    assert made.codes() == []


def test_two_services_of_one_name() -> None:
    made = Made()
    made.exports.rule(Rules((Rule(service="*", name="web", namespace="shop"),), (1,)))
    made.health(entry(1, "b"), name="b", dc="dc2")
    made.health(entry(2, "a"), name="a")
    assert made.names() == ["shop/web"]
    assert made.claim().endpoints[0].address == "10.0.1.2"
    (problem,) = made.exports.problems()
    assert (problem.code, problem.subject) == ("duplicate_name", "Consul dc2/b")
    made.exports.rule(Rules((Rule(service="b", name="web", namespace="shop"),), (1,)))
    assert "shop/web" in made.names()
    assert made.claim().endpoints[0].address == "10.0.1.1"


def test_a_rule_for_a_service_that_is_not_there() -> None:
    made = Made()
    made.exports.catalog("dc1", {"web": []}, filtered=False)
    made.exports.rule(Rules((Rule(service="db", datacenter="dc1"), Rule(service="d*")), (3, 4)))
    (problem,) = made.exports.problems()
    assert (problem.code, problem.subject) == ("no_service", "Consul dc1/db")
    assert "line 3" in problem.detail


# --- what stays ---


def test_when_it_was_exported_stays_also_over_a_gap() -> None:
    made = Made()
    made.health(entry(1))
    made.built(wall_ns=100)
    made.health(entry(1, Meta={}))
    made.built(wall_ns=200)
    key: Key = ("dc1", "web")
    assert made.exports.memory[key].ended_ns == 200
    made.health(entry(1, Port=81))
    made.built(wall_ns=300)
    assert made.claim().exported_at_ns == 100
    assert made.exports.memory[key].ended_ns == 0


def test_proxies_of_the_mesh_are_no_instances() -> None:
    made = Made()
    made.health(entry(1), entry(2, Kind="connect-proxy"))
    assert len(made.claim().endpoints) == 1


def test_many_bad_instances_are_one_problem() -> None:
    made = Made()
    made.health(entry(1), *(entry(n, Address="a.name") for n in range(2, 60)))
    made.built()
    (problem,) = made.exports.problems()
    assert problem.code == "consul_address"
    assert problem.subject.startswith("Consul dc1/web, instance n")
    assert "(and 57 more instances)" in problem.detail


def test_exports_that_ended_are_forgotten_after_a_day() -> None:
    made = Made()
    made.health(entry(0, "stays"), name="stays")
    hour = FORGET_NS // 24
    for number in range(100):
        name, made.now = f"job-{number}", made.now + 10
        made.health(entry(1, name), name=name)
        made.built(number * hour + 1)
        made.health(name=name)
        made.built(number * hour + 2)
    ended = {key for key, memory in made.exports.memory.items() if memory.ended_ns}
    assert ended == {("dc1", f"job-{number}") for number in range(76, 100)}
    assert made.exports.memory["dc1", "stays"].ended_ns == 0
