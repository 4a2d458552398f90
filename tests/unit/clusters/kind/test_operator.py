"""What is read of fedctl's answers, and of its refusals."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clusters.command import Done
from clusters.kind import operator as module
from clusters.kind.operator import Operator
from federation.errors import TimedOut, Unavailable

FINDINGS = {"findings": [{"code": "no_inbound", "subject": "edge", "detail": "it is behind NAT"}]}


@pytest.fixture
def fedctl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """An operator for whom `says` makes fedctl answer; `asked`: with what it was called last."""
    seen = SimpleNamespace(operator=Operator(SimpleNamespace(folder=SimpleNamespace(home=tmp_path))), asked=())  # type: ignore[arg-type]

    def says(out: Any = None, *, status: int = 0, err: str = "", error: Exception | None = None) -> None:
        async def attempt(*words: Any, **_: Any) -> Done:
            seen.asked = words
            if error is not None:
                raise error
            return Done(tuple(map(str, words)), status, b"" if out is None else json.dumps(out).encode(), err)

        monkeypatch.setattr(module, "attempt", attempt)

    seen.says = says
    return seen


async def test_it_has_the_home_of_the_harness_and_reads_json(fedctl: Any, tmp_path: Path):
    fedctl.says([{"name": "east"}])
    assert await fedctl.operator.ok("get", "clusters") == [{"name": "east"}]
    assert fedctl.asked[1:] == ("--home", tmp_path, "get", "clusters", "-o", "json")
    fedctl.says(status=6, err="no registry")
    with pytest.raises(Unavailable, match="fedctl get clusters: no registry"):
        await fedctl.operator.ok("get", "clusters")


async def test_a_status_that_is_not_well_is_an_answer(fedctl: Any):
    fedctl.says(FINDINGS, status=6)
    assert await fedctl.operator.status() == FINDINGS["findings"]
    assert await fedctl.operator.finds("no_inbound")
    assert not await fedctl.operator.finds()
    fedctl.says({"findings": []})
    assert await fedctl.operator.finds()


async def test_no_answer_is_neither_well_nor_the_end(fedctl: Any):
    fedctl.says(status=6, err="registry_unreachable")
    assert not await fedctl.operator.finds()
    fedctl.says(error=TimedOut("fedctl status took longer than 90 s"))
    assert await fedctl.operator.codes() == {"timed_out"}


async def test_a_refusal_is_the_error_that_was_printed_last(fedctl: Any):
    error = {"code": "not_found", "message": "no", "hint": "join"}
    fedctl.says(status=5, err=f"a note\n{json.dumps({'error': error})}\n")
    assert await fedctl.operator.refused("link", "east", "west") == error
    fedctl.says({"done": True})
    with pytest.raises(Unavailable, match="fedctl link east west was not refused"):
        await fedctl.operator.refused("link", "east", "west")
