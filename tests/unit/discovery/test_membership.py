"""Whether a cluster is a member: the registry's word, and the operator's, which is for good."""

from __future__ import annotations

from pathlib import Path

from discovery.membership import LEFT, Membership, keep
from federation import log

ROOT, OTHER = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32


def membership(directory: Path, root: str = ROOT) -> Membership:
    return Membership(directory / LEFT, root=root, log=log.get("test"))


def test_the_registry_may_say_no_and_yes_again(tmp_path: Path) -> None:
    made = membership(tmp_path)
    assert made.lasts
    made.refused()
    assert not made.lasts
    assert membership(tmp_path).lasts  # it is not kept
    made.accepted()
    assert made.lasts
    assert made.problems() == []


def test_who_was_taken_out_stays_out_and_says_so(tmp_path: Path) -> None:
    made = membership(tmp_path)
    made.end(OTHER)
    assert made.lasts
    made.end(ROOT)
    made.accepted()
    assert not made.lasts
    again = membership(tmp_path)
    assert not again.lasts
    assert [p.code for p in again.problems()] == ["cluster_left"]
    assert membership(tmp_path, OTHER).lasts  # joined anew in the same folder


def test_a_disk_that_is_full_does_not_undo_it(tmp_path: Path) -> None:
    made = Membership(tmp_path / "missing" / LEFT, root=ROOT, log=log.get("test"))
    made.end(ROOT)
    assert not made.lasts
    keep(tmp_path / "missing" / LEFT, ROOT, log.get("test"))
