"""The last view on disk: written soon, not too often, and a full disk is told and survived."""

from __future__ import annotations

import asyncio
from pathlib import Path

from clusters.waiting import until
from federation.aio.clock import FakeClock
from federation.aio.files import read_state
from federation.aio.saver import Saver
from federation.aio.tasks import cancel
from federation.errors import IsthmusError

PAUSE = 5.0


async def test_what_changed_is_written_with_pauses(tmp_path: Path) -> None:
    clock, state = FakeClock(), [b"one"]
    told: list[IsthmusError | None] = []
    saver = Saver(tmp_path / "view", lambda: state[0], interval=PAUSE, clock=clock, on_result=told.append)
    task = asyncio.create_task(saver.run(), name="saver")
    saver.touch()
    # Told in the turn in which the pause begins; the file is there before that.
    await until(lambda: told == [None], what="the first write")
    assert read_state(tmp_path / "view") == b"one"
    state[0] = b"two"
    saver.touch()
    for _ in range(20):
        await asyncio.sleep(0)
    assert read_state(tmp_path / "view") == b"one"
    clock.advance(PAUSE)
    await until(lambda: told == [None, None], what="the second write")
    assert read_state(tmp_path / "view") == b"two"
    state[0] = b"three"
    await saver.flush()  # nothing was said to have changed
    assert read_state(tmp_path / "view") == b"two"
    saver.touch()
    await saver.flush()
    assert read_state(tmp_path / "view") == b"three"
    await cancel(task)


async def test_a_disk_that_refuses_is_told_and_tried_again(tmp_path: Path) -> None:
    told: list[IsthmusError | None] = []
    saver = Saver(tmp_path / "missing" / "view", lambda: b"x", interval=PAUSE, clock=FakeClock(), on_result=told.append)
    saver.touch()
    await saver.flush()
    assert told[0] is not None
    (tmp_path / "missing").mkdir()
    await saver.flush()
    assert told[1] is None
    assert read_state(tmp_path / "missing" / "view") == b"x"
