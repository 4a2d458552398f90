"""What one run of a check says, in a line."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.vm.checks.machine import Outcome

MAX_DETAIL = 200


@dataclass(frozen=True, slots=True)
class Result:
    """`detail` is empty where there is nothing to say."""

    outcome: Outcome
    detail: str = ""


def passing() -> Result:
    return Result(Outcome.PASSING)


def critical(detail: str) -> Result:
    return Result(Outcome.CRITICAL, line(detail))


def line(text: str) -> str:
    """The first MAX_DETAIL printable characters of it, on one line."""
    return "".join(c if c.isprintable() else " " for c in text.strip())[:MAX_DETAIL]
