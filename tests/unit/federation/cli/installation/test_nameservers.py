"""Whose pods read a Corefile, and which of them have to begin anew."""

from __future__ import annotations

from typing import Any

import pytest

from discovery.kube.stubdomain import Edit
from federation.cli.installation.nameservers import ANNOTATION, due, reads


def workload(*volumes: dict[str, Any], mark: str | None = None) -> dict[str, Any]:
    metadata = {} if mark is None else {"annotations": {ANNOTATION: mark}}
    return {"spec": {"template": {"metadata": metadata, "spec": {"volumes": list(volumes)}}}}


@pytest.mark.parametrize(
    ("volumes", "expected"),
    [
        ([{"name": "config", "configMap": {"name": "coredns"}}], True),
        ([{"name": "x", "emptyDir": {}}, {"projected": {"sources": [{"configMap": {"name": "coredns"}}]}}], True),
        ([{"name": "config", "configMap": {"name": "node-local-dns"}}], False),
        ([{"secret": {"secretName": "coredns"}}], False),
        ([], False),
    ],
)
def test_who_reads_it(volumes: list[dict[str, Any]], expected: bool) -> None:
    assert reads(workload(*volumes), "coredns") is expected


CHANGED, SAME = Edit("+ a", True, block="new", version="7"), Edit("", True, block="new", version="7")
UNDONE, NEVER = Edit("- a", True, block="", version="8"), Edit("", True, block="", version="8")


@pytest.mark.parametrize(
    ("mark", "edit", "expected"),
    [
        (None, CHANGED, "new@7"),
        ("old@3", CHANGED, "new@7"),
        ("new@3", CHANGED, "new@7"),  # taken out and put in again without a restart
        (None, SAME, "new@7"),  # the run that changed it was interrupted
        ("new@3", SAME, ""),
        ("new@3", UNDONE, "none@8"),
        ("new@3", NEVER, "none@8"),
        ("none@3", UNDONE, "none@8"),
        ("none@3", NEVER, ""),
        (None, NEVER, ""),
    ],
)
def test_who_is_due(mark: str | None, edit: Edit, expected: str) -> None:
    assert due(workload(mark=mark), edit) == expected
