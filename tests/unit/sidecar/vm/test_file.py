"""The services file as it is followed: half written, broken, gone, and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from federation import log
from federation.aio.clock import FakeClock
from federation.registry.edge.problems import Problems
from sidecar.vm.file import ServicesFile

ONE = "services: [{name: one, namespace: shop, ports: [{port: 1}]}]\n"
TWO = ONE.replace("one", "two")


class Followed:
    def __init__(self, folder: Path) -> None:
        self.path, self.kept = folder / "services.yaml", folder / "kept"
        self.clock, self.changes = FakeClock(), 0
        self.problems = Problems(clock=self.clock, log=log.get("test"), on_change=lambda: None)
        self.file = self.make()

    def make(self) -> ServicesFile:
        def changed() -> None:
            self.changes += 1

        return ServicesFile(
            self.path,
            kept=self.kept,
            problems=self.problems,
            on_change=changed,
            clock=self.clock,
            log=log.get("test"),
        )

    @property
    def names(self) -> list[str] | None:
        return None if self.file.content is None else [d.name.name for d in self.file.content]

    def look(self, times: int = 2) -> None:
        for _ in range(times):
            self.file.look()

    @property
    def wrong(self) -> list[tuple[str, str]]:
        return [(p.code, p.detail) for p in self.problems.all()]


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    return Followed(tmp_path)


def test_it_is_read_and_read_again_when_it_changes(followed: Followed) -> None:
    followed.path.write_text(ONE)
    followed.file.load()
    assert (followed.names, followed.changes) == (["one"], 0)
    followed.look(4)
    followed.path.write_text(TWO)
    followed.look(1)
    assert followed.names == ["one"], "it could be half written"
    followed.look(1)
    assert (followed.names, followed.changes) == (["two"], 1)
    followed.path.touch()
    followed.look(3)
    assert followed.changes == 1, "the same again"


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (lambda path: path.write_text("services: [{"), "services_malformed", "no YAML"),
        (lambda path: path.write_text(""), "services_malformed", "it is empty"),
        (lambda path: path.unlink(), "services_unreadable", "No such file"),
        (lambda path: (path.unlink(), path.mkdir()), "services_unreadable", "Is a directory"),
    ],
)
def test_a_file_that_cannot_be_used_changes_nothing_but_the_problems(
    followed: Followed, spoil: Callable[[Path], object], code: str, says: str
) -> None:
    followed.path.write_text(ONE)
    followed.file.load()
    spoil(followed.path)
    followed.look(3)
    assert (followed.names, followed.changes) == (["one"], 0)
    ((found, detail),) = followed.wrong
    assert found == code
    assert says in detail
    assert detail.endswith("what was read before counts")
    if followed.path.is_dir():
        followed.path.rmdir()
    followed.path.write_text(TWO)
    followed.look(3)
    assert (followed.names, followed.wrong) == (["two"], [])


async def test_what_was_read_counts_after_a_restart(followed: Followed) -> None:
    followed.path.write_text(ONE)
    followed.file.load()
    await followed.file.close()
    followed.path.write_text("nonsense: [")
    followed.file = followed.make()
    followed.file.load()
    assert (followed.names, [code for code, _ in followed.wrong]) == (["one"], ["services_malformed"])
    followed.path.write_text("services: []\n")
    followed.look()
    assert (followed.names, followed.wrong, followed.changes) == ([], [], 1)
    await followed.file.close()
    followed.path.unlink()
    followed.file = followed.make()
    followed.file.load()
    assert followed.names == [], "nothing, on purpose"


def test_what_was_never_read_is_not_known(followed: Followed) -> None:
    followed.file.load()
    assert followed.names is None
    assert followed.wrong[0][1].endswith("nothing is offered")
    followed.kept.write_bytes(b"damaged")
    followed.file.load()
    assert followed.names is None
    followed.path.write_text(ONE)
    followed.look()
    assert followed.names == ["one"]
