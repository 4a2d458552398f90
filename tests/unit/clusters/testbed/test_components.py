"""Where the testbed's programs are looked for, and what makes a build another build."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from clusters.testbed import components
from clusters.testbed.components import (
    COMPONENTS,
    Component,
    cache_directory,
    component,
    find,
    least_go,
    module_version,
    require,
)
from federation.errors import CorruptState, InvalidInput, NotFound

ETCD = COMPONENTS["etcd"]
CONSUL = COMPONENTS["consul"]


def install(directory: Path, name: str, *, says: str = "") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / name
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    return program


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"PATH": str(tmp_path / "bin"), "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}


class TestWhere:
    def test_the_cache_is_where_the_xdg_specification_has_it(self) -> None:
        assert cache_directory({"XDG_CACHE_HOME": "/c", "HOME": "/h"}) == Path("/c/isthmus/testbed")
        assert cache_directory({"HOME": "/h"}) == Path("/h/.cache/isthmus/testbed")
        assert cache_directory({"XDG_CACHE_HOME": "relative", "HOME": "/h"}) == Path("/h/.cache/isthmus/testbed")

    def test_assets_come_before_path_and_path_before_the_cache(self, environ: dict[str, str], tmp_path: Path) -> None:
        assert find("etcd", environ) is None
        built = install(ETCD.directory(environ), "etcd")
        assert find("etcd", environ) == built
        on_path = install(tmp_path / "bin", "etcd")
        assert find("etcd", environ) == on_path
        asset = install(tmp_path / "assets", "etcd")
        assert find("etcd", {**environ, "KUBEBUILDER_ASSETS": str(tmp_path / "assets")}) == asset

    def test_assets_that_lack_one_do_not_hide_it(self, environ: dict[str, str], tmp_path: Path) -> None:
        on_path = install(tmp_path / "bin", "etcd")
        assert find("etcd", {**environ, "KUBEBUILDER_ASSETS": str(tmp_path)}) == on_path

    def test_what_is_missing_is_said_with_the_command_that_brings_it(self, environ: dict[str, str]) -> None:
        install(ETCD.directory(environ), "etcd")
        with pytest.raises(NotFound) as caught:
            require("etcd", "kube-apiserver", "kube-controller-manager", environ=environ)
        assert caught.value.error_code == "testbed_missing"
        assert caught.value.hint == "`scripts/testbed kube-apiserver kube-controller-manager` builds them once"
        assert require("etcd", environ=environ) == {"etcd": ETCD.directory(environ) / "etcd"}

    @pytest.mark.parametrize(
        ("says", "taken"),
        [
            (f"Consul {CONSUL.version}", True),
            ("Consul v1.99.3\nRevision 1234", True),
            ("Consul v1.9.17", False),
            ("Consul v2.0.0", False),
            ("usage: consul", False),
        ],
    )
    def test_a_consul_on_path_counts_when_its_version_fits(
        self, environ: dict[str, str], tmp_path: Path, says: str, taken: bool
    ) -> None:
        on_path, built = install(tmp_path / "bin", "consul", says=says), install(CONSUL.directory(environ), "consul")
        built.write_text(f"#!/bin/sh\necho Consul {CONSUL.version}\n")
        assert find("consul", environ) == (on_path if taken else built)

    def test_one_that_is_named_is_taken_before_the_one_on_path(self, environ: dict[str, str], tmp_path: Path) -> None:
        install(tmp_path / "bin", "consul", says=f"Consul {CONSUL.version}")
        named = install(tmp_path / "mine", "consul", says=f"Consul {CONSUL.version}")
        for value in (named, named.parent):
            assert find("consul", {**environ, "ISTHMUS_CONSUL": str(value)}) == named

    def test_one_that_is_named_and_cannot_be_used_is_an_error(self, environ: dict[str, str], tmp_path: Path) -> None:
        install(tmp_path / "bin", "consul", says=f"Consul {CONSUL.version}")
        with pytest.raises(InvalidInput, match="ISTHMUS_CONSUL is /nowhere: there is no program consul"):
            find("consul", {**environ, "ISTHMUS_CONSUL": "/nowhere"})
        old = install(tmp_path / "old", "consul", says="Consul v1.9.17")
        with pytest.raises(
            InvalidInput, match=rf"names {old}, which is v1\.9, and v1\.\d+ or a later v1 is needed"
        ) as it:
            find("consul", {**environ, "ISTHMUS_CONSUL": str(old)})
        assert "`scripts/testbed consul`" in it.value.hint
        old.write_bytes(b"\x7fELF is not enough")
        with pytest.raises(InvalidInput, match=r"cannot be run: Exec format error"):
            find("consul", {**environ, "ISTHMUS_CONSUL": str(old)})

    def test_a_missing_consul_is_said_with_its_own_variable(self, environ: dict[str, str]) -> None:
        with pytest.raises(
            NotFound, match="consul is neither on PATH nor in ISTHMUS_CONSUL nor in the cache"
        ) as caught:
            require("consul", environ=environ)
        assert caught.value.hint == "`scripts/testbed consul` builds it once"

    def test_an_unknown_component_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match="kube-proxy"):
            component("kube-proxy")


class TestKey:
    def test_the_folder_names_the_version(self) -> None:
        for one in COMPONENTS.values():
            assert one.directory({"HOME": "/h"}).name == f"{one.name}-{one.version}-{one.key}"

    def test_it_is_stable(self) -> None:
        assert dataclasses.replace(ETCD).key == ETCD.key

    @pytest.mark.parametrize(
        "change",
        [
            {"package": "go.etcd.io/etcd/other"},
            {"stamps": ("a.b=c",)},
            {"environment": (("GONOSUMDB", "x"),)},
            {"module": "kubernetes", "pinned": "k8s.io/kubernetes"},
        ],
    )
    def test_whatever_changes_the_program_changes_it(self, change: dict[str, object]) -> None:
        assert dataclasses.replace(ETCD, **change).key != ETCD.key  # type: ignore[arg-type]

    @pytest.mark.parametrize("file", ["toolchain.txt", "etcd/go.mod", "etcd/go.sum"])
    def test_so_does_every_pin(self, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = ETCD.key
        for path in components.MODULES.rglob("*"):
            if path.is_file():
                copy = tmp_path / path.relative_to(components.MODULES)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
        monkeypatch.setattr(components, "MODULES", tmp_path)
        assert ETCD.key == before
        with (tmp_path / file).open("a") as pin:
            pin.write("\n")
        assert ETCD.key != before

    def test_and_the_platform(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = ETCD.key
        monkeypatch.setattr(components, "target", lambda: "plan9-mips")
        assert ETCD.key != before


class TestPins:
    def test_versions_are_read_from_go_mod(self) -> None:
        assert module_version("module x\nrequire a.b/c v1.2.3\n", "a.b/c") == "v1.2.3"
        assert module_version("require (\n\ta.b/cc v9.0.0\n\ta.b/c v1.2.3 // indirect\n)\n", "a.b/c") == "v1.2.3"
        with pytest.raises(CorruptState):
            module_version("module x\n", "a.b/c")

    def test_so_is_the_least_go(self) -> None:
        assert least_go("module x\n\ngo 1.26.0\n") == (1, 26, 0)
        with pytest.raises(CorruptState):
            least_go("module x\n")

    @pytest.mark.parametrize("one", COMPONENTS.values(), ids=COMPONENTS)
    def test_every_component_is_pinned_with_checksums(self, one: Component) -> None:
        assert f"{one.pinned} {one.version} h1:" in (one.folder / "go.sum").read_text()

    def test_all_parts_of_kubernetes_are_of_one_release(self) -> None:
        text = (COMPONENTS["kube-apiserver"].folder / "go.mod").read_text()
        minor = COMPONENTS["kube-apiserver"].version.removeprefix("v1")
        replaced = [line.split() for line in text.splitlines() if " => " in line]
        assert len(replaced) > 20
        assert {(old, version) for old, _, _, version in replaced} == {(new, f"v0{minor}") for _, _, new, _ in replaced}

    def test_the_stamps_name_the_version(self) -> None:
        one = COMPONENTS["kube-apiserver"]
        assert f"-X k8s.io/component-base/version.gitVersion={one.version}" in one.linker_flags
        assert one.linker_flags.startswith("-s -w -X ")
        assert "{" not in one.linker_flags
        assert os.linesep not in one.linker_flags
