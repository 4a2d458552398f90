"""Which ConfigMaps of before have to stay."""

from __future__ import annotations

from typing import Any

import pytest

from discovery.kube.objects import Name
from federation.cli.chart.source import Release, chart
from federation.cli.installation.formersettings import component_of, still_read
from federation.cli.installation.request import documents


def config(name: str, kind: str = "ConfigMap") -> Name:
    return Name(kind, "isthmus-system", name)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (config("isthmus-agent-0123456789"), "agent"),
        (config("isthmus-injector-abcdef0123"), "webhook"),
        (config("isthmus-gateway"), "gateway"),  # as it was called before
        (config("isthmus-trust"), ""),
        (config("isthmus-agent-012345678"), ""),
        (config("isthmus-agent-0123456789-x"), ""),
        (config("isthmus-agent", "Deployment"), ""),
        (config("mine"), ""),
    ],
)
def test_whose_settings_they_are(name: Name, wanted: str) -> None:
    assert component_of(name) == wanted


def test_the_chart_names_them_so() -> None:
    on = {key: {"enabled": True} for key in ("registry", "agent", "gateway", "injector")}
    made = documents(chart(), {"cluster": "east", "federation": "a.b", **on}, Release())
    names = [Name.of(one) for one in made if one["kind"] == "ConfigMap"]
    assert {component_of(name) for name in names} == {"registry", "agent", "gateway", "webhook"}


def pod(*settings: str, phase: str = "Running", **metadata: Any) -> dict[str, Any]:
    volumes = [{"name": "settings", "configMap": {"name": name}} for name in settings]
    return {"metadata": metadata, "spec": {"volumes": volumes}, "status": {"phase": phase}}


OLD = config("isthmus-agent-0123456789")
ALL = ("registry", "agent", "gateway", "webhook")


@pytest.mark.parametrize(
    ("found", "components", "stays"),
    [
        ([pod(OLD.name)], ALL, True),
        ([pod(OLD.name, phase="Pending")], ALL, True),
        ([{"metadata": {}, "spec": pod(OLD.name)["spec"]}], ALL, True),  # a template
        ([pod("isthmus-agent-abcdef0123")], ALL, False),
        ([], ALL, False),
        ([pod(OLD.name, deletionTimestamp="now")], ALL, False),  # its containers do not begin anew
        ([pod(OLD.name, phase="Failed")], ALL, False),
        ([pod(OLD.name)], ("gateway",), False),  # the agent itself goes
    ],
)
def test_they_stay_for_pods_that_may_begin_anew(
    found: list[dict[str, Any]], components: tuple[str, ...], stays: bool
) -> None:
    other = config("isthmus-agent", "Service")
    assert still_read([OLD, other], components, found) == ({OLD} if stays else set())
