"""What is asked of an API server, and how its answers are read."""

from __future__ import annotations

import base64
import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from discovery.kube import crds, rbac
from federation.cli.checks import kube
from federation.cli.checks.facts import Workload

CHART = Path(__file__).parents[4] / "golden" / "install.yaml"


def test_rights_are_asked_for_everything_that_an_installation_makes() -> None:
    texts = [*crds.manifests(), *rbac.manifests(create_namespaces=True), CHART.read_text()]
    made = {document["kind"] for text in texts for document in yaml.safe_load_all(text) if document}
    assert made - {resource.kind for resource, _ in kube.INSTALLED} == set()


@pytest.mark.parametrize(
    ("told", "version"),
    [
        ({"major": "1", "minor": "36"}, (1, 36)),
        ({"major": "1", "minor": "30+"}, (1, 30)),
        ({"major": "1"}, None),
        ({"major": "", "minor": ""}, None),
        ({"major": None, "minor": "1"}, None),
    ],
)
def test_versions(told: dict[str, Any], version: tuple[int, int] | None) -> None:
    assert kube._version(told) == version


def certificate(end: datetime.datetime) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "injector")])
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(1).not_valid_before(end - datetime.timedelta(days=1)).not_valid_after(end)
    return built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_the_last_certificate_of_a_bundle_counts() -> None:
    early, late = (datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (2026, 2027))
    bundle = base64.b64encode(certificate(late) + certificate(early)).decode()
    assert kube._ends(bundle) == int(late.timestamp()) * 10**9


@pytest.mark.parametrize("bundle", ["", "%%%", base64.b64encode(b"nonsense").decode()])
def test_what_is_no_bundle(bundle: str) -> None:
    assert kube._ends(bundle) is None


@pytest.mark.parametrize(
    ("spec", "status", "wanted", "ready", "reason"),
    [
        ({}, {}, 1, 0, ""),
        ({"replicas": 0}, {}, 0, 0, ""),
        ({"replicas": 2}, {"readyReplicas": 2}, 2, 2, ""),
        (
            {"replicas": 2},
            {"readyReplicas": 1, "conditions": [{"status": "True"}, {"status": "False", "message": "no node"}]},
            2,
            1,
            "no node",
        ),
    ],
)
def test_workloads(spec: dict[str, Any], status: dict[str, Any], wanted: int, ready: int, reason: str) -> None:
    held = {"metadata": {"name": "isthmus-agent", "labels": {kube.COMPONENT: "agent"}}, "spec": spec, "status": status}
    made = kube._workload("Deployment", held)
    assert made == Workload("Deployment", "isthmus-agent", "agent", wanted, ready, reason=reason)


@pytest.mark.parametrize(
    ("image", "label", "expected"),
    [
        ("registry.example/isthmus:0.4.2", "0.4.2", "0.4.2"),
        ("registry.example/isthmus:0.4.2", "0.3.0", "0.4.2"),  # what runs is the image
        ("registry.example/isthmus@sha256:00", "0.3.0", "0.3.0"),
        ("registry.example/isthmus:latest", "latest", "latest"),
        ("", None, ""),
    ],
)
def test_the_version_of_a_workload(image: str, label: str | None, expected: str) -> None:
    labels = {} if label is None else {kube.VERSION: label}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "injector", "image": image}]}}
    held = {"metadata": {"name": "isthmus-injector"}, "spec": {"template": template}}
    assert kube._workload("Deployment", held).version == expected
