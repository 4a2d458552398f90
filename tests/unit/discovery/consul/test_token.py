"""The file of the ACL token: what it may hold, and what counts while it holds something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from discovery.consul.errors import TokenMissing
from discovery.consul.token import TokenFile, read_token
from federation import log


def made(path: Path | str) -> TokenFile:
    return TokenFile(str(path), log=log.get("test"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        ("", "is empty"),
        (" \n", "is empty"),
        ("two words", "no token"),
        ("x" * 5000, "no token"),
    ],
)
def test_token_files_that_hold_none(tmp_path: Path, content: str | None, says: str) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    with pytest.raises(TokenMissing, match=says) as caught:
        read_token(file)
    assert caught.value.error_code == "consul_token"
    with pytest.raises(TokenMissing, match=says):
        made(file).read()


def test_what_was_read_counts_until_the_file_holds_another_one(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    token = made(file)
    assert token.read()
    assert (token.value, token.changed()) == ("one", False)
    file.unlink()
    assert token.changed()
    assert not token.read()
    assert token.value == "one"
    assert token.problem is not None
    assert "No such file" in token.problem.detail
    assert not token.changed()
    file.write_text("two")
    assert token.changed()
    assert token.read()
    assert (token.value, token.problem) == ("two", None)


def test_the_same_token_in_another_file_is_no_news(tmp_path: Path) -> None:
    file, new = tmp_path / "token", tmp_path / "new"
    file.write_text("one")
    token = made(file)
    token.read()
    new.write_text("one")
    new.rename(file)
    assert token.changed()
    assert not token.read()


def test_no_file_is_no_token() -> None:
    token = made("")
    assert not token.read()
    assert (token.value, token.changed()) == ("", False)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_file_that_everybody_can_read_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int, warned: bool
) -> None:
    file = tmp_path / "token"
    file.write_text("secret")
    file.chmod(mode)
    token = made(file)
    token.read()
    token.read()
    said = "".join(capsys.readouterr())
    assert said.count("everybody on this machine can read the token") == int(warned)
    assert "secret" not in said
