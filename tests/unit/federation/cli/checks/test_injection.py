from __future__ import annotations

from typing import Any

import pytest

from federation.cli.checks import after
from federation.cli.checks.facts import KubeFacts
from federation.cli.checks.finding import Level
from federation.cli.checks.injection import lacks


@pytest.mark.parametrize(
    ("metadata", "more", "expected"),
    [
        ({}, {}, True),
        ({"labels": {"isthmus.io/inject": "enabled"}}, {}, True),
        ({"labels": {"isthmus.io/inject": "sideways"}}, {}, True),
        ({"labels": {"isthmus.io/inject": "disabled"}}, {}, False),
        ({"annotations": {"isthmus.io/injected": "0.1.0"}}, {}, False),
        ({"deletionTimestamp": "2026-01-01T00:00:00Z"}, {}, False),
        ({"namespace": "isthmus-system"}, {}, False),
        ({}, {"status": {"phase": "Succeeded"}}, False),
        ({}, {"spec": {"hostNetwork": True}}, False),
    ],
)
def test_who_lacks_a_sidecar(metadata: dict[str, Any], more: dict[str, Any], expected: bool) -> None:
    pod = {"metadata": {"name": "web", "namespace": "shop", **metadata}, "spec": {"containers": []}, **more}
    assert lacks(pod, "isthmus-system") is expected


@pytest.mark.parametrize(("found", "level"), [(None, None), ((), Level.OK), (("shop/a", "shop/b"), Level.WARNING)])
def test_what_is_told_of_them(found: Any, level: Level | None) -> None:
    told = list(after.injection(KubeFacts(context="east", uninjected=found)))
    assert [one.level for one in told] == ([level] if level else [])
    if found:
        assert "none: 2: shop/a, shop/b" in told[0].detail
