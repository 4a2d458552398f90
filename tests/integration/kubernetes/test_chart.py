"""fedctl and helm make the same of the chart, over a matrix of values; a real API server takes all of it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusters.apiserver import running
from federation.cli.chart.source import FOLDER, Release, chart
from federation.errors import IsthmusError

pytestmark = pytest.mark.integration

ALL = {
    "cluster": "east",
    "federation": "example.isthmus",
    "registry": {"enabled": True},
    "agent": {"enabled": True},
    "gateway": {"enabled": True},
    "injector": {"enabled": True},
}
SCHEDULING = {
    "podAnnotations": {"example.com/note": "yes", "prometheus.io/scrape": "true"},
    "nodeSelector": {"kubernetes.io/os": "linux", "example.com/disk": "no"},
    "tolerations": [{"key": "dedicated", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1000000}],
    "priorityClassName": "system-cluster-critical",
}
MATRIX: dict[str, dict[str, Any]] = {
    "nothing": {},
    "all": ALL,
    "registry": {"federation": "example.isthmus", "registry": {"enabled": True, "address": "192.0.2.10"}},
    "registry-balanced": {
        "federation": "example.isthmus",
        "registry": {
            "enabled": True,
            "address": "registry.example.com",
            "service": {"type": "LoadBalancer", "annotations": {"example.com/pool": "1"}},
            "persistence": {"enabled": False},
        },
    },
    "registry-volume": {
        "federation": "example.isthmus",
        "registry": {"enabled": True, "persistence": {"size": "20Gi", "storageClass": "fast"}},
    },
    "agent": {"cluster": "east", "agent": {"enabled": True, "replicas": 1, "createNamespaces": True}},
    "vms": {"cluster": "east", "agent": {"enabled": True, "vms": {"enabled": True, "address": "192.0.2.10"}}},
    "vms-balanced": {
        "cluster": "east",
        "agent": {
            "enabled": True,
            "vms": {
                "enabled": True,
                "address": "vms.example.com",
                "service": {"type": "LoadBalancer", "annotations": {"a/b": "c"}},
            },
        },
    },
    "gateway": {"gateway": {"enabled": True, "replicas": 3, "service": {"nodePort": 32000}}},
    "gateway-address": {"gateway": {"enabled": True, "address": "192.0.2.30"}},
    "gateway-balanced": {**ALL, "gateway": {"enabled": True, "service": {"type": "LoadBalancer", "port": 443}}},
    "gateway-nat": {"gateway": {"enabled": True, "service": {"type": "None"}}},
    "ipv6": {**ALL, "ipFamily": "IPv6", "registry": {"enabled": True, "address": "[2001:db8::1]"}},
    "namespace": {**ALL, "namespace": {"create": True, "podSecurity": "baseline"}},
    "image": {
        **ALL,
        "image": {"repository": "registry.example.com:5000/mesh/isthmus", "tag": "1.2.3-rc.1", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "pull"}],
    },
    "long-tag": {"gateway": {"enabled": True}, "image": {"tag": f"{'a' * 62}.{'b' * 40}"}},
    "digest": {"gateway": {"enabled": True}, "image": {"tag": "x", "digest": f"sha256:{'ab' * 32}"}},
    "policies": {
        **ALL,
        "networkPolicy": {
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
            "apiServerPorts": [6443],
            "consulPorts": [8500, 8501],
        },
    },
    "no-policies": {**ALL, "networkPolicy": {"enabled": False}},
    "scheduling": {
        **ALL,
        "registry": {"enabled": True, **SCHEDULING},
        "agent": {"enabled": True, **SCHEDULING},
        "gateway": {"enabled": True, **SCHEDULING, "drainSeconds": 60, "resources": {"requests": {"cpu": "2"}}},
        "injector": {"enabled": True, **SCHEDULING, "failurePolicy": "Fail", "timeoutSeconds": 10},
    },
    "settings": {
        **ALL,
        "registry": {"enabled": True, "settings": {"quotas": {"services": 0, "bytes": 67108864}, "lease": 7.5}},
        "agent": {
            "enabled": True,
            "settings": {
                "dns": {"ttl": 0, "upstream": ["192.0.2.53", "::1"]},
                "log": {"json": False},
                "consul": {"datacenters": {"dc1": "shop"}},
                "identities": {"991": ["shop/*"]},
                "suffix": "",
            },
        },
    },
}
NASTY = [
    *(
        "",
        " ",
        "a b",
        "a: b",
        "a:b",
        "- a",
        "-a",
        "-",
        "#a",
        "a #b",
        "a#b",
        "*a",
        "&a",
        "!a",
        "%a",
        "@a",
        "`a",
        "|",
        ">",
    ),
    *("true", "True", "yes", "NO", "on", "Off", "y", "n", "null", "Null", "~", ".", "..", ".inf", "-.INF"),
    *("1", "-1", "+1", "0x1f", "0b1", "0o7", "017", "1_000", "1.5", "1.", ".5", "1e3", "1.0e+3", "190:20:30", "1:30"),
    *(
        "2026-11-26",
        "2026-11-26T14:00:00Z",
        "12:34",
        "::1",
        "[::1]:7400",
        "{a}",
        "[a]",
        "a,b",
        "'a'",
        '"a"',
        "a'b",
        'a"b',
    ),
    *("ä", "日本", "a\\b", "a\tb", "trailing ", " leading", "two\nlines", "ends\n", "\nbegins", "a\n\nb", "x" * 200),
    *(
        "word " * 60,
        "? a",
        "?a",
        "a?",
        ": a",
        "a:",
        "---",
        "--- a",
        "...",
        "%YAML",
        "sha256:00",
        "1.2.3",
        "10Gi",
        "0.0.0.0:53",
    ),
]


def documents(text: str) -> dict[tuple[str, str], Any]:
    """By kind and name; a name that comes twice is an error."""
    found: dict[tuple[str, str], Any] = {}
    for one in yaml.safe_load_all(text):
        if one:
            key = (one["kind"], one["metadata"]["name"])
            assert key not in found
            found[key] = one
    return found


def settings(found: dict[tuple[str, str], Any], component: str) -> str:
    """The file that the pods of a component begin with."""
    volumes = found["Deployment", f"isthmus-{component}"]["spec"]["template"]["spec"]["volumes"]
    (name,) = (volume["configMap"]["name"] for volume in volumes if volume["name"] == "settings")
    text: str = found["ConfigMap", name]["data"][f"{component}.yaml"]
    return text


def ours(given: dict[str, Any], *, service: str = "isthmus") -> dict[tuple[str, str], Any]:
    values = chart().values(given)
    made = chart().render(values, Release(name="mesh", namespace="isthmus-system", service=service))
    return documents("\n---\n".join(made.values()))


def helm(program: Path, folder: Path, given: dict[str, Any], *more: str) -> subprocess.CompletedProcess[str]:
    file = folder / "values.yaml"
    file.write_text(json.dumps(given))  # JSON is YAML, and means one thing only
    command = [str(program), "template", "mesh", str(FOLDER), "--namespace=isthmus-system", f"--values={file}", *more]
    home = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, env=home, timeout=60)


@pytest.mark.parametrize("given", MATRIX.values(), ids=MATRIX)
def test_helm_makes_the_same(given: dict[str, Any], helm_program: Path, tmp_path: Path) -> None:
    done = helm(helm_program, tmp_path, given)
    assert done.returncode == 0, done.stderr
    assert documents(done.stdout) == ours(given, service="Helm")


def test_helm_writes_text_numbers_and_nothing_like_we_do(helm_program: Path, tmp_path: Path) -> None:
    """The settings in a ConfigMap are text: they are compared to the byte, and so is their checksum."""
    notes: dict[str, Any] = {f"k{number}": text for number, text in enumerate(NASTY)}
    notes |= {"numbers": [0, -1, 1.5, 67108864, 1000000, 0.0001], "flags": [True, False], "empty": [{}, []]}
    notes |= {name: 1 for name in ("991", "1000", "17", "shop", "Shop", "a_b", "a-b", "a.b", "on", "null", "z")}
    given = {"gateway": {"enabled": True, "settings": {"notes": notes}}}
    done = helm(helm_program, tmp_path, given)
    assert done.returncode == 0, done.stderr
    theirs, made = (settings(found, "gateway") for found in (documents(done.stdout), ours(given)))
    assert made == theirs
    assert yaml.safe_load(made)["notes"] == notes


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"agent": {"enabled": True}}, "cluster is empty"),
        ({"registry": {"enabled": True}}, "federation is empty"),
        ({"cluster": "east", "agent": {"enabled": True, "vms": {"enabled": True}}}, "agent.vms.address is empty"),
        ({"gatway": {"enabled": True}}, "gatway"),
        ({"gateway": {"replicas": "two"}}, "replicas"),
        ({"gateway": {"service": {"type": "nodeport"}}}, "type"),
        ({"cluster": "East"}, "cluster"),
        ({"registry": {"address": "192.0.2.1:7400"}}, "address"),
    ],
)
def test_helm_refuses_the_same(given: dict[str, Any], why: str, helm_program: Path, tmp_path: Path) -> None:
    with pytest.raises(IsthmusError, match=why):
        ours(given)
    done = helm(helm_program, tmp_path, given)
    assert done.returncode != 0
    assert why in done.stderr


def test_null_takes_a_default_away_as_with_helm(helm_program: Path, tmp_path: Path) -> None:
    given = {"gateway": {"enabled": True, "resources": {"limits": None}}}
    done = helm(helm_program, tmp_path, given)
    assert done.returncode == 0, done.stderr
    assert documents(done.stdout) == ours(given, service="Helm")
    (container,) = ours(given)["Deployment", "isthmus-gateway"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {"requests": {"cpu": "100m", "memory": "192Mi"}}


async def test_an_api_server_takes_every_document_and_admits_every_pod_as_restricted(
    testbed: dict[str, Path], tmp_path: Path
) -> None:
    """Server-side apply, validated, as a dry run; what a Deployment only warns of is tried with the pod itself."""
    async with running(tmp_path, "one", controllers=False, install=()) as (cluster,), cluster.connect() as client:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        await client.create_namespace("isthmus-system", **labels)
        for account in ("registry", "isthmus-agent", "gateway", "injector"):
            await client.apply(
                {
                    "apiVersion": "v1",
                    "kind": "ServiceAccount",
                    "metadata": {"name": account, "namespace": "isthmus-system"},
                }
            )
        query = {"fieldManager": "test", "dryRun": "All", "fieldValidation": "Strict"}
        pods = 0
        for name, given in MATRIX.items():
            for document in ours(given).values():
                if document["kind"] == "Namespace":
                    document["metadata"]["labels"].pop("pod-security.kubernetes.io/enforce")  # ours is stricter
                kind = document["kind"]
                metadata = document["metadata"]
                resource = await client.resource(document["apiVersion"], kind)
                path = resource.path(metadata.get("namespace"), metadata["name"])
                taken = await client.request(
                    "PATCH", path, document, query=query, content_type="application/apply-patch+yaml"
                )
                assert taken["metadata"]["name"] == metadata["name"], name
                if kind in ("Deployment", "StatefulSet"):
                    template = document["spec"]["template"]
                    volumes = template["spec"]["volumes"]
                    for claim in document["spec"].get("volumeClaimTemplates", []):
                        volumes.append({"name": claim["metadata"]["name"], "emptyDir": {}})
                    template["spec"].pop("priorityClassName", None)  # kept for kube-system by a quota elsewhere
                    pod = {"apiVersion": "v1", "kind": "Pod", **template}
                    pod["metadata"] = {**template["metadata"], "name": "x", "namespace": "isthmus-system"}
                    where = (await client.resource("v1", "Pod")).path("isthmus-system")
                    await client.request(
                        "POST", where, pod, query={k: v for k, v in query.items() if k != "fieldManager"}
                    )
                    pods += 1
        assert pods > len(MATRIX)
