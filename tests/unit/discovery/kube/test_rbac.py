"""The manifests of the agent's rights: nothing by wildcard, no Secrets of the cluster, a reason beside each rule."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest
import yaml

from discovery.kube.install import parse
from discovery.kube.rbac import manifests


def documents(**options: Any) -> list[dict[str, Any]]:
    return parse(manifests(**options))


def rules(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [rule for one in documents if one["kind"] == kind for rule in one["rules"]]


def test_no_rule_has_a_wildcard() -> None:
    found = documents(create_namespaces=True, in_pod=True)
    for rule in rules(found, "ClusterRole") + rules(found, "Role"):
        assert "*" not in str(rule)
        assert rule["apiGroups"]
        assert rule["resources"]
        assert "nonResourceURLs" not in rule


def test_no_secret_can_be_read_in_the_cluster_and_one_in_the_agents_namespace() -> None:
    found = documents(create_namespaces=True)
    assert not [r for r in rules(found, "ClusterRole") if "secrets" in r["resources"]]
    (own,) = [r for r in rules(found, "Role") if "secrets" in r["resources"]]
    assert (own["resourceNames"], own["verbs"]) == (["isthmus-identity"], ["get"])


def test_nobody_can_be_impersonated_bound_or_escalated() -> None:
    dangerous = {"impersonate", "bind", "escalate", "deletecollection", "approve", "sign"}
    found = documents(create_namespaces=True, in_pod=True)
    for rule in rules(found, "ClusterRole") + rules(found, "Role"):
        assert not dangerous & set(rule["verbs"])


def test_who_joins_by_itself_writes_the_one_secret_and_reads_no_other() -> None:
    found = rules(documents(in_pod=True), "Role")
    granted = {
        (verb, *rule.get("resourceNames", ["any name"]))
        for rule in found
        if "secrets" in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == {("get", "isthmus-identity"), ("update", "isthmus-identity"), ("create", "any name")}


@pytest.mark.parametrize("name", ["agent", "namespaces", "joining"])
def test_a_reason_stands_beside_each_rule(name: str) -> None:
    lines = (files("discovery.kube.rbac") / f"{name}.yaml").read_text().splitlines()
    first = [n for n, line in enumerate(lines) if line.startswith("- apiGroups:")]
    assert first
    for number in first:
        above = lines[number - 1]
        shared = above.startswith("  verbs:")  # a second rule of one reason: what it is limited to differs
        assert above.startswith("# ") or shared, lines[number : number + 3]


def test_the_namespace_is_that_of_the_settings() -> None:
    text = "".join(manifests(namespace="mesh", create_namespaces=True))
    assert "isthmus-system" not in text
    (namespace,) = [d for d in yaml.safe_load_all(text) if d["kind"] == "Namespace"]
    assert namespace["metadata"]["name"] == "mesh"
