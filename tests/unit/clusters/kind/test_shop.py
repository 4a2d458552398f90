"""The objects of a shop, and that their code runs from what is in the ConfigMap and in the image."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clusters.kind.shop import CALLER, CODE, FOLDER, LISTEN, PORT, caller_pod, code, offered, workload
from federation import __version__

METADATA = {"name": "echo", "namespace": "shop"}


@pytest.mark.parametrize("module", ["clusters.caller", "clusters.requester", "clusters.workloads"])
def test_the_code_runs_without_the_rest_of_the_harness(module: str, tmp_path: Path):
    (tmp_path / "clusters").mkdir()
    for name, text in code().items():
        (tmp_path / "clusters" / name).write_text(text)
    run = f"runpy.run_module({module!r}, run_name='__main__')"
    script = f"import clusters, runpy, sys; sys.argv[1:] = ['--help']; print(clusters.__file__); {run}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
    assert "--port" in done.stdout
    assert sorted(code()) == sorted(CODE)


def test_a_service_leads_to_the_port_of_its_pods_which_wait_for_late_calls():
    deployment, service = offered(METADATA, "west", 2)
    assert isinstance(deployment, dict)
    assert isinstance(service, dict)
    template: Any = deployment["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert deployment["spec"]["replicas"] == 2
    assert container["command"][-6:] == ["--cluster", "west", "--address", "0.0.0.0", "--port", str(LISTEN)]
    assert container["readinessProbe"]["httpGet"]["port"] == LISTEN
    assert container["lifecycle"]["preStop"]["sleep"]["seconds"] < template["spec"]["terminationGracePeriodSeconds"]
    assert [(port["port"], port["targetPort"]) for port in service["spec"]["ports"]] == [(PORT, LISTEN)]
    assert service["spec"]["selector"] == template["metadata"]["labels"] == {"app": "echo"}


@pytest.mark.parametrize("way", ["redirect", "loopback", "gateway"])
def test_a_pod_that_goes_a_way_asks_to_be_injected(way: Any):
    pod = caller_pod(METADATA, ["clusters.caller", "x"], way)
    assert pod["metadata"]["labels"] == {"isthmus.io/inject": "enabled"}
    assert pod["metadata"]["annotations"] == {"isthmus.io/way": way}
    assert [one["name"] for one in pod["spec"]["containers"]] == [CALLER]


def test_a_pod_without_a_way_is_untouched():
    assert caller_pod(METADATA, ["clusters.caller", "x"], "")["metadata"] == METADATA


def test_workloads_run_from_the_image_that_is_installed():
    container = workload("x", ["clusters.workloads", "http"])
    assert container["image"] == f"isthmus:{__version__}"
    assert container["env"] == [{"name": "PYTHONPATH", "value": FOLDER}]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == [f"{FOLDER}/clusters"]
