"""The chart as it comes with this package, parsed once: its name and version, defaults, schema, templates and CRDs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from federation.cli.chart import values as trees
from federation.cli.chart import yamltext
from federation.cli.chart.evaluate import Evaluator
from federation.cli.chart.template import Parsed, parse
from federation.cli.chart.values import Values
from federation.model.ids import SYSTEM_NAMESPACE

FOLDER = Path(str(files("federation.cli.chart") / "isthmus"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What helm calls a release: the name, the namespace, and who makes it."""

    name: str = "isthmus"
    namespace: str = SYSTEM_NAMESPACE
    service: str = "isthmus"


@dataclass(frozen=True, slots=True)
class Chart:
    """Immutable; `templates` by file name."""

    about: Mapping[str, Any]
    defaults: Values
    schema: Mapping[str, Any]
    templates: Mapping[str, Parsed]
    crds: tuple[str, ...]

    @property
    def version(self) -> str:
        return str(self.about["appVersion"])

    def values(self, given: Mapping[str, Any], *, where: str = "values") -> Values:
        """The defaults with `given` above them; raises InvalidValues."""
        merged = trees.merge(self.defaults, given)
        trees.check(merged, self.schema, where=where)
        return merged

    def render(self, values: Values, release: Release) -> dict[str, str]:
        """The text of each template that says something, in the order of helm; raises TemplateError."""
        data = {
            "Values": values,
            "Chart": {"Name": self.about["name"], "Version": self.about["version"], "AppVersion": self.version},
            "Release": {"Name": release.name, "Namespace": release.namespace, "Service": release.service},
        }
        evaluator = Evaluator.of(self.templates)
        rendered = {
            name: evaluator.render(parsed, data, name=name)
            for name, parsed in sorted(self.templates.items())
            if name.endswith(".yaml")
        }
        return {name: text.strip() for name, text in rendered.items() if text.strip()}


@functools.cache
def chart() -> Chart:
    """The chart of this version of fedctl; raises TemplateError, which is a fault of ours."""
    read = {path.name: path.read_text() for path in sorted((FOLDER / "templates").iterdir())}
    return Chart(
        about=yaml.safe_load((FOLDER / "Chart.yaml").read_text()),
        defaults=yamltext.load((FOLDER / "values.yaml").read_text()),
        schema=trees.schema_of((FOLDER / "values.schema.json").read_text()),
        templates={name: parse(text, name=name) for name, text in read.items()},
        crds=tuple(path.read_text() for path in sorted((FOLDER / "crds").iterdir())),
    )
