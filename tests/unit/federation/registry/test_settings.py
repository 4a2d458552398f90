"""The registry's settings file."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.errors import InvalidInput, InvalidSettings
from federation.registry import settings
from federation.registry.settings import RegistrySettings


def load(tmp_path: Path, text: str) -> RegistrySettings:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return settings.load(path)


def test_defaults_and_relative_directories(tmp_path: Path) -> None:
    found = load(tmp_path, "{federation: demo.test, directory: ., quotas: {services: 5}}")
    assert (found.directory, found.quotas.services, found.lease) == (str(tmp_path), 5, 15.0)


@pytest.mark.parametrize(
    "text",
    [
        "{directory: .}",
        "{federation: demo.test, directory: ., nonsense: 1}",
        "{federation: demo.test, directory: ., lease: soon}",
        "{federation: demo.test, directory: ., lease: 0}",
        "{federation: demo.test, directory: ., heartbeat: 10}",
        "{federation: demo.test, directory: ., quotas: {services: 0}}",
        "{federation: demo.test, directory: ., quotas: {records_per_second: 0}}",
        "{federation: Demo, directory: .}",
        "{federation: demo.test, directory: ., listen: '0.0.0.0:7400'}",
        "{federation: demo.test, directory: ., enrolment: '[::]:7401', advertise: 'a:1'}",
        "[]",
        "",
        "\t",
    ],
)
def test_nonsense(tmp_path: Path, text: str) -> None:
    with pytest.raises((InvalidSettings, InvalidInput)):
        load(tmp_path, text)
