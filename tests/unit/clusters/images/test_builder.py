"""The builder's keys and refusals, its command line, and the Dockerfile that has to say the same."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

import pytest

from clusters.images import __main__ as command
from clusters.images import builder, debian, recipe
from clusters.images.builder import SOURCE, Builder, ImageFailed, epoch_of, sources
from clusters.images.debian import Package
from clusters.images.layers import Layer
from federation import __version__
from federation.errors import InvalidInput, NotFound, StorageFailed, Unavailable


@pytest.mark.parametrize(("given", "seconds"), [({}, 0), ({"SOURCE_DATE_EPOCH": "1700000000"}, 1700000000)])
def test_the_time_of_every_file(given: dict[str, str], seconds: int) -> None:
    assert epoch_of(given) == seconds


@pytest.mark.parametrize("given", ["", "yesterday", "-1", "1.5", "1" * 12, "٣"])
def test_a_time_that_is_none(given: str) -> None:
    with pytest.raises(InvalidInput, match=r"SOURCE_DATE_EPOCH is .*seconds since 1970"):
        epoch_of({"SOURCE_DATE_EPOCH": given})


def test_an_image_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no image isthmos \(there are isthmus, isthmus-test, netshoot, socat\)"):
        Builder(say=print, environ={"XDG_CACHE_HOME": str(tmp_path)}).image("isthmos")


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match=r"cannot write to .*/file/isthmus/images: Not a directory"):
        Builder(say=print, environ={"XDG_CACHE_HOME": str(tmp_path / "file")}).image("socat")


def test_no_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=r"Debian and Ubuntu only.*build deploy/images/Dockerfile"):
        Builder(say=print, environ={"XDG_CACHE_HOME": str(tmp_path)}).image("socat")


def test_the_files_of_a_package_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b.py", "a.sql", "__pycache__/b.cpython-311.pyc", ".hidden", "b.py~", "deep/c.py", "deep/x.orig"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")

    assert [path.relative_to(tmp_path).as_posix() for path in sources(tmp_path)] == ["a.sql", "b.py", "deep/c.py"]


class Packages:
    """An archive of packages that only pretends; counts what is asked of it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.version = "1"
        self.lists = "first"
        self._folder = folder
        monkeypatch.setattr(debian, "known", self.known)
        monkeypatch.setattr(debian, "state", lambda: self.lists)
        monkeypatch.setattr(builder, "all_unpacked", self.unpacked)

    def known(self, roots: tuple[str, ...]) -> dict[str, Package]:
        self.asked += roots
        return {name: Package(name=name, version=self.version, depends=(), record=name) for name in roots}

    def unpacked(self, *names: str) -> dict[str, Path]:
        for name in names:
            path = self._folder / name / "usr/bin" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.version)
        return {name: self._folder / name for name in names}


def test_a_layer_is_made_once_for_the_same_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = Packages(tmp_path / "packages", monkeypatch)
    said: list[str] = []
    building = Builder(say=said.append, environ={"XDG_CACHE_HOME": str(tmp_path)})

    first = building.image("socat")
    asked, lines = len(packages.asked), len(said)
    assert building.image("socat") == first
    assert (len(packages.asked), len(said)) == (asked, lines)  # neither apt is asked nor anything made

    packages.lists = "second"
    assert building.image("socat") == first  # apt is asked, and has nothing new
    assert len(packages.asked) == 2 * asked

    packages.lists, packages.version = "third", "2"
    changed = building.image("socat")
    assert changed.digest != first.digest
    dated = Builder(say=said.append, environ={"XDG_CACHE_HOME": str(tmp_path), "SOURCE_DATE_EPOCH": "7"})
    assert dated.image("socat").digest not in (first.digest, changed.digest)


def test_another_version_changes_one_line_of_the_code(tmp_path: Path) -> None:
    file = SOURCE / "federation" / "__init__.py"
    here, other = (Builder(say=print, environ={}, version=version) for version in (__version__, "7.8.9"))
    assert here._stamped(file) == file.read_bytes()
    changed = [
        (old, new)
        for old, new in zip(file.read_bytes().splitlines(), other._stamped(file).splitlines(), strict=True)
        if old != new
    ]
    assert changed == [(f'__version__ = "{__version__}"'.encode(), b'__version__ = "7.8.9"')]
    assert other._stamped(SOURCE / "federation" / "errors.py") == (SOURCE / "federation" / "errors.py").read_bytes()
    moved = Builder(say=print, environ={}, version="7.8.9", source=tmp_path)
    (tmp_path / "federation").mkdir()
    (tmp_path / "federation" / "__init__.py").write_text("")
    with pytest.raises(ImageFailed, match="does not say its version"):
        moved._stamped(tmp_path / "federation" / "__init__.py")


def test_another_version_may_have_more_than_its_number() -> None:
    settings = SOURCE / "federation" / "settings.py"
    level = '    level: str = "info"\n'
    more = level + '    flavour: str = ""\n'
    other = Builder(say=print, environ={}, version="7.8.9", changes={"federation/settings.py": (level, more)})
    assert other._stamped(settings) == settings.read_bytes().replace(level.encode(), more.encode())
    assert other._stamped(SOURCE / "federation" / "errors.py") == (SOURCE / "federation" / "errors.py").read_bytes()
    gone = Builder(say=print, environ={}, changes={"federation/settings.py": ("nonsense\n", more)})
    with pytest.raises(ImageFailed, match="does not say 'nonsense' once"):
        gone._stamped(settings)


def test_what_nobody_used_for_long_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Packages(tmp_path / "packages", monkeypatch)
    building = Builder(say=lambda _: None, environ={"XDG_CACHE_HOME": str(tmp_path)})
    building.image("socat")
    (used,) = building.cache.glob("socat-*")
    old, cut = building.cache / "netshoot-0", building.cache / ".making-0"
    for folder in (old, cut, used):
        (folder / "root").mkdir(parents=True, exist_ok=True)
        os.utime(folder, (0, 0))
    os.utime(building.cache / "socat.lock", (0, 0))

    building.image("socat")  # makes it anew: it was forgotten, too

    assert sorted(path.name.partition("-")[0] for path in building.cache.iterdir()) == [
        "packages",
        "socat",
        "socat.lock",
    ]


def test_the_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Packages(tmp_path / "packages", monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert command.main(["socat", "socat", "--json", "--output", str(tmp_path / "socat.tar")]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [about["image"] for about in told] == ["alpine/socat:1.7.4.4"]
    assert [part["name"] for part in told[0]["layers"]] == ["socat"]
    assert (tmp_path / "socat.tar").stat().st_mode & 0o777 == 0o644

    assert command.main(["nothing"]) == 3
    assert "there is no image nothing" in capsys.readouterr().err
    assert command.main(["socat", "--output", str(tmp_path / "no/socat.tar")]) != 0
    assert "cannot write" in capsys.readouterr().err


# --- the Dockerfile --------------------------------------------------------------------------------------------------


def test_the_dockerfile_says_what_the_builder_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (SOURCE / "deploy/images/Dockerfile").read_text().replace("\\\n", " ")
    final = text.rpartition("FROM scratch")[2]
    layer = Layer(name="base", tar=tmp_path, digest="0", size=0)
    monkeypatch.setattr(Builder, "_layers", lambda *_: [layer])
    settings = json.loads(Builder(say=print, environ={}).image("isthmus").config)["config"]

    assert re.findall(r"^USER (\S+)$", final, re.MULTILINE) == [settings["User"]]
    assert re.findall(r"(\w+=\S+)", final.partition("ENV ")[2].partition("\n")[0]) == settings["Env"]
    assert [json.loads(one) for one in re.findall(r"^CMD (.+)$", final, re.MULTILINE)] == [settings["Cmd"]]
    labels = dict(re.findall(r'(org\.\S+?)="([^"]*)"', final))
    assert labels.items() <= settings["Labels"].items()
    assert f"-t isthmus:{__version__} " in text
    copied = re.findall(r"^COPY (\w+) \1$", text.partition("RUN ")[0], re.MULTILINE)
    assert set(recipe.PROGRAMS.split()) | {"clusters"} == set(copied)
    ignored = (SOURCE / ".dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in copied} <= set(ignored)
    assert f"--chown={recipe.NOBODY}:{recipe.NOBODY} /out/owned/ /{Path(recipe.STATE).parent}/" in text


def test_all_programs_are_of_packages_that_are_in_the_image() -> None:
    scripts = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]["scripts"]
    assert {entry.split(".")[0] for entry in scripts.values()} <= set(recipe.PROGRAMS.split())
