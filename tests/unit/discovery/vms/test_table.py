"""The table on disk: what was acknowledged is there after a kill, what could not be written has not happened."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from discovery.vms import table as tables
from discovery.vms.plans import Invitation, Invited
from discovery.vms.table import SEEN, VMS, VmTable
from federation import log
from federation.aio.clock import FakeClock
from federation.aio.files import write_state
from federation.errors import Denied, IsthmusError, StorageFailed

ASKED = Invited("web-1", "shop", "web")
TOKEN = b"t" * 32


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def open_table(path: Path, clock: FakeClock) -> VmTable:
    return VmTable(path, clock=clock, log=log.get("test"))


def invitation(clock: FakeClock) -> Invitation:
    return Invitation(TOKEN, clock.wall_ns() + 10**9)


async def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path, clock: FakeClock) -> None:
    table = open_table(tmp_path, clock)
    await table.issue(ASKED, invitation(clock))
    await table.redeem("web-1", TOKEN, "sha256:k")
    again = open_table(tmp_path, clock)
    assert again.picture == table.picture
    assert (await again.redeem("web-1", TOKEN, "sha256:k")).key == "sha256:k"
    removed: list[str] = []
    again.listen(removed.append)
    await again.remove("web-1")
    assert removed == ["web-1"]
    with pytest.raises(Denied, match="was removed"):
        await open_table(tmp_path, clock).renew("web-1", "sha256:k")


async def test_of_a_hundred_keys_one_wins(tmp_path: Path, clock: FakeClock) -> None:
    table = open_table(tmp_path, clock)
    await table.issue(ASKED, invitation(clock))
    keys = [f"sha256:{number}" for number in range(100)]
    results = await asyncio.gather(*(table.redeem("web-1", TOKEN, key) for key in keys), return_exceptions=True)
    won = [key for key, result in zip(keys, results, strict=True) if not isinstance(result, BaseException)]
    assert len(won) == 1
    assert {r.error_code for r in results if isinstance(r, IsthmusError)} == {"token_used"}
    assert open_table(tmp_path, clock).vms["web-1"].key == won[0]


async def test_what_cannot_be_written_has_not_happened(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = open_table(tmp_path, clock)
    await table.issue(ASKED, invitation(clock))
    with monkeypatch.context() as patch:
        patch.setattr(tables, "write_state", _full)
        with pytest.raises(StorageFailed):
            await table.redeem("web-1", TOKEN, "sha256:a")
    assert not table.vms["web-1"].joined
    assert (await table.redeem("web-1", TOKEN, "sha256:b")).key == "sha256:b"


def _full(path: Path, data: bytes) -> None:
    raise StorageFailed(f"cannot write {path}: No space left on device")


async def test_who_gives_up_leaves_memory_and_disk_alike(tmp_path: Path, clock: FakeClock) -> None:
    table = open_table(tmp_path, clock)
    await table.issue(ASKED, invitation(clock))
    redeeming = asyncio.create_task(table.redeem("web-1", TOKEN, "sha256:a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    redeeming.cancel()
    await asyncio.wait({redeeming})
    assert open_table(tmp_path, clock).picture == table.picture


def test_a_damaged_table_is_put_aside_and_told(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / VMS).write_bytes(b"isthmus-state 1\nnonsense")
    table = open_table(tmp_path, clock)
    assert not table.vms
    assert table.problem is not None
    assert table.problem.code == "vms_lost"
    assert (tmp_path / f"{VMS}.corrupt").exists()


def test_a_table_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / VMS).mkdir()
    with pytest.raises(StorageFailed):
        open_table(tmp_path, clock)


async def test_sights_are_kept_and_end_with_their_machine(tmp_path: Path, clock: FakeClock) -> None:
    table = open_table(tmp_path, clock)
    touched: list[int] = []
    table.on_seen = lambda: touched.append(1)
    table.seen("web-1", address="192.0.2.1")  # nobody's
    assert not table.sights
    await table.issue(ASKED, invitation(clock))
    table.seen("web-1", address="192.0.2.1", version="0.2")
    table.seen("web-1")
    write_state(tmp_path / SEEN, table.dump_sights())
    again = open_table(tmp_path, clock)
    assert (again.sights["web-1"].address, again.sights["web-1"].version) == ("192.0.2.1", "0.2")
    await again.remove("web-1")
    assert not again.sights
    assert len(touched) == 2
