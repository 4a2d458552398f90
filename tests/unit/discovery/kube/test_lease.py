"""What a replica does about the Lease, as a table; the object as the API has it."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from discovery.kube.lease import Rules, State, decide, read, render
from discovery.kube.types import LeaseObject

RULES = Rules(duration=9.0, renew=2.0)
WALL = 1_000
SINCE = "2023-11-14T08:00:00.000000Z"


def lease(holder: str, *, epoch: int = 10, report_epoch: int = 20, duration: float = 9.0) -> State:
    return State(
        holder=holder,
        epoch=epoch,
        report_epoch=report_epoch,
        duration=duration,
        acquired=SINCE,
        resource_version="5",
        uid="u",
    )


def step(seen: State | None, *, since: float = 0.0, reporting: int | None = None, least: int = 0, wanted: int = 0):
    """What "me" does `since` seconds after the last change."""
    return decide(seen, 100.0, me="me", reporting=reporting, rules=RULES, now=100.0 + since, least=least, wanted=wanted)


def test_a_lease_that_does_not_exist_is_made_with_the_time_of_day_as_its_epochs() -> None:
    made = step(None, least=WALL).write
    assert made is not None
    assert (made.holder, made.epoch, made.report_epoch, made.resource_version) == ("me", WALL, WALL, "")


def test_the_lease_of_another_is_left_alone_until_it_was_silent_for_its_own_duration() -> None:
    assert step(lease("you"), since=8.9).write is None
    assert step(lease("you"), since=0.0).at == 109.0
    assert step(lease("you", duration=30.0), since=9.1).write is None
    taken = step(lease("you"), since=9.0).write
    assert taken is not None
    assert (taken.holder, taken.epoch, taken.report_epoch, taken.transitions) == ("me", 11, 21, 1)
    assert taken.resource_version == "5"  # whoever changes it meanwhile keeps it
    assert taken.acquired == ""


def test_a_lease_that_was_given_back_is_taken_at_once() -> None:
    taken = step(lease("")).write
    assert taken is not None
    assert taken.epoch == 11


def test_the_holder_renews_in_time_and_keeps_both_epochs() -> None:
    assert step(lease("me"), since=1.9, reporting=20).write is None
    kept = step(lease("me"), since=2.0, reporting=20).write
    assert kept == lease("me")


def test_the_holder_that_has_restarted_keeps_the_epoch_of_its_writes_and_reports_with_a_newer_one() -> None:
    again = step(lease("me"), since=0.1).write
    assert again is not None
    assert (again.epoch, again.report_epoch, again.transitions) == (10, 21, 0)


def test_epochs_are_at_least_the_time_of_day_and_never_fall() -> None:
    taken = step(lease(""), least=WALL).write
    assert taken is not None
    assert (taken.epoch, taken.report_epoch) == (WALL, WALL)
    future = step(lease("", epoch=2_000, report_epoch=3_000), least=WALL).write
    assert future is not None
    assert (future.epoch, future.report_epoch) == (2_001, 3_001)


def test_who_is_to_be_heard_takes_the_report_epoch_that_is_wanted_at_once() -> None:
    bid = step(lease("me"), since=0.1, reporting=20, wanted=40).write
    assert bid is not None
    assert (bid.epoch, bid.report_epoch) == (10, 40)


def test_a_lease_survives_the_api_and_one_that_was_edited_is_free() -> None:
    data = msgspec.json.encode(render(lease("me"), namespace="ns", wall_ns=1_700_000_000_123_456_789))
    assert b'"renewTime":"2023-11-14T22:13:20.123457Z"' in data
    assert f'"acquireTime":"{SINCE}"'.encode() in data
    new = msgspec.json.encode(
        render(replace(lease("me"), acquired=""), namespace="ns", wall_ns=1_700_000_000_123_456_789)
    )
    assert b'"acquireTime":"2023-11-14T22:13:20.123457Z"' in new
    assert read(msgspec.json.decode(data, type=LeaseObject)) == lease("me")
    bare = read(
        msgspec.json.decode(
            b'{"metadata":{"name":"isthmus-agent","annotations":{"isthmus.io/epoch":"x"}}}', type=LeaseObject
        )
    )
    assert (bare.holder, bare.epoch, bare.duration) == ("", 0, 0.0)
