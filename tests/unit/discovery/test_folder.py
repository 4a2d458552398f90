"""The state folder: one agent at a time, what must be there, what is saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from discovery.folder import PORTS, StateFolder
from discovery.join import KEYS, REGISTRY_BUNDLE
from federation import log
from federation.aio.clock import FakeClock
from federation.aio.files import write_state
from federation.errors import Conflict, CorruptState, IsthmusError, NotFound


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / KEYS).mkdir()
    return tmp_path


def folder(path: Path) -> StateFolder:
    return StateFolder(path, clock=FakeClock(), log=log.get("test"))


def test_one_agent_at_a_time(path: Path) -> None:
    first = folder(path)
    with pytest.raises(Conflict) as caught:
        folder(path)
    assert caught.value.error_code == "state_directory_in_use"
    first.close()
    folder(path).close()


def test_a_folder_in_which_no_cluster_has_joined(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        folder(tmp_path)
    assert (caught.value.error_code, caught.value.hint) == ("not_joined", "run: fedctl cluster join")


@pytest.mark.parametrize(("data", "error"), [(None, NotFound), (b"\xff\xff", CorruptState)])
def test_without_the_bundle_of_the_registry_it_cannot_be_proven(
    path: Path, data: bytes | None, error: type[IsthmusError]
) -> None:
    if data is not None:
        write_state(path / REGISTRY_BUNDLE, data)
    held = folder(path)
    with pytest.raises(error, match="bundle") as caught:
        held.registry_bundle()
    assert caught.value.hint == "join again in a new directory"
    held.close()


async def test_what_was_touched_is_saved_and_loaded(path: Path) -> None:
    held, problems = folder(path), 0

    def told() -> None:
        nonlocal problems
        problems += 1

    held.keep({"a.state": lambda: b"a", "b.state": lambda: b"b"}, interval=lambda _: 1.0, on_problem=told)
    assert held.load("a.state", bytes) is None
    held.touch("a.state")
    await held.flush()
    assert held.load("a.state", bytes) == b"a"
    assert held.load("b.state", bytes) is None
    assert list(held.problems()) == []
    (path / "b.state").mkdir()  # nothing can be written there
    held.touch("b.state")
    await held.flush()
    assert [p.subject for p in held.problems()] == ["b.state"]
    assert problems == 1
    held.close()


def test_ports_add_up(path: Path) -> None:
    held = folder(path)
    held.write_ports(listen=7445)
    held.write_ports(dns=53)
    assert json.loads((path / PORTS).read_text()) == {"listen": 7445, "dns": 53}
    held.close()
