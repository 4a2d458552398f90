"""Which services a census finds to be others than they were read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from discovery.consul.census import TRIES, Census, Comparison, read_census


def node(name: str, *services: dict[str, Any], address: str = "10.0.0.1") -> dict[str, Any]:
    return {"Node": name, "Address": address, "Meta": None, "Services": list(services), "Checks": [{"CheckID": "x"}]}


def one(service: str, id_: str = "1", index: int = 10, **rest: Any) -> dict[str, Any]:
    return {"ID": id_, "Service": service, "ModifyIndex": index, **rest}


def census(*nodes: dict[str, Any]) -> Census:
    return read_census(msgspec.json.encode(list(nodes)))


WEB = {("n1", "1"): None}.keys()


def test_it_counts_what_is_not_ours_and_no_proxy() -> None:
    found = census(
        node(
            "n1",
            one("web", "1", 10),
            one("web", "2", 12, Meta={"isthmus-managed-by": "somebody"}),
            one("web", "proxy", 99, Kind="connect-proxy"),
            one("web", "ours", 99, Meta={"isthmus-managed-by": "isthmus"}),
        ),
        node("n2", one("web", "1", 11)),
        {"Node": "n3", "Services": None},
    )
    assert found.services["web"].ids == {("n1", "1"), ("n1", "2"), ("n2", "1")}
    assert found.services["web"].newest == 12


@pytest.mark.parametrize(
    ("nodes", "read_at", "differs"),
    [
        ([node("n1", one("web"))], 10, False),
        ([node("n1", one("web"))], 12, False),  # a check has changed since
        ([node("n1", one("web"))], 9, True),  # registered anew since it was read
        ([node("n1", one("web"), one("web", "2"))], 12, True),
        ([node("n1", one("db"))], 12, True),
        ([node("n2", one("web"))], 12, True),
        ([], 12, True),
    ],
)
def test_what_differs_is_read(nodes: list[dict[str, Any]], read_at: int, differs: bool) -> None:
    found = Comparison().differing(census(*nodes), 20, held={"web": WEB}, read_at={"web": read_at})
    assert found == ({"web"} if differs else set())


def test_what_goes_on_to_differ_is_read_a_few_times_and_again_when_it_changes() -> None:
    compare = Comparison()

    def look(index: int, number: int) -> bool:
        now = census(node("n1", one("web"), one("web", "2", number)))
        return bool(compare.differing(now, index, held={"web": WEB}, read_at={"web": 30}))

    assert [look(20 + n, 10) for n in range(TRIES + 2)] == [True] * TRIES + [False] * 2
    assert look(40, 11)


def test_a_node_that_has_moved_concerns_what_is_on_it() -> None:
    compare = Comparison()
    held = {"web": WEB, "db": {("n2", "1"): None}.keys()}
    read_at = {"web": 10, "db": 10}

    def look(address: str) -> set[str]:
        now = census(node("n1", one("web"), address=address), node("n2", one("db")))
        return compare.differing(now, 20, held=held, read_at=read_at)

    assert look("10.0.0.1") == set()
    assert look("10.0.0.9") == {"web"}
    assert look("10.0.0.9") == set()


def test_an_index_that_went_backwards_concerns_all() -> None:
    compare = Comparison()
    now = census(node("n1", one("web")))
    assert compare.differing(now, 20, held={"web": WEB}, read_at={"web": 15}) == set()
    assert compare.differing(now, 12, held={"web": WEB}, read_at={"web": 15}) == {"web"}


@pytest.mark.parametrize("body", [b"{", b'[{"Address": "x"}]', b'[{"Node": "n", "Services": [{}]}]'])
def test_garbage_is_refused(body: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        read_census(body)
