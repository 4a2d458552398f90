"""Tests of one topology run together; where clusters cannot be had a test says so, or fails where they have to be."""

from __future__ import annotations

from typing import Any

import pytest

from clusters.pytest_plugin import NOT_HERE, Pool, grouped, required
from federation.errors import IsthmusError, NotFound, Unavailable


class Item:
    def __init__(self, name: str, topology: str = "", **says: bool) -> None:
        self.name = name
        self._mark = pytest.mark.clusters(topology, **says).mark if topology else None

    def get_closest_marker(self, name: str) -> Any:
        return self._mark if name == "clusters" else None


def test_order() -> None:
    items: list[Any] = [
        Item("z", "two-kind", installed=True, spent=True),
        Item("h", "two-kind", installed=True, anew=True),
        Item("i", "two-kind", anew=True),
        Item("a", "two-kind", installed=True),
        Item("b"),
        Item("c", "nat-kind"),
        Item("d", "two-kind"),
        Item("e"),
        Item("f", "two-kind", installed=True),
        Item("g", "nat-kind", installed=True),
    ]
    assert "".join(item.name for item in grouped(items)) == "bediafhzcg"


@pytest.mark.parametrize(
    ("environ", "is_required"),
    [
        ({}, False),
        ({"CI": "true"}, True),
        ({"ISTHMUS_KIND_REQUIRED": "1"}, True),
        ({"ISTHMUS_KIND_REQUIRED": "0"}, False),
    ],
)
def test_required(environ: dict[str, str], is_required: bool) -> None:
    assert required(environ) is is_required


@pytest.mark.parametrize(
    ("code", "is_required", "expected"),
    [
        ("docker_down", "", pytest.skip.Exception),
        ("docker_down", "1", pytest.fail.Exception),
        ("no_disk", "", pytest.fail.Exception),
    ],
)
def test_where_they_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, code: str, is_required: str, expected: Any, request: pytest.FixtureRequest
) -> None:
    def take(_pool: Pool, _name: str, *, installed: bool) -> Any:
        raise Unavailable("it is not there", hint="start it", code=code)

    monkeypatch.setattr(Pool, "take", take)
    monkeypatch.setenv("ISTHMUS_KIND_REQUIRED", is_required)
    monkeypatch.delenv("CI", raising=False)
    request.node.add_marker(pytest.mark.clusters("two-kind"))
    with pytest.raises(expected, match="it is not there"):
        request.getfixturevalue("clusters")


def test_a_refusal_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def complete(work: Any) -> Any:
        work.close()
        asked.append(work.__name__)
        if work.__name__ == "up":
            raise NotFound("no image", code="kind_image_missing")

    monkeypatch.setattr("clusters.pytest_plugin.complete", complete)
    pool = Pool("p", None, keep=True)
    for _ in range(3):
        with pytest.raises(IsthmusError, match="no image") as caught:
            pool.take("two-kind", installed=False)
        assert caught.value.error_code in NOT_HERE
    assert asked == ["up"]
    pool.close()


def test_what_stands_is_looked_at_when_it_may_be_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def complete(work: Any) -> None:
        work.close()
        asked.append(work.__name__)

    monkeypatch.setattr("clusters.pytest_plugin.complete", complete)
    pool = Pool("p", None, keep=False)
    for installed in (False, False, True, True, False):
        pool.take("two-kind", installed=installed)
    assert asked == ["sweep", "up", "up"]
    pool.doubt()
    pool.take("two-kind", installed=True)
    assert asked[3:] == ["up"]
    pool.take("nat-kind", installed=False)
    assert asked[4:] == ["down", "sweep", "up"]
    pool.close()
    assert asked[7:] == ["down"]


@pytest.mark.parametrize("keep", [False, True])
def test_clusters_that_nobody_can_go_on_with_go(monkeypatch: pytest.MonkeyPatch, keep: bool) -> None:
    asked: list[str] = []

    def complete(work: Any) -> None:
        work.close()
        asked.append(work.__name__)

    monkeypatch.setattr("clusters.pytest_plugin.complete", complete)
    pool = Pool("p", None, keep=keep)
    pool.take("two-kind", installed=True)
    pool.spend()
    assert asked[-2:] == ["up", "down"]
    pool.take("two-kind", installed=True)
    assert asked[-1] == "up"
    pool.close()
    assert asked[-1] == ("up" if keep else "down")
