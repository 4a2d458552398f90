from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.aio.clock import SystemClock
from federation.cli.main import run
from federation.trust.authority import Authority
from federation.trust.pem import armour
from sidecar.injector.inject import injected

SETTINGS: dict[str, Any] = {
    "state_directory": "/var/lib/isthmus/injector",
    "agent": {
        "trust_domain": "east.test.isthmus",
        "enrolment": ["10.96.7.1:7446"],
        "anchors": "/etc/isthmus/trust/root.pem",
        "service_account_token": "/var/run/secrets/isthmus/token",
    },
    "image": "isthmus:0.1.0",
    "pods": {"dns": {"servers": ["10.96.0.10"]}},
}
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec:
  containers: [{name: web, image: "web:1"}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
"""


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """The options by which nobody has to ask a cluster."""
    authority = Authority.open(tmp_path / "ca", trust_domain="east.test.isthmus", clock=SystemClock())
    (tmp_path / "root.pem").write_bytes(armour(authority.bundle.roots))
    (tmp_path / "injector.yaml").write_text(yaml.safe_dump(SETTINGS))
    (tmp_path / "pod.yaml").write_text(POD)
    return ["--settings", str(tmp_path / "injector.yaml"), "--trust", str(tmp_path / "root.pem")]


def test_a_file_comes_out_injected(tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inject", str(tmp_path / "pod.yaml"), *given]) == 0
    out, err = capsys.readouterr()
    pod, service = yaml.safe_load_all(out)
    assert injected(pod)
    assert service == list(yaml.safe_load_all(POD))[1]
    assert err == "Pod shop/web: redirect way\n"
    settings = yaml.safe_load(pod["metadata"]["annotations"]["isthmus.io/sidecar"])
    assert settings["agent"]["enrolment"] == ["10.96.7.1:7446"]
    assert pod["metadata"]["annotations"]["isthmus.io/trust"] == (tmp_path / "root.pem").read_text()
    assert pod["spec"]["dnsConfig"]["searches"][0] == "shop.svc.cluster.local"


def test_from_standard_input_another_way_as_json(
    given: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = POD.replace(", namespace: shop", "")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert run(["inject", "-", *given, "-n", "other", "--way", "loopback", "--dns", "10.0.0.9", "-o", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    pod = listed["items"][0]
    assert [c["name"] for c in pod["spec"]["initContainers"]] == ["isthmus-sidecar"]
    assert pod["spec"]["dnsConfig"]["searches"][0] == "other.svc.cluster.local"
    assert yaml.safe_load(pod["metadata"]["annotations"]["isthmus.io/sidecar"])["dns"]["upstream"] == ["10.0.0.9"]


def test_a_file_without_pods_passes_and_says_so(
    tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "service.yaml").write_text(POD.split("---\n")[1])
    assert run(["inject", str(tmp_path / "service.yaml"), *given]) == 0
    out, err = capsys.readouterr()
    assert yaml.safe_load(out)["kind"] == "Service"
    assert "nothing in it that makes pods" in err


@pytest.mark.parametrize(
    ("words", "change", "code", "says"),
    [
        (["nowhere.yaml"], {}, "manifest_invalid", "cannot read nowhere.yaml"),
        (["pod.yaml", "--way", "sideways"], {}, "usage", "none of redirect, loopback, gateway"),
        (["pod.yaml", "-n", "No_Label"], {}, "invalid_name", "is no DNS label"),
        (["pod.yaml", "--trust", "pod.yaml"], {}, "anchors_invalid", "holds no certificate"),
        (["pod.yaml", "--trust", "nowhere.pem"], {}, "anchors_invalid", "cannot read nowhere.pem"),
        (["pod.yaml"], {"surprise": 1}, "invalid_settings", "surprise"),
        (["pod.yaml"], {"agent": None}, "invalid_settings", "set either agent_directory or agent"),
        (["pod.yaml"], {"pods": {}}, "invalid_settings", "not known who answers names"),
        (["pod.yaml"], {"image": ""}, "invalid_settings", "image is empty"),
        (["pod.yaml"], {"pods": {"way": "loop"}}, "invalid_settings", "pods.way"),
        (["pod.yaml"], {"pods": {"range": "10.0.0.0/30"}}, "invalid_settings", "is too small"),
        (["pod.yaml"], {"pods": {"resources": {"cpu": "x"}}}, "invalid_settings", "is no quantity"),
        (
            ["pod.yaml"],
            {"agent": {**SETTINGS["agent"], "enrolment": ["isthmus-agent.isthmus-system.svc:7446"]}},
            "invalid_settings",
            "which a pod cannot look up before its sidecar runs",
        ),
    ],
)
def test_bad_input_is_one_clear_line(
    tmp_path: Path,
    given: list[str],
    words: list[str],
    change: dict[str, Any],
    code: str,
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "injector.yaml").write_text(yaml.safe_dump({**SETTINGS, **change}))
    assert run(["inject", *given, *words, "-o", "json"]) == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] == code
    assert says in error["message"]
    assert "\n" not in error["message"]
