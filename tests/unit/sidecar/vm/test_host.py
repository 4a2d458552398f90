from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from federation.errors import Conflict, CorruptState, Denied, StorageFailed, Unavailable
from sidecar.vm.changes import ABSENT, Content, Journal, Step
from sidecar.vm.host import FOLDER, Host, contents, follow


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    host = Host(tmp_path)
    wanted = {"/etc/a": Content(data=b"\0x", mode=0o755), "/etc/b": Content(link="../run/b")}
    host.do([Step(path, content) for path, content in wanted.items()])
    assert contents(host, [*wanted, "/etc/none", "/etc/a/below"]) == {
        **wanted,
        "/etc/none": ABSENT,
        "/etc/a/below": ABSENT,
    }
    host.do([Step("/etc/a", Content(link="b")), Step("/etc/b", Content.text("x"))])
    assert host.read("/etc/a") == Content(link="b")
    assert host.read("/etc/b") == Content.text("x")
    host.do([Step("/etc/a", ABSENT), Step("/etc/b", ABSENT), Step("/etc/b", ABSENT)])
    assert sorted(p.name for p in (tmp_path / "etc").iterdir()) == []


def test_links_are_followed_within_the_root(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.do(
        [
            Step("/etc/resolv.conf", Content(link="../run/x/resolv.conf")),
            Step("/run/x/resolv.conf", Content(link="/run/y/real")),
            Step("/run/y/real", Content.text("nameserver 192.0.2.1\n")),
            Step("/etc/loop", Content(link="loop")),
        ]
    )
    assert host.text("/etc/resolv.conf") == "nameserver 192.0.2.1\n"
    assert host.text("/etc/loop") == host.text("/etc/none") == ""
    assert follow("/etc/resolv.conf", "../run/x") == "/run/x"
    assert follow("/etc/resolv.conf", "/run/x") == "/run/x"


def test_the_journal_is_there_before_the_steps_and_goes_with_the_folders(tmp_path: Path) -> None:
    host = Host(tmp_path)
    (tmp_path / "etc").mkdir()
    host.begin("vm", Journal(stop=(("x",),)), [Step("/etc/new/folder/file", Content.text("x"))])
    journal = host.journal("vm")
    assert journal.stop == (("x",),)
    assert "/etc/new/folder" in journal.folders
    assert "/etc" not in journal.folders
    assert stat.S_IMODE((tmp_path / FOLDER[1:] / "vm.json").stat().st_mode) == 0o600
    host.do([Step("/etc/new/folder/file", ABSENT)])
    (tmp_path / "etc/new/mine").write_text("somebody's own")
    host.forget("vm", journal)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["etc", "etc/new", "etc/new/mine"]


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 2}', '{"entries": [{"path": 1}]}'])
def test_a_journal_that_is_none_stops_everything(tmp_path: Path, text: str) -> None:
    (tmp_path / FOLDER[1:]).mkdir(parents=True)
    (tmp_path / FOLDER[1:] / "vm.json").write_text(text)
    with pytest.raises(CorruptState, match=r"vm.json is"):
        Host(tmp_path).journal("vm")


def test_what_is_neither_file_nor_link_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/fifo")
    with pytest.raises(Conflict, match="neither a file nor a link"):
        Host(tmp_path).read("/etc/fifo")


@pytest.mark.parametrize(
    ("number", "error", "code"),
    [
        (13, Denied, "not_root"),
        (1, Denied, "not_root"),
        (16, Conflict, "file_mounted"),
        (28, StorageFailed, "storage_failed"),
    ],
)
def test_why_a_file_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception], code: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(error) as caught:
        Host(tmp_path).do([Step("/etc/resolv.conf", Content.text("x"))])
    assert caught.value.error_code == code  # type: ignore[attr-defined]
    assert list((tmp_path / "etc").iterdir()) == []


def test_commands_run_on_this_host_only(tmp_path: Path) -> None:
    ran: list[tuple[str, ...]] = []

    def run(command: object) -> tuple[int, str]:
        ran.append(tuple(command))  # type: ignore[arg-type]
        return (5, "\nUnit x not found.\nmore") if "bad" in ran[-1] else (0, "")

    Host(tmp_path, run=run).commands([("systemctl", "bad")])
    assert ran == []
    live = Host(Path("/"), run=run)
    with pytest.raises(Unavailable, match=r"systemctl bad: Unit x not found\.") as caught:
        live.commands([("systemctl", "good"), ("systemctl", "bad"), ("systemctl", "never")])
    assert caught.value.error_code == "command_failed"
    assert ran == [("systemctl", "good"), ("systemctl", "bad")]


def test_a_command_that_is_not_there_is_one_line() -> None:
    with pytest.raises(Unavailable, match="isthmus-no-such-command is not installed"):
        Host().commands([("isthmus-no-such-command",)])
