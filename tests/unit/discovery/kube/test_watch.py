"""What a Reflector decides: when it lists, where it resumes, what it believes, what it tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from discovery.kube.errors import Forbidden, Gone, NotFound, ServerFailed, TooMany, Unreachable, translate
from discovery.kube.resources import NAMESPACES, Resource, service_exports
from discovery.kube.watch import older
from federation.errors import IsthmusError

AWAY = Unreachable("away")


async def test_lists_once_and_follows(follow: Any, thing: Any, event: Any) -> None:
    seen = await follow(
        [([thing("a", 1), thing("b", 2)], 10)],
        [
            [
                event("ADDED", thing("c", 11)),
                event("MODIFIED", thing("a", 12)),
                event("DELETED", thing("b", 13)),
                event("BOOKMARK", thing("", 20)),
            ]
        ],
    )
    assert seen.names == {"a", "c"}
    assert seen.store.objects["", "a"].resource_version == "12"
    assert seen.changes == [{"a", "b"}, {"c"}, {"a"}, {"b"}]
    assert seen.script.asked == ["list", "watch 10", "watch 20"]
    assert seen.reflector.synced.value
    assert seen.problems == []


async def test_pages_are_one_list(follow: Any, thing: Any) -> None:
    seen = await follow([([[thing("a", 1)], [thing("b", 2)], []], 10)], [])
    assert seen.changes == [{"a", "b"}]


@pytest.mark.parametrize(
    ("ending", "asked"),
    [
        pytest.param([], ["list", "watch 10", "watch 12"], id="the server ends it"),
        pytest.param([AWAY], ["list", "watch 10", "watch 12"], id="it is cut"),
        pytest.param([ServerFailed("500")], ["list", "watch 10", "watch 12"], id="the server fails"),
        pytest.param([b"{ no json"], ["list", "watch 10", "watch 12"], id="nonsense"),
        pytest.param([b'{"type":"ADDED"}'], ["list", "watch 10", "watch 12"], id="an event of nothing"),
        pytest.param([b'{"type":"DELETED","object":{}}'], ["list", "watch 10", "watch 12"], id="nobody is deleted"),
        pytest.param(
            [b'{"type":"ERROR","object":{"kind":"Status","code":500,"message":"etcdserver: no leader"}}'],
            ["list", "watch 10", "watch 12"],
            id="an error that passes",
        ),
        pytest.param([Gone("old")], ["list", "watch 10", "list", "watch 30"], id="410"),
        pytest.param(
            [b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}'],
            ["list", "watch 10", "list", "watch 30"],
            id="410 as an event",
        ),
        pytest.param(
            [b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"3"}}}'],
            ["list", "watch 10", "list", "watch 30"],
            id="the server is of another history",
        ),
    ],
)
async def test_resumes_and_lists_again_only_when_it_must(
    follow: Any, thing: Any, event: Any, ending: list[Any], asked: list[str]
) -> None:
    seen = await follow([([thing("a", 1)], 10), ([thing("a", 1)], 30)], [[event("ADDED", thing("b", 12)), *ending]])
    assert seen.script.asked == asked
    assert seen.names == ({"a", "b"} if "watch 12" in asked else {"a"})
    assert seen.problems == []


async def test_a_relist_is_jittered(followed: Callable[..., Any], thing: Any) -> None:
    seen = followed([([thing("a", 1)], 10), ([thing("a", 1)], 30)], [Gone("old")])
    await seen.run()
    assert len(seen.clock.slept) == 1
    assert 0.1 <= seen.clock.slept[0] <= 2.0


@pytest.mark.parametrize(
    ("failures", "told"),
    [
        ([AWAY], []),
        ([AWAY, AWAY], ["kube_unreachable", None]),
        ([AWAY, AWAY, AWAY], ["kube_unreachable", None]),
        ([Forbidden("no")], ["kube_forbidden", None]),
        ([TooMany("busy", retry_after=7.0)], []),
    ],
)
async def test_a_problem_is_told_once_and_ends(
    follow: Any, thing: Any, failures: list[IsthmusError], told: list[str | None]
) -> None:
    seen = await follow([([thing("a", 1)], 10)], [*failures, []])
    assert seen.problems == told
    assert seen.names == {"a"}
    assert seen.script.asked[0] == "list"
    assert set(seen.script.asked[1:]) == {"watch 10"}


async def test_delays_grow_are_capped_and_obey_the_server(follow: Any, thing: Any) -> None:
    seen = await follow([([thing("a", 1)], 10)], [*[AWAY] * 20, TooMany("busy", retry_after=30.0)])
    assert max(seen.clock.slept[:20]) <= 5.0
    assert max(seen.clock.slept[10:20]) > 1.0
    assert seen.clock.slept[20] == 30.0


async def test_what_cannot_be_listed_at_the_start_is_told_at_once(follow: Any, thing: Any) -> None:
    seen = await follow([AWAY, ([thing("a", 1)], 10)], [])
    assert seen.problems == ["kube_unreachable", None]
    assert seen.reflector.synced.value


async def test_a_list_that_breaks_deletes_nothing(follow: Any, thing: Any) -> None:
    held = [thing(f"n{i}", 1) for i in range(5)]
    seen = await follow(
        [([[thing("n0", 1)], AWAY], 10), ([[thing("n0", 1)], *[[h] for h in held[1:]]], 11)], [], held=held
    )
    assert len(seen.names) == 5
    assert seen.changes == []


@pytest.mark.parametrize(
    ("held", "first", "second", "left", "lists"),
    [
        pytest.param(30, 0, 30, 30, 2, id="an empty list that was wrong"),
        pytest.param(30, 0, 0, 0, 2, id="an empty list that was right"),
        pytest.param(30, 14, 14, 14, 2, id="more than half is missing"),
        pytest.param(30, 15, 0, 15, 1, id="half is missing"),
        pytest.param(10, 1, 10, 1, 1, id="few are believed"),
        pytest.param(1, 0, 1, 1, 2, id="but not none at all"),
        pytest.param(0, 0, 9, 0, 1, id="nothing was known"),
    ],
)
async def test_no_deletion_because_a_read_came_back_empty(
    follow: Any, thing: Any, held: int, first: int, second: int, left: int, lists: int
) -> None:
    some = [thing(f"n{i}", 1) for i in range(30)]
    seen = await follow([(some[:first], 10), (some[:second], 11)], [], held=some[:held])
    assert len(seen.names) == left
    assert seen.script.asked == [*["list"] * lists, f"watch {9 + lists}"]
    assert seen.problems == (["removal_held", None] if lists == 2 else [])
    assert len(seen.changes) == (left != held), "told once, and only of the list that is believed"


async def test_the_older_never_applies(follow: Any, thing: Any, event: Any) -> None:
    seen = await follow(
        [([thing("a", 9)], 10)],
        [
            [
                event("MODIFIED", thing("a", 7, uid="old")),
                event("DELETED", thing("a", 8)),
                event("ADDED", thing("b", 11)),
            ]
        ],
    )
    assert seen.store.objects["", "a"].metadata.uid == ""
    assert seen.script.asked[-1] == "watch 11"


async def test_an_answer_to_a_write_is_not_undone_by_a_watch_that_is_behind(followed: Any, thing: Any) -> None:
    from msgspec import convert

    from discovery.kube.types import Namespace

    seen = followed([], [], held=[thing("a", 9)])
    seen.store.put(convert(thing("a", 12), Namespace))
    seen.store.put(convert(thing("a", 11), Namespace))
    assert seen.store.objects["", "a"].resource_version == "12"
    assert seen.changes == [{"a"}]


@pytest.mark.parametrize(
    ("version", "than", "expected"),
    [
        ("9", "10", True),
        ("10", "10", False),
        ("11", "10", False),
        ("", "10", False),
        ("x", "10", False),
        ("9", "", False),
    ],
)
def test_versions_are_numbers(version: str, than: str, expected: bool) -> None:
    assert older(version, than) is expected


async def test_an_object_that_cannot_be_read_counts_as_it_was(follow: Any, thing: Any, event: Any) -> None:
    bad = thing("a", 11, labels=[1])
    seen = await follow([([bad, thing("b", 2)], 10)], [[event("MODIFIED", bad)]], held=[thing("a", 1)])
    assert seen.names == {"a", "b"}
    assert seen.store.objects["", "a"].resource_version == "1"
    assert seen.problems == ["object_unreadable"]
    assert "/a: " in str(seen.reflector.problem.value)

    seen = await follow([([bad], 10)], [[event("MODIFIED", thing("a", 12))], []], held=[thing("a", 1)])
    assert seen.store.objects["", "a"].resource_version == "12"
    assert seen.problems == ["object_unreadable", None]


async def test_the_version_that_is_served_is_asked_for_before_each_list(follow: Any, thing: Any) -> None:
    answers: list[Resource | IsthmusError] = [
        NotFound("no CRD", code="crds_missing", kind_missing=True),
        service_exports("v1alpha1"),
        service_exports("v1beta1"),
    ]

    async def resolve() -> Resource:
        answer = answers.pop(0)
        if isinstance(answer, IsthmusError):
            raise answer
        return answer

    gone = translate(404, b"404 page not found", verb="watch", resource=NAMESPACES, what="watch")
    seen = await follow([([thing("a", 1)], 10), ([thing("a", 1)], 11)], [gone], resolve=resolve)
    assert seen.reflector.resource.version == "v1beta1"
    assert seen.problems == ["crds_missing", None, "kube_not_found", None]
    assert seen.names == {"a"}


async def test_one_list_at_a_time(followed: Any, thing: Any) -> None:
    one = asyncio.Semaphore(1)
    first = followed([([[thing("a", 1)]] * 5, 10)], [], semaphore=one)
    others = [followed([([[thing("a", 1)]] * 5, 10)], [], semaphore=one) for _ in range(3)]
    for other in others:
        other.script.pages = first.script.pages  # all count in one place
        first.script.lists += other.script.lists
    await asyncio.gather(first.run(), *(other.run() for other in others))
    assert first.script.most_listing == 1
