"""The custom resources that we install mean what the public APIs mean."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from discovery.kube import crds

FOUND: dict[str, dict[str, Any]] = {one["metadata"]["name"]: one for one in map(yaml.safe_load, crds.manifests())}


def test_these_are_all() -> None:
    assert FOUND.keys() == {
        "serviceexports.multicluster.x-k8s.io",
        "serviceimports.multicluster.x-k8s.io",
        "clusterproperties.about.k8s.io",
    }


@pytest.mark.parametrize("one", FOUND.values(), ids=FOUND)
class TestEach:
    def test_both_versions_are_served_and_the_newer_one_is_stored(self, one: dict[str, Any]) -> None:
        versions = {v["name"]: (v["served"], v["storage"]) for v in one["spec"]["versions"]}
        assert versions == {"v1beta1": (True, True), "v1alpha1": (True, False)}

    def test_they_differ_in_nothing_else(self, one: dict[str, Any]) -> None:
        newer, older = (
            {k: v for k, v in version.items() if k not in ("name", "storage")} for version in one["spec"]["versions"]
        )
        assert newer == older
        assert newer["subresources"] == {"status": {}}

    def test_the_name_is_that_of_its_resource(self, one: dict[str, Any]) -> None:
        assert one["metadata"]["name"] == f"{one['spec']['names']['plural']}.{one['spec']['group']}"


def test_protected_groups_carry_their_approval() -> None:
    # The API server refuses to serve a group below k8s.io without it.
    annotations = FOUND["clusterproperties.about.k8s.io"]["metadata"]["annotations"]
    assert annotations["api-approved.kubernetes.io"].startswith("https://github.com/kubernetes/enhancements/pull/")


def test_several_conflict_reasons_fit_into_one_condition() -> None:
    schema = FOUND["serviceexports.multicluster.x-k8s.io"]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    condition = schema["properties"]["status"]["properties"]["conditions"]["items"]["properties"]
    assert re.fullmatch(condition["reason"]["pattern"].strip("^$"), "PortConflict,TypeConflict")
