"""What the chart makes with its default values, and the parts of it that have their source elsewhere.

`pytest tests/golden --update-golden` writes them anew; read the difference before you commit it.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from discovery.kube import crds, rbac
from federation import __version__
from federation.cli.chart.source import FOLDER, Release, chart
from federation.model.ids import SYSTEM_NAMESPACE

ROOT = next(p for p in Path(__file__).parents if (p / "pyproject.toml").exists())
GOLDEN = Path(__file__).with_name("install.yaml")
LABELS = "labels: {app.kubernetes.io/managed-by: isthmus}"
SHARED = 'labels:\n    {{- include "isthmus.labels" (dict "root" $ "component" "agent") | nindent 4 }}'
RIGHTS = {
    "agent": ".Values.agent.enabled",
    "limits": "and .Values.agent.enabled .Values.agent.admissionPolicy",
    "namespaces": "and .Values.agent.enabled .Values.agent.createNamespaces",
    "joining": ".Values.agent.enabled",
}
EVERYTHING: dict[str, Any] = {
    "cluster": "east",
    "federation": "example.isthmus",
    "namespace": {"create": True},
    "agent": {"enabled": True},
    "gateway": {"enabled": True},
    "injector": {"enabled": True},
    "registry": {"enabled": True, "address": "192.0.2.10"},
}


def template_of(name: str) -> str:
    """The template that says what a file of discovery/kube/rbac says."""
    text = (files("discovery.kube.rbac") / f"{name}.yaml").read_text()
    kept = [part for part in text.split("\n---\n") if "kind: Namespace\n" not in part]
    head = text.partition("\n")[0]
    body = "\n---\n".join(kept).replace(LABELS, SHARED)
    for text in (f'"{SYSTEM_NAMESPACE}"', SYSTEM_NAMESPACE):  # in an expression it is quoted already
        body = body.replace(text, "{{ .Release.Namespace | quote }}")
    comment = "" if body.startswith(head) else f"{head}\n"
    return f"{{{{- if {RIGHTS[name]} }}}}\n{comment}{body.rstrip()}\n{{{{- end }}}}\n"


@pytest.mark.parametrize("name", RIGHTS)
def test_the_rights_of_the_agent_are_those_of_fedctl_install_rbac(name: str, request: pytest.FixtureRequest) -> None:
    path = FOLDER / "templates" / f"rights-{name}.yaml"
    if request.config.getoption("--update-golden"):
        path.write_text(template_of(name))
    assert path.read_text() == template_of(name), "see --update-golden"


def test_they_come_out_the_same() -> None:
    values = chart().values({"cluster": "east", "agent": {"enabled": True, "createNamespaces": True}})
    made = chart().render(values, Release(namespace="mesh"))
    rendered = [one for name in RIGHTS for one in yaml.safe_load_all(made[f"rights-{name}.yaml"])]
    wanted = [
        one
        for text in rbac.manifests(namespace="mesh", create_namespaces=True, in_pod=True)
        for one in yaml.safe_load_all(text)
        if one["kind"] != "Namespace"
    ]
    for one in (*rendered, *wanted):
        labels = one["metadata"].pop("labels")
        assert labels["app.kubernetes.io/managed-by"] == "isthmus"
    assert rendered == wanted


def test_the_custom_resources_are_those_of_fedctl_install_crds(request: pytest.FixtureRequest) -> None:
    wanted = dict(zip((f"{name}.yaml" for name in crds.NAMES), crds.manifests(), strict=True))
    folder = FOLDER / "crds"
    if request.config.getoption("--update-golden"):
        for name, text in wanted.items():
            (folder / name).write_text(text)
    assert {path.name: path.read_text() for path in folder.iterdir()} == wanted, "see --update-golden"


def test_what_is_made_by_default(request: pytest.FixtureRequest) -> None:
    made = chart().render(chart().values(EVERYTHING), Release())
    text = "".join(f"# {name}\n{one}\n---\n" for name, one in made.items()).removesuffix("---\n")
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(text)
    assert GOLDEN.read_text() == text, "see --update-golden"


def test_the_chart_has_the_version_of_the_package() -> None:
    assert (chart().about["version"], chart().version) == (__version__, __version__)


def test_it_is_where_people_look_for_it() -> None:
    assert (ROOT / "deploy" / "helm" / "isthmus").resolve() == FOLDER.resolve()
