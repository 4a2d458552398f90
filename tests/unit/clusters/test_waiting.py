from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from clusters.waiting import until, until_now
from federation.errors import TimedOut


def third_time() -> Callable[[], str]:
    answers = iter(["", "", "yes", "too late"])
    return lambda: next(answers)


async def test_the_first_true_value() -> None:
    assert await until(third_time()) == "yes"
    assert until_now(third_time()) == "yes"
    ask = third_time()

    async def asked() -> Any:
        return ask()

    assert await until(asked) == "yes"


async def test_what_never_comes_is_named() -> None:
    with pytest.raises(TimedOut, match=r"^spring did not come within 0\.02 s"):
        await until(lambda: False, seconds=0.02, what="spring")
    with pytest.raises(TimedOut, match="waited for"):
        until_now(lambda: None, seconds=0.0)
