from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import yaml

from federation.errors import InvalidInput
from sidecar.injector.containers import VOLUMES
from sidecar.injector.inject import SYSCTL, Decision, inject
from sidecar.injector.options import INJECT, INJECTED, SETTINGS, TRUST, WAY, ClusterDns, Options, Way
from sidecar.settings import SidecarSettings

OPTIONS = Options(
    image="isthmus:0.1.0",
    trust_domain="east.test.isthmus",
    enrolment=("10.96.7.1:7446",),
    roots="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    dns=ClusterDns(servers=("10.96.0.10",), domain="cluster.local", searches=("corp.example",)),
    version="0.1.0",
)
Pod = dict[str, Any]


def pod(
    *,
    labels: dict[str, str] | None = None,
    annotations: dict[str, Any] | None = None,
    container: Pod | None = None,
    **spec: Any,
) -> Pod:
    metadata: Pod = {"name": "web-1"}
    if labels is not None:
        metadata["labels"] = labels
    if annotations is not None:
        metadata["annotations"] = annotations
    containers = [{"name": "web", "image": "web:1", **(container or {})}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers, **spec}}


def done(given: Pod, options: Options = OPTIONS, namespace: str = "shop", owner: str = "") -> Decision:
    return inject(given, namespace=namespace, options=options, owner=owner)


def with_way(way: Way | str, **more: Any) -> Pod:
    return pod(annotations={WAY: str(way)}, **more)


def settings_of(given: Pod) -> Pod:
    made: Pod = yaml.safe_load(given["metadata"]["annotations"][SETTINGS])
    return made


# --- who gets one


@pytest.mark.parametrize(
    ("given", "namespace", "reason"),
    [
        (pod(), "kube-system", "nothing is injected in namespace kube-system"),
        (pod(), "kube-node-lease", "nothing is injected in namespace kube-node-lease"),
        (pod(), "isthmus-system", "nothing is injected in namespace isthmus-system"),
        (pod(labels={INJECT: "disabled"}), "shop", f"its label {INJECT} says disabled"),
        (pod(labels={INJECT: "false"}), "shop", f"its label {INJECT} says false"),
        (pod(hostNetwork=True), "shop", "its network is its node's (hostNetwork)"),
        (pod(annotations={"kubernetes.io/config.mirror": "x"}), "shop", "it is a static pod of its node"),
        (pod(os={"name": "windows"}), "shop", "it is for windows"),
        (pod(nodeSelector={"kubernetes.io/os": "windows"}), "shop", "it is for windows"),
    ],
)
def test_pods_that_are_left_alone(given: Pod, namespace: str, reason: str) -> None:
    decision = done(given, namespace=namespace)
    assert (decision.way, decision.reason) == (None, reason)
    assert decision.pod == given


def test_a_pod_in_a_namespace_that_opted_in_and_one_that_did_itself() -> None:
    assert done(pod()).way is Way.REDIRECT
    assert done(pod(labels={INJECT: "enabled"})).way is Way.REDIRECT
    assert done(pod(labels={INJECT: "true"})).way is Way.REDIRECT


@pytest.mark.parametrize("way", list(Way))
def test_a_pod_is_injected_once(way: Way) -> None:
    first = done(with_way(way))
    again = done(first.pod)
    assert again.pod == first.pod
    assert (again.way, again.reason) == (None, "it was injected before, by version 0.1.0")


def test_what_arrives_is_not_touched() -> None:
    given = pod(dnsConfig={"searches": ["x.example"]}, securityContext={"sysctls": [{"name": "a", "value": "1"}]})
    before = copy.deepcopy(given)
    done(given)
    assert given == before


def test_an_annotation_that_was_copied_without_the_containers_is_not_believed() -> None:
    decision = done(pod(annotations={INJECTED: "0.0.1", SETTINGS: "old", WAY: "loopback"}))
    assert decision.way is Way.LOOPBACK
    assert decision.pod["metadata"]["annotations"][INJECTED] == "0.1.0"
    assert settings_of(decision.pod)["way"] == "loopback"


# --- what it gets


def test_the_redirect_way() -> None:
    made = done(pod(initContainers=[{"name": "migrate", "image": "web:1"}], volumes=[{"name": "data"}])).pod
    spec = made["spec"]
    assert [c["name"] for c in spec["initContainers"]] == ["isthmus-redirect", "isthmus-sidecar", "migrate"]
    rule, sidecar, _ = spec["initContainers"]
    assert rule["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    assert "restartPolicy" not in rule
    assert rule["args"] == ["--network", "240.64.0.0/12", "--port", "15001"]
    assert sidecar["restartPolicy"] == "Always"
    assert "readinessProbe" not in sidecar
    assert sidecar["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert sidecar["securityContext"]["runAsUser"] == 65532
    assert [v["name"] for v in spec["volumes"]] == ["data", *VOLUMES]
    assert made["metadata"]["annotations"][TRUST] == OPTIONS.roots
    assert made["metadata"]["annotations"][INJECTED] == "0.1.0"
    assert made["metadata"]["annotations"][WAY] == "redirect"


def test_the_loopback_way_has_no_privilege_at_all() -> None:
    made = done(with_way("loopback")).pod
    assert [c["name"] for c in made["spec"]["initContainers"]] == ["isthmus-sidecar"]
    assert "NET_ADMIN" not in yaml.safe_dump(made)


def test_the_gateway_way_has_nothing() -> None:
    given = with_way("gateway")
    made = done(given).pod
    assert made["spec"] == given["spec"]
    assert made["metadata"]["annotations"] == {WAY: "gateway", INJECTED: "0.1.0"}


def test_the_gateway_way_where_only_the_agent_knows_the_names() -> None:
    made = done(with_way("gateway"), replace(OPTIONS, gateway_dns="10.96.7.1")).pod
    assert made["spec"]["dnsPolicy"] == "None"
    assert made["spec"]["dnsConfig"]["nameservers"] == ["10.96.7.1"]
    assert "initContainers" not in made["spec"]


@pytest.mark.parametrize("way", [Way.REDIRECT, Way.LOOPBACK])
def test_the_settings_are_those_of_a_sidecar(way: Way) -> None:
    """With what Kubernetes fills into the arguments."""
    made = done(with_way(way, container={"ports": [{"containerPort": 8080}]})).pod
    sidecar = next(c for c in made["spec"]["initContainers"] if c["name"] == "isthmus-sidecar")
    keys = {part.partition("=")[0] for part in sidecar["args"] if "=" in part}
    assert keys == {"name", "namespace", "account", "metrics.host", "locality.region", "locality.zone"}
    text = settings_of(made)
    text |= {"name": "web-1", "namespace": "shop", "account": "web", "locality": {"region": "", "zone": ""}}
    settings = msgspec.convert(text, SidecarSettings, strict=True)
    settings.check()
    assert settings.in_pod
    assert settings.way == way.value
    assert settings.agent is not None
    assert settings.agent.enrolment == OPTIONS.enrolment
    assert settings.dns.upstream == ("10.96.0.10",)


def test_ports_of_ours_that_the_workload_has_become_others() -> None:
    ports = {"ports": [{"containerPort": 15464}, {"containerPort": 15001}, {"containerPort": 15465}]}
    made = done(pod(container=ports)).pod
    rule, sidecar = made["spec"]["initContainers"]
    assert sidecar["ports"][0]["containerPort"] == 15466
    assert sidecar["startupProbe"]["httpGet"]["port"] == sidecar["livenessProbe"]["httpGet"]["port"] == 15466
    assert rule["args"][-1] == "15002"
    assert settings_of(made)["metrics"] == {"port": 15466}
    assert settings_of(made)["outbound_port"] == 15002


def test_a_loopback_sidecar_knows_the_ports_that_are_the_workloads() -> None:
    given = with_way(
        "loopback",
        container={
            "ports": [{"containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/", "port": 8081}},
            "livenessProbe": {"tcpSocket": {"port": "named"}},
        },
    )
    given["metadata"]["annotations"]["isthmus.io/listens"] = "9090, 8080"
    assert settings_of(done(given).pod)["listens"] == [8080, 8081, 9090]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"container": {"ports": [{"containerPort": 53, "protocol": "UDP"}]}}, "container web listens on port 53"),
        ({"annotations": {"isthmus.io/listens": "53"}}, "the pod listens on port 53"),
        ({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["127.0.0.1"]}}, "a nameserver in the pod itself"),
    ],
)
def test_a_pod_that_answers_dns_itself_goes_through_the_gateway(more: Pod, why: str) -> None:
    given = pod(**more)
    decision = done(given)
    assert decision.way is Way.GATEWAY
    assert why in decision.warnings[0]
    assert decision.pod["spec"] == given["spec"]
    assert done(decision.pod).way is None


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ({"name": "web-1"}, "metadata.name"),
        ({"name": "web.v2"}, "metadata.name"),
        ({"name": "w" * 64}, "metadata.uid"),
        ({"generateName": "web-6d4b75cb6d-"}, "metadata.name"),
        ({"generateName": "w" * 90}, "metadata.name"),
        ({}, "metadata.name"),
    ],
)
def test_the_name_of_a_sidecar_is_its_pods(name: Pod, path: str) -> None:
    given = pod()
    given["metadata"] = name
    sidecar = done(given).pod["spec"]["initContainers"][1]
    assert sidecar["env"][0] == {
        "name": "POD_NAME",
        "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}},
    }


def test_the_pods_of_a_workload_with_a_long_name() -> None:
    given = pod()
    given["metadata"] = {}
    sidecar = done(given, owner="w" * 60).pod["spec"]["initContainers"][1]
    assert sidecar["env"][0]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.uid"


def test_a_pod_whose_class_of_service_is_guaranteed_keeps_it() -> None:
    fixed = {"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"memory": "1Gi"}}}
    for container in done(pod(container=fixed)).pod["spec"]["initContainers"]:
        resources = container["resources"]
        assert resources["requests"] == resources["limits"] == {"cpu": "100m", "memory": "256Mi"}
    burstable = {"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "10m"}}}
    container = done(pod(container=burstable)).pod["spec"]["initContainers"][0]
    assert container["resources"]["requests"] != container["resources"]["limits"]


@pytest.mark.parametrize("value", ["0", "53", 0])
def test_a_sysctl_that_lets_the_sidecar_listen_stays(value: object) -> None:
    context = {"sysctls": [{"name": SYSCTL, "value": value}], "runAsUser": 7}
    assert done(pod(securityContext=context)).pod["spec"]["securityContext"] == context


def test_the_pods_own_security_context_is_added_to() -> None:
    context = {"runAsUser": 7, "sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}
    assert done(pod(securityContext=context)).pod["spec"]["securityContext"] == {
        "runAsUser": 7,
        "sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}, {"name": SYSCTL, "value": "0"}],
    }


# --- what is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (with_way("redirct"), "annotation isthmus.io/way is 'redirct'"),
        (pod(labels={INJECT: "yes"}), "label isthmus.io/inject is 'yes'"),
        (pod(annotations={"isthmus.io/metrics-port": "80"}), "annotation isthmus.io/metrics-port is '80'"),
        (pod(annotations={"isthmus.io/listens": "80,http"}), "annotation isthmus.io/listens is '80,http'"),
        (pod(annotations={"isthmus.io/memory": "much"}), "annotation isthmus.io/memory is 'much'"),
        (pod(annotations={"isthmus.io/cpu-limit": ""}), "annotation isthmus.io/cpu-limit is ''"),
        (pod(annotations={"isthmus.io/log-level": "loud"}), "annotation isthmus.io/log-level is 'loud'"),
        (pod(annotations={"isthmus.io/names-limit": "0"}), "annotation isthmus.io/names-limit is '0'"),
        (pod(annotations={"isthmus.io/dns-upstream": "dns.example"}), "annotation isthmus.io/dns-upstream is"),
        (
            pod(annotations={"isthmus.io/outbound-port": "8080"}, container={"ports": [{"containerPort": 8080}]}),
            "annotation isthmus.io/outbound-port is 8080, and something in the pod listens there",
        ),
        (pod(volumes=[{"name": "isthmus-state", "emptyDir": {}}]), "the pod has a volume isthmus-state"),
        (
            pod(securityContext={"sysctls": [{"name": SYSCTL, "value": "1024"}]}),
            f"securityContext.sysctls sets {SYSCTL} to '1024'",
        ),
    ],
)
def test_bad_wishes_are_refused_by_name(given: Pod, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        done(given)
    assert caught.value.message.startswith(message)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_annotations_that_are_not_known_are_told() -> None:
    decision = done(pod(annotations={"isthmus.io/waay": "loopback", INJECT: "enabled", "other.example/x": "y"}))
    assert decision.warnings == (
        "annotation isthmus.io/inject has no effect: it is a label",
        "annotation isthmus.io/waay is not known: is isthmus.io/way meant?",
    )


def test_annotations_tune_what_the_pod_gets() -> None:
    wishes = {
        "isthmus.io/cpu": "20m",
        "isthmus.io/memory-limit": "1Gi",
        "isthmus.io/log-level": "debug",
        "isthmus.io/names-limit": "50",
        "isthmus.io/metrics-port": "20000",
        "isthmus.io/dns-upstream": "192.0.2.1, 192.0.2.2:5353",
    }
    made = done(pod(annotations=wishes)).pod
    _, sidecar = made["spec"]["initContainers"]
    assert sidecar["resources"] == {
        "requests": {"cpu": "20m", "memory": OPTIONS.resources.memory},
        "limits": {"memory": "1Gi"},
    }
    settings = settings_of(made)
    assert settings["log"] == {"level": "debug"}
    assert settings["names_limit"] == 50
    assert settings["metrics"] == {"port": 20000}
    assert settings["dns"]["upstream"] == ["192.0.2.1", "192.0.2.2:5353"]


@pytest.mark.parametrize(
    ("given", "way", "found"),
    [
        ("240.65.0.0/16", Way.REDIRECT, "240.65.0.0/16"),
        ("240.65.0.0/16", Way.LOOPBACK, None),
        ("127.200.0.0/16", Way.LOOPBACK, "127.200.0.0/16"),
        ("127.200.0.0/16", Way.REDIRECT, None),
        ("", Way.LOOPBACK, None),
    ],
)
def test_a_range_is_for_the_way_that_can_have_it(given: str, way: Way, found: str | None) -> None:
    """The others have the default of their way: a sidecar would refuse to start with what is none."""
    made = done(with_way(way), replace(OPTIONS, range=given)).pod
    assert settings_of(made).get("range") == found
