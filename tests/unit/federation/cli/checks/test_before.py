"""Findings before the installation: one table for each thing that is looked at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from discovery.kube import corefile
from federation.cli.checks import before
from federation.cli.checks.facts import (
    Crd,
    HostFacts,
    KubeFacts,
    PortFact,
    RegistryFacts,
    Right,
    Webhook,
)
from federation.cli.checks.finding import Code, Finding, Level
from federation.errors import AlreadyExists, Denied, Unavailable
from federation.proto.v1 import registry_pb2 as pb

NOW = 1_800_000_000_000_000_000
HOUR, DAY = 3_600 * 10**9, 86_400 * 10**9
CORE = ".:53 {\n    errors\n    forward . /etc/resolv.conf\n    reload\n}\n"
WITH_STUB = corefile.put(
    CORE, corefile.block(("clusterset.local", "global"), ["10.0.0.1:53"]), zones=("clusterset.local", "global")
)
WELL = KubeFacts(
    context="east",
    server="https://192.0.2.1:6443",
    version=(1, 36),
    version_text="v1.36.3",
    rights=(Right("create", "services", "isthmus-system", True),),
    crds=(Crd("serviceexports.multicluster.x-k8s.io", ("v1beta1",), ("v1beta1", "v1alpha1"), ours=True),),
    namespace="isthmus-system",
    namespace_there=True,
    pod_security={"isthmus-system": "restricted"},
    corefile=WITH_STUB,
    native_sidecars=True,
    webhooks=(Webhook("sidecars.isthmus.io", NOW + DAY),),
)


def of(found: Any, code: Code) -> list[Finding]:
    return [finding for finding in found if finding.code is code]


def test_a_cluster_that_is_well_has_one_finding_for_each_thing() -> None:
    found = list(before.kubernetes(WELL, now_ns=NOW))
    assert {f.level for f in found} == {Level.OK}
    assert [f.code for f in found] == [
        Code.API_SERVER,
        Code.API_VERSION,
        Code.RIGHTS,
        Code.CRDS,
        Code.POD_SECURITY,
        Code.COREDNS,
        Code.STUB_DOMAIN,
        Code.NATIVE_SIDECARS,
        Code.WEBHOOK,
    ]
    assert not any(f.next for f in found)


@pytest.mark.parametrize(
    ("changes", "code", "level", "words"),
    [
        ({"version": (1, 29), "version_text": "v1.29.9"}, Code.API_VERSION, Level.ERROR, "v1.29.9 is too old"),
        ({"version": (1, 30), "version_text": "v1.30.0"}, Code.API_VERSION, Level.OK, "v1.30.0"),
        ({"version": (2, 0), "version_text": "v2.0.0"}, Code.API_VERSION, Level.OK, "v2.0.0"),
        ({"version": None, "version_text": "weird"}, Code.API_VERSION, Level.WARNING, "weird"),
        (
            {"rights": (*WELL.rights, Right("patch", "secrets", "isthmus-system", False))},
            Code.RIGHTS,
            Level.ERROR,
            "1 of 2 rights are missing: patch secrets in isthmus-system",
        ),
        ({"crds": None}, Code.CRDS, Level.WARNING, "cannot be read"),
        ({"crds": (Crd("a.example", None, ("v1",)),)}, Code.CRDS, Level.WARNING, "not there yet: a.example"),
        ({"crds": (Crd("a.example", ("v2",), ("v1",)),)}, Code.CRDS, Level.ERROR, "it serves v2, and v1 is needed"),
        ({"crds": (Crd("a.example", ("v1",), ("v1",)),)}, Code.CRDS, Level.OK, "1 installed by others"),
        ({"pod_security": {"shop": "baseline"}}, Code.POD_SECURITY, Level.WARNING, "shop: "),
        ({"pod_security": {"shop": "privileged"}}, Code.POD_SECURITY, Level.OK, "enforces none"),
        (
            {"pod_security": {}, "namespace_there": False},
            Code.POD_SECURITY,
            Level.OK,
            "isthmus-system does not exist yet",
        ),
        ({"corefile": None, "corefile_missing": "no such"}, Code.COREDNS, Level.WARNING, "no such"),
        ({"corefile": "} {"}, Code.COREDNS, Level.ERROR, "not understood"),
        ({"corefile": CORE.replace("    reload\n", "")}, Code.COREDNS, Level.WARNING, "no `reload`"),
        ({"corefile": CORE}, Code.STUB_DOMAIN, Level.WARNING, "do not find clusterset.local"),
        ({"corefile": CORE + "global:53 {\n    errors\n}\n"}, Code.STUB_DOMAIN, Level.ERROR, "has global:53 already"),
        ({"native_sidecars": False}, Code.NATIVE_SIDECARS, Level.ERROR, "drops restartPolicy"),
        (
            {"native_sidecars": None, "native_sidecars_detail": "forbidden"},
            Code.NATIVE_SIDECARS,
            Level.WARNING,
            "forbidden",
        ),
        (
            {"webhooks": (Webhook("w", NOW - 2 * DAY),)},
            Code.WEBHOOK,
            Level.ERROR,
            "expired 2 d ago: no pod is admitted",
        ),
        ({"webhooks": (Webhook("w", NOW - 1, "Ignore"),)}, Code.WEBHOOK, Level.ERROR, "pods start without a sidecar"),
        ({"webhooks": (Webhook("w", NOW + HOUR // 2),)}, Code.WEBHOOK, Level.WARNING, "ends in 30 min"),
        ({"webhooks": (Webhook("w", None),)}, Code.WEBHOOK, Level.ERROR, "no certificate"),
    ],
)
def test_what_an_api_server_lacks(changes: dict[str, Any], code: Code, level: Level, words: str) -> None:
    (found,) = of(before.kubernetes(replace(WELL, **changes), now_ns=NOW), code)
    assert (found.level, words in found.detail) == (level, True), found
    assert bool(found.next) == (level is not Level.OK)


def test_a_server_that_does_not_answer_has_one_finding() -> None:
    facts = KubeFacts(context="east", failure=Unavailable("no route", hint="look at the kubeconfig"))
    (found,) = before.kubernetes(facts, now_ns=NOW)
    assert (found.code, found.level, found.next) == (Code.API_SERVER, Level.ERROR, "look at the kubeconfig")


def test_a_cluster_that_is_called_otherwise_already() -> None:
    named = replace(WELL, cluster_name="north")
    assert list(before.cluster_name(named, "north")) == list(before.cluster_name(WELL, "north")) == []
    (found,) = before.cluster_name(named, "south")
    assert (found.code, found.level) == (Code.CLUSTER_NAME, Level.ERROR)


@pytest.mark.parametrize(
    ("ranges", "flat", "levels"),
    [
        ({"east": ["10.0.0.0/16"], "west": ["10.1.0.0/16"]}, True, [Level.OK]),
        ({"east": ["10.0.0.0/16"], "west": ["10.0.3.0/24"]}, True, [Level.ERROR]),
        ({"east": ["10.0.0.0/16"], "west": ["10.0.3.0/24"]}, False, [Level.OK]),
        ({"east": ["10.0.0.0/16", "fd00::/48"], "west": ["fd00::/56", "10.9.0.0/16"]}, True, [Level.ERROR]),
        ({"a": ["10.0.0.0/16"], "b": ["10.0.0.0/16"], "c": ["10.0.0.0/16"]}, True, [Level.ERROR] * 3),
        ({"east": ["10.0.0.0/16"]}, True, []),
        ({}, False, []),
    ],
)
def test_equal_pod_ranges_matter_on_one_flat_network_only(
    ranges: dict[str, list[str]], flat: bool, levels: list[Level]
) -> None:
    assert [f.level for f in before.ranges(ranges, flat=flat)] == levels


HOST = HostFacts(system="Linux", release="6.1.0-30-amd64", nft="", ip="", ports=(PortFact("the agent", "0.0.0.0:1"),))


@pytest.mark.parametrize(
    ("changes", "code", "level"),
    [
        ({}, Code.KERNEL, Level.OK),
        ({}, Code.NFTABLES, Level.OK),
        ({}, Code.PORTS, Level.OK),
        ({"system": "Darwin"}, Code.KERNEL, Level.ERROR),
        ({"release": "4.18.0"}, Code.KERNEL, Level.WARNING),
        ({"release": "next"}, Code.KERNEL, Level.WARNING),
        ({"release": "5.4-rc1"}, Code.KERNEL, Level.OK),
        ({"nft": "nft is not installed"}, Code.NFTABLES, Level.WARNING),
        ({"ip": "ip is not installed"}, Code.NFTABLES, Level.WARNING),
        ({"ports": (PortFact("the agent", "0.0.0.0:1", "in use"),)}, Code.PORTS, Level.ERROR),
    ],
)
def test_a_plain_host(changes: dict[str, Any], code: Code, level: Level) -> None:
    (found,) = of(before.host(replace(HOST, **changes)), code)
    assert found.level is level


REGISTRY = RegistryFacts(
    address="192.0.2.10:7401",
    pinned=True,
    token=pb.LookReply(expires_ns=NOW + 600 * 10**9, now_ns=NOW),
    token_cluster="north",
    clock_ns=(NOW, NOW),
)


@pytest.mark.parametrize(
    ("changes", "code", "level", "words"),
    [
        ({}, Code.REGISTRY, Level.OK, "is the one that is pinned"),
        ({"pinned": False}, Code.REGISTRY, Level.OK, "give --token"),
        ({"failure": Denied("another root", code="pin_mismatch")}, Code.REGISTRY, Level.ERROR, "another root"),
        ({}, Code.TOKEN, Level.OK, "good for 10 min"),
        ({"token": None, "token_failure": Denied("was used", code="token_used")}, Code.TOKEN, Level.ERROR, "was used"),
        ({"token_failure": AlreadyExists("north is a member")}, Code.CLUSTER_NAME, Level.ERROR, "is a member"),
        ({"clock_ns": (NOW + 10**8, NOW)}, Code.CLOCK, Level.OK, "agrees"),
        ({"clock_ns": (NOW + 3 * 10**9, NOW)}, Code.CLOCK, Level.WARNING, "3.0 s ahead of"),
        ({"clock_ns": (NOW - 90 * 10**9, NOW)}, Code.CLOCK, Level.ERROR, "90.0 s behind"),
    ],
)
def test_a_registry(changes: dict[str, Any], code: Code, level: Level, words: str) -> None:
    (found,) = of(before.registry(replace(REGISTRY, **changes)), code)
    assert (found.level, words in found.detail) == (level, True), found


def test_a_registry_that_is_away_has_one_finding() -> None:
    facts = replace(REGISTRY, failure=Unavailable("no route"))
    assert [f.code for f in before.registry(facts)] == [Code.REGISTRY]


def test_the_wanted_name() -> None:
    members = (pb.ClusterInfo(name="east"),)
    facts = replace(REGISTRY, members=members)
    assert [f.level for f in before.name_free(facts, "north")] == [Level.OK]
    assert [f.level for f in before.name_free(facts, "east")] == [Level.ERROR]
    assert list(before.name_free(facts, "")) == list(before.name_free(REGISTRY, "east")) == []
    assert list(before.token_for(facts, "north")) == []
    assert [f.code for f in before.token_for(facts, "south")] == [Code.TOKEN]
