from __future__ import annotations

from typing import Any

import pytest
import yaml

from federation.errors import InvalidInput
from sidecar.injector.inject import injected
from sidecar.injector.manifests import TEMPLATES, dump, inject_all, load, summary
from sidecar.injector.options import ClusterDns, Options, Way

OPTIONS = Options(
    image="isthmus:0.1.0",
    trust_domain="east.test.isthmus",
    enrolment=("10.96.7.1:7446",),
    roots="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    dns=ClusterDns(servers=("10.96.0.10",)),
    version="0.1.0",
)
TEMPLATE = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}}


def workload(kind: str, **metadata: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "web", **metadata}}
    if not TEMPLATES[kind]:
        return {**made, **{"spec": TEMPLATE["spec"]}}
    inner: Any = TEMPLATE
    for key in reversed(TEMPLATES[kind]):
        inner = {key: inner}
    return {**made, **inner}


def pod_in(document: dict[str, Any]) -> dict[str, Any]:
    for key in TEMPLATES[document["kind"]]:
        document = document[key]
    return document


@pytest.mark.parametrize("kind", sorted(TEMPLATES))
def test_every_kind_that_makes_pods(kind: str) -> None:
    given = workload(kind, namespace="shop")
    (made,), (done,) = inject_all([given], namespace="", options=OPTIONS)
    assert injected(pod_in(made))
    assert not injected(pod_in(given))
    assert (done.kind, done.namespace, done.name, done.way) == (kind, "shop", "web", Way.REDIRECT)
    assert made["metadata"] == given["metadata"] or kind == "Pod"


def test_everything_else_passes() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": []}}
    listed = {"apiVersion": "v1", "kind": "List", "items": [service, workload("Pod", namespace="shop"), "nonsense"]}
    made, done = inject_all([service, listed], namespace="", options=OPTIONS)
    assert made[0] == service
    assert made[1]["items"][0] == service
    assert made[1]["items"][2] == "nonsense"
    assert injected(made[1]["items"][1])
    assert len(done) == 1


def test_what_goes_out_can_be_read_and_comes_back_unchanged() -> None:
    made, _ = inject_all([workload("Deployment")], namespace="shop", options=OPTIONS)
    text = dump(made)
    assert "isthmus.io/sidecar: |\n" in text  # readable, not one long quoted line
    again, done = inject_all(load(text, where="text"), namespace="shop", options=OPTIONS)
    assert again == made
    assert list(summary(done)) == [
        "Deployment shop/web: unchanged: it was injected before, by version 0.1.0",
    ]


def test_warnings_are_told_with_the_object() -> None:
    given = workload("Pod", namespace="shop", annotations={"isthmus.io/foo": "1"})
    _, done = inject_all([given], namespace="", options=OPTIONS)
    assert list(summary(done)) == [
        "Pod shop/web: redirect way",
        "Pod shop/web: warning: annotation isthmus.io/foo is not known",
    ]


@pytest.mark.parametrize(
    ("document", "code", "message"),
    [
        (workload("Deployment"), "namespace_missing", "Deployment web names no namespace"),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "a"}}, "manifest_invalid", "Pod a/ has no pod"),
        (
            {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"namespace": "a", "name": "x"}, "spec": {}},
            "manifest_invalid",
            "CronJob a/x has no pod: spec.jobTemplate.spec.template is missing",
        ),
        (
            workload("Pod", namespace="a", annotations={"isthmus.io/way": "x"}),
            "annotation_invalid",
            "Pod a/web: annotation isthmus.io/way is 'x'",
        ),
    ],
)
def test_bad_manifests_are_refused_by_name(document: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        inject_all([document], namespace="", options=OPTIONS)
    assert caught.value.error_code == code
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml holds no object"),
        ("---\n---\n", "x.yaml holds no object"),
        ("a: [", "x.yaml:1: no YAML"),
        ("- 1", "x.yaml: document 1 is no Kubernetes object"),
        ("kind: Pod", "x.yaml: document 1 is no Kubernetes object"),
        (yaml.safe_dump(TEMPLATE), "x.yaml: document 1 is no Kubernetes object"),
    ],
)
def test_a_text_without_manifests(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load(text, where="x.yaml")
    assert caught.value.message.startswith(message)
    assert caught.value.error_code == "manifest_invalid"
