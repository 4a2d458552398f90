"""What the documentation says is true: links lead somewhere, commands exist, settings load, and no key is forgotten."""

from __future__ import annotations

import re
import shlex
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import typer
import typer.main
import yaml

import discovery.settings
import federation.registry.settings
import gateway.settings
import sidecar.injector.settings
import sidecar.settings
from discovery.settings import AgentSettings
from discovery.sources.parse import parse as parse_manifests
from federation import settings as files
from federation.cli.main import app
from federation.registry.settings import RegistrySettings
from gateway.settings import GatewaySettings
from sidecar.injector.settings import InjectorSettings
from sidecar.settings import SidecarSettings
from sidecar.vm.services import parse as parse_services

ROOT = next(p for p in Path(__file__).parents if (p / "pyproject.toml").exists())
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FEDCTL = typer.main.get_command(app)

SETTINGS: Mapping[str, tuple[type[msgspec.Struct], types.ModuleType]] = {
    "Registry": (RegistrySettings, federation.registry.settings),
    "Agent": (AgentSettings, discovery.settings),
    "Gateway": (GatewaySettings, gateway.settings),
    "Sidecar": (SidecarSettings, sidecar.settings),
    "Injector": (InjectorSettings, sidecar.injector.settings),
}


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def fenced(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[str]:
    """Lines of code, fenced or indented, that begin with fedctl; without prompts, and without where a shell leads what
    they print."""
    inside = False
    for line in page.read_text().replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            inside = not inside
        elif inside or line.startswith("    "):
            text = line.strip().removeprefix("$ ")
            if text.startswith("fedctl "):
                yield re.sub(r" > \S+$", "", text)


def parse(words: list[str]) -> None:
    """Raises typer.TyperException for a command, an argument or an option that fedctl does not have."""
    command: Any = FEDCTL
    context: Any = None
    while hasattr(command, "resolve_command"):
        context = command.make_context(command.name, words, parent=context)
        _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(command.name, words, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = [
        target
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists()
    ]
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_fedctl_command_parses(page: Path) -> None:
    for text in commands(page):
        words = shlex.split(text, comments=True)[1:]
        for alternative in range(max((w.count("|") for w in words), default=0) + 1):
            chosen = [w.split("|")[min(alternative, w.count("|"))] for w in words]
            try:
                parse(chosen)
            except typer.Exit:  # --help, --version
                continue
            except typer.TyperException as error:
                pytest.fail(f"{text}: {error.format_message()}")


def test_a_command_that_does_not_exist_would_be_found() -> None:
    for words in (["frobnicate"], ["get", "moons"], ["status", "--colour"], ["link", "east"]):
        with pytest.raises(typer.TyperException):
            parse(words)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_yaml_block_parses(page: Path) -> None:
    for block in fenced(page, "yaml"):
        assert all(document is not None for document in yaml.safe_load_all(block)), block


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_manifest_is_taken_as_it_stands(page: Path) -> None:
    for block in fenced(page, "yaml"):
        if "apiVersion:" in block:
            parsed = parse_manifests(block.encode())
            assert parsed.manifests
            assert not parsed.ignored, block


def test_every_services_file_is_taken_as_it_stands() -> None:
    blocks = fenced(ROOT / "docs" / "vm-services.md", "yaml")
    assert len(blocks) > 1
    for block in blocks:
        assert parse_services(block.encode())


# --- settings ---------------------------------------------------------------------------------------------------------


def section(name: str) -> str:
    text = (ROOT / "docs" / "settings.md").read_text()
    found = re.search(rf"^## {name}:(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"docs/settings.md has no section {name}"
    return found[1]


def fields(kind: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key, with dots for nested ones, and its default."""
    for field in msgspec.structs.fields(kind):
        key = prefix + field.encode_name
        kinds = [
            k for k in (field.type, *get_args(field.type)) if isinstance(k, type) and issubclass(k, msgspec.Struct)
        ]
        if kinds:  # a block, or one that may be left out
            yield from fields(kinds[0], key + ".")
        elif field.default_factory is not msgspec.NODEFAULT:
            yield key, field.default_factory()
        else:
            yield key, field.default


def documented(name: str) -> dict[str, Any]:
    """Key → default as the table of the section has it."""
    rows = re.findall(r"^\| `([^`]+)` \| (?:`([^`]*)`)? ?\| \S.* \|$", section(name), re.MULTILINE)
    assert len({key for key, _ in rows}) == len(rows), "a key stands there twice"
    return {key: yaml.safe_load(text) if text else msgspec.NODEFAULT for key, text in rows}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_tables_have_every_key_and_its_default(name: str) -> None:
    table = documented(name)
    if name == "Sidecar":
        shared = re.search(r"One sidecar beside one workload\. (.*?) are as\s+above", section(name), re.DOTALL)
        assert shared
        named = re.findall(r"`([^`]+)`", shared[1])
        table |= {
            key: default
            for key, default in documented("Gateway").items()
            if key in named or key.partition(".")[0] in named
        }
    wanted = {
        key: list(default) if isinstance(default, tuple) else default for key, default in fields(SETTINGS[name][0])
    }
    assert table == wanted


@pytest.mark.parametrize("name", SETTINGS)
def test_the_examples_are_whole_settings(name: str, tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", section(name), re.MULTILINE | re.DOTALL)
    assert blocks
    kind, module = SETTINGS[name]
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block)
        read = getattr(module, "read", None) or module.load
        assert isinstance(read(path), kind)
        assert files.load(path, kind)
