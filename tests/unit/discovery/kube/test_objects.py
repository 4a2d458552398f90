"""The objects of an installation: their names, and their order."""

from __future__ import annotations

import pytest

from discovery.kube.objects import ORDER, Name, in_order, rank
from federation.errors import InvalidInput


def test_names_come_back() -> None:
    for name in (Name("Service", "x", "y"), Name("ClusterRole", "", "z")):
        assert Name.parse(str(name)) == name
    assert Name("Service", "x", "y").title == "Service x/y"
    assert Name("ClusterRole", "", "z").title == "ClusterRole z"


def test_what_has_no_namespace_is_known_without_one() -> None:
    assert Name.of({"kind": "ClusterRole", "metadata": {"name": "z", "namespace": "x"}}) == Name("ClusterRole", "", "z")
    with pytest.raises(InvalidInput, match="a Job is no part"):
        Name.of({"kind": "Job", "metadata": {"name": "z"}})


def test_what_others_refer_to_comes_first() -> None:
    kinds = [resource.kind for resource in ORDER]
    documents = [{"kind": kind, "metadata": {"name": "n", "namespace": "x"}} for kind in reversed(kinds)]
    assert [one["kind"] for one in in_order(documents)] == kinds
    assert rank(Name("Namespace", "", "x")) == 0
