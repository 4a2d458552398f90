"""What follows from the registry's refusals: who reports stands back, and a cluster learns that it is no member."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import structlog

from discovery.publishing import NO_MEMBER, STALE_EPOCH
from discovery.report import Report
from discovery.settings import load
from discovery.upstream import Upstream
from federation.aio.clock import FakeClock
from federation.aio.latest import Latest
from federation.catalog.replica import Replica, Sink
from federation.errors import Conflict, Denied, IsthmusError, Unavailable


class FakeElection:
    def __init__(self, epoch: int | None) -> None:
        self.reporting: Latest[int | None] = Latest(epoch)
        self.outbids = 0

    def outbid(self) -> None:
        self.outbids += 1


class Made:
    """An upstream that never connects."""

    def __init__(self, folder: Path, election: FakeElection | None) -> None:
        file = folder / "settings.yaml"
        file.write_text(
            "cluster: east\nfederation: fed.example\nregistry: 127.0.0.1:7400\nfiles: {folder: manifests}\n"
        )
        self.settings = load(file)
        self.no_member = 0
        nothing: Any = None
        self.upstream = Upstream(
            self.settings,
            sink=Sink(Replica()),
            report=Report(cluster="east", epoch=7, network=""),
            epoch=7,
            election=election,
            trusted=nothing,
            renewer=nothing,
            on_changes=lambda _changes: None,
            on_acknowledged=lambda: None,
            on_no_member=self._count,
            on_problems=lambda _problems: None,
            clock=FakeClock(),
            log=structlog.get_logger(),
        )

    def _count(self) -> None:
        self.no_member += 1


STALE = Conflict("there is a newer report", hint="", code=STALE_EPOCH)
STRANGER = Denied("not a member", hint="", code=NO_MEMBER)
AWAY = Unavailable("nobody listens", hint="", code="unreachable")


@pytest.mark.parametrize(
    ("stream", "error", "outbids", "no_member"),
    [
        ("publish", STALE, 1, 0),
        ("publish", STRANGER, 0, 1),
        ("publish", AWAY, 0, 0),
        ("watch", STRANGER, 0, 1),
        ("watch", STALE, 0, 0),
        ("watch", AWAY, 0, 0),
    ],
)
def test_refusals(tmp_path: Path, stream: str, error: IsthmusError, outbids: int, no_member: int) -> None:
    election = FakeElection(7)
    made = Made(tmp_path, election)
    failed = {"publish": made.upstream._publish_failed, "watch": made.upstream._failed}[stream]
    failed(error)
    assert (election.outbids, made.no_member) == (outbids, no_member)


def test_who_is_the_only_one_reports_and_is_not_outbid(tmp_path: Path) -> None:
    alone = Made(tmp_path, None)
    assert alone.upstream.publish.active
    alone.upstream._publish_failed(STALE)
    assert alone.no_member == 0


def test_who_is_not_the_one_that_reports_waits(tmp_path: Path) -> None:
    election = FakeElection(None)
    made = Made(tmp_path, election)
    assert not made.upstream.publish.active
    election.reporting.set(8)
    assert made.upstream.publish.active
