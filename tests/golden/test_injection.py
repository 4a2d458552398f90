"""What pods look like once they are injected, whole: compared with golden YAML, a file for each way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.injector.inject import inject
from sidecar.injector.manifests import dump
from sidecar.injector.options import ClusterDns, Options
from sidecar.injector.patch import diff

FOLDER = Path(__file__).with_name("injection")
OPTIONS = Options(
    image="isthmus:0.1.0",
    trust_domain="east.example.isthmus",
    enrolment=("10.96.7.1:7446",),
    roots="-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    dns=ClusterDns(servers=("10.96.0.10",), searches=("corp.example",)),
    version="0.1.0",
)
POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"generateName": "web-6d4b75cb6d-", "labels": {"app": "web"}},
    "spec": {
        "serviceAccountName": "web",
        "dnsPolicy": "ClusterFirst",
        "initContainers": [{"name": "migrate", "image": "web:1", "command": ["migrate"]}],
        "containers": [{"name": "web", "image": "web:1", "ports": [{"containerPort": 8080}]}],
        "volumes": [{"name": "data", "emptyDir": {}}],
    },
}


@pytest.mark.parametrize("way", ["redirect", "loopback", "gateway"])
def test_an_injected_pod_is_the_golden_one(way: str, request: pytest.FixtureRequest) -> None:
    metadata = {**POD["metadata"], "annotations": {"isthmus.io/way": way}}
    made = inject({**POD, "metadata": metadata}, namespace="shop", options=OPTIONS).pod
    text = dump([made])
    golden = FOLDER / f"{way}.yaml"
    if request.config.getoption("--update-golden"):
        golden.write_text(text)
    assert golden.read_text() == text


def test_the_patch_of_a_pod_is_the_golden_one(request: pytest.FixtureRequest) -> None:
    """As an API server gets it."""
    made = inject(POD, namespace="shop", options=OPTIONS).pod
    text = yaml.safe_dump(diff(POD, made), sort_keys=False, width=120)
    golden = FOLDER / "patch.yaml"
    if request.config.getoption("--update-golden"):
        golden.write_text(text)
    assert golden.read_text() == text
