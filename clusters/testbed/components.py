"""What the testbed consists of, and where it is on this machine.

A component is looked for where its variable says (`KUBEBUILDER_ASSETS`, `ISTHMUS_CONSUL`), then on PATH, then in the
cache that `scripts/testbed` fills. The cache's folder carries a digest of all that determines the binary, so that
another pin is another folder.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from federation.errors import CorruptState, InvalidInput, NotFound

MODULES = Path(str(files("clusters.testbed") / "modules"))
"""A folder per Go module with its go.mod and go.sum, and the pinned toolchain."""

_RECIPE = 1
"""Counted up when the way of building changes in a manner that the other parts of the key do not show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One program: the pinned Go module that brings it and how it is linked."""

    name: str
    module: str
    """The folder below MODULES."""
    package: str
    """The Go package of its `main`."""
    pinned: str
    """The Go module whose version is the component's."""
    stamps: tuple[str, ...] = ()
    """`name=value` that the linker sets; `{version}`, `{major}` and `{minor}` are filled in."""
    environment: tuple[tuple[str, str], ...] = ()
    """More variables for the Go command, such as GONOSUMDB."""
    variable: str = "KUBEBUILDER_ASSETS"
    """The environment's variable that says where a user has it: a folder with it, or the program itself."""
    asked: tuple[str, ...] = ()
    """How it is asked for its version. Empty: any that is found is taken; otherwise one of this release or newer."""

    @property
    def folder(self) -> Path:
        return MODULES / self.module

    @property
    def version(self) -> str:
        """The pin in go.mod, such as v1.36.3."""
        return module_version((self.folder / "go.mod").read_text(), self.pinned)

    @property
    def linker_flags(self) -> str:
        """The value of -ldflags: no symbol table, no debug information, and the stamps."""
        major, minor = self.version.removeprefix("v").split(".")[:2]
        stamps = (s.format(version=self.version, major=major, minor=minor) for s in self.stamps)
        return " ".join(("-s -w", *(f"-X {stamp}" for stamp in stamps)))

    @property
    def key(self) -> str:
        """A digest of what determines the binary: pins, checksums, toolchain, flags and platform.

        The toolchain counts by what is pinned and by the least version that go.mod asks for, not by the one that
        happens to be on PATH: otherwise a caller with another PATH would not find what was built.
        """
        parts = [(self.folder / name).read_bytes() for name in ("go.mod", "go.sum")]
        parts.append((MODULES / "toolchain.txt").read_bytes())
        text = (self.package, self.linker_flags, *map(str, self.environment), target(), str(_RECIPE))
        parts += [part.encode() for part in text]
        digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts))
        return digest.hexdigest()[:12]

    def fits(self, program: Path) -> str:
        """Why the program cannot stand for this component; empty when it can."""
        if not self.asked:
            return ""
        try:
            said = _version_of(str(program), program.stat().st_mtime_ns, self.asked)
        except OSError as error:
            return f"cannot be run: {error.strerror or error}"
        major, minor = map(int, self.version.removeprefix("v").split(".")[:2])
        found = re.search(r"\bv(\d+)\.(\d+)", said)
        if found is None:
            return "does not say its version"
        if int(found[1]) != major or int(found[2]) < minor:
            return f"is {found[0]}, and v{major}.{minor} or a later v{major} is needed"
        return ""

    def directory(self, environ: Mapping[str, str] = os.environ) -> Path:
        """Where the cache has it, whether it is there or not."""
        return cache_directory(environ) / f"{self.name}-{self.version}-{self.key}"


_KUBERNETES = (
    "k8s.io/component-base/version.gitVersion={version}",
    "k8s.io/component-base/version.gitMajor={major}",
    "k8s.io/component-base/version.gitMinor={minor}",
    "k8s.io/component-base/version.gitTreeState=clean",
)

COMPONENTS: Mapping[str, Component] = {
    component.name: component
    for component in (
        Component(
            name="etcd",
            module="etcd",
            package="go.etcd.io/etcd/server/v3",
            pinned="go.etcd.io/etcd/server/v3",
        ),
        Component(
            name="kube-apiserver",
            module="kubernetes",
            package="k8s.io/kubernetes/cmd/kube-apiserver",
            pinned="k8s.io/kubernetes",
            stamps=_KUBERNETES,
        ),
        Component(
            name="kube-controller-manager",
            module="kubernetes",
            package="k8s.io/kubernetes/cmd/kube-controller-manager",
            pinned="k8s.io/kubernetes",
            stamps=_KUBERNETES,
        ),
        Component(
            name="consul",
            module="consul",
            package="github.com/hashicorp/consul",
            pinned="github.com/hashicorp/consul",
            variable="ISTHMUS_CONSUL",
            asked=("version",),
        ),
        Component(
            name="helm",
            module="helm",
            package="helm.sh/helm/v4/cmd/helm",
            pinned="helm.sh/helm/v4",
            stamps=("helm.sh/helm/v4/internal/version.version={version}",),
            variable="ISTHMUS_HELM",
            asked=("version", "--short"),
        ),
    )
}
"""Everything that `scripts/testbed` can bring. Another one is one entry here and one folder below `modules`."""


def component(name: str) -> Component:
    """Raises InvalidInput for a name that the testbed does not know."""
    try:
        return COMPONENTS[name]
    except KeyError:
        raise InvalidInput(f"the testbed has no component {name!r}", hint=f"it has {', '.join(COMPONENTS)}") from None


def module_version(go_mod: str, module: str) -> str:
    """The version that a go.mod requires of a module; raises CorruptState when it does not name the module."""
    found = re.search(rf"^\s*(?:require\s+)?{re.escape(module)}\s+(v\S+)", go_mod, re.MULTILINE)
    if found is None:
        raise CorruptState(f"go.mod does not pin {module}")
    return found[1]


def least_go(go_mod: str) -> tuple[int, ...]:
    """The least Go version that a go.mod asks for; raises CorruptState when it does not say."""
    found = re.search(r"^go\s+(\d+(?:\.\d+)*)", go_mod, re.MULTILINE)
    if found is None:
        raise CorruptState("go.mod does not say which Go it needs")
    return tuple(map(int, found[1].split(".")))


def target() -> str:
    """The platform of this machine."""
    return f"{platform.system()}-{platform.machine()}".lower()


def cache_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Where what was built is kept: below XDG_CACHE_HOME, which by its specification counts only when absolute."""
    base = Path(environ.get("XDG_CACHE_HOME") or "")
    if not base.is_absolute():
        base = Path(environ.get("HOME") or Path.home()) / ".cache"
    return base / "isthmus" / "testbed"


def find(name: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The program on this machine, or None.

    Raises InvalidInput for a name that the testbed does not know, and where the variable of a component that is asked
    for its version names none that fits: who set it means that one.
    """
    wanted = component(name)
    place = environ.get(wanted.variable, "")
    if found := _at(place, name):
        if why := wanted.fits(found):
            raise InvalidInput(
                f"{wanted.variable} names {found}, which {why}",
                hint=f"unset it; {_building(name)} builds one that fits",
            )
        return found
    if place and wanted.asked:
        raise InvalidInput(f"{wanted.variable} is {place}: there is no program {name}", hint="correct or unset it")
    for path in (environ.get("PATH", ""), str(wanted.directory(environ))):
        if path and (on_path := shutil.which(name, path=path)) and not wanted.fits(Path(on_path)):
            return Path(on_path)
    return None


def _at(place: str, name: str) -> Path | None:
    """The program where a user's variable points: at itself, or at folders with it."""
    found = shutil.which(place) if os.path.isfile(place) else shutil.which(name, path=place) if place else None
    return Path(found).absolute() if found else None


@functools.cache
def _version_of(program: str, _modified: int, arguments: tuple[str, ...]) -> str:
    """What the program prints; once for each state of its file. Raises OSError."""
    try:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"it says nothing for {error.timeout:g} s") from error
    return done.stdout


def require(*names: str, environ: Mapping[str, str] = os.environ) -> dict[str, Path]:
    """The programs by their names; raises NotFound with the command that brings what is missing."""
    found = {name: find(name, environ) for name in names}
    if missing := [name for name, path in found.items() if path is None]:
        raise missing_components(missing)
    return {name: path for name, path in found.items() if path is not None}


def missing_components(names: Iterable[str]) -> NotFound:
    """What is said where the testbed is not whole."""
    names = tuple(names)
    text = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    verb = "is" if len(names) == 1 else "are"
    variables = " or ".join(dict.fromkeys(component(name).variable for name in names))
    return NotFound(
        f"{text} {verb} neither on PATH nor in {variables} nor in the cache",
        hint=f"{_building(*names)} builds {'it' if len(names) == 1 else 'them'} once",
        code="testbed_missing",
    )


def _building(*names: str) -> str:
    return f"`scripts/testbed {' '.join(names)}`"
