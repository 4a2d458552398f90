"""The Kubernetes source on a real API server: every kind of export, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clusters.apiserver import LocalCluster
from clusters.waiting import until
from discovery.sources.base import Preview
from federation.errors import Conflict, Denied, InvalidSettings, IsthmusError, NotFound, Unavailable
from federation.model.ids import ServiceName
from federation.model.service import Endpoint, Grant, Locality, Protocol, Readiness, Service

pytestmark = pytest.mark.integration
MCS = "multicluster.x-k8s.io/v1beta1"


def addresses(claim: Service) -> list[str]:
    return [e.address for e in claim.endpoints]


# --- what is exported ------------------------------------------------------------------------------------------------


async def test_a_service_comes_changes_and_goes(run: Any, make: Any, east: LocalCluster, kube_namespace: str) -> None:
    ns = kube_namespace
    async with east.connect() as kube:
        await kube.create(
            make.service(ns), make.slice_(ns, make.at("10.1.0.1", zone="z1"), make.at("10.1.0.2", ready=False))
        )
        await until(lambda: ServiceName(ns, "echo") in run.state.services)
        assert run.claim(ns, "echo") is None, "nothing is exported by default"
        await kube.create(make.export(ns))
        claim = await run.exported(ns, "echo", lambda c: len(c.endpoints) == 2)
        assert claim.readiness == (Readiness(Locality("home", "z1"), 1),)
        assert claim.endpoints[0] == Endpoint(address="10.1.0.1", locality=Locality("home", "z1"), ports={80: 8080})
        await kube.apply(make.slice_(ns, make.at("10.1.0.3")))
        await run.exported(ns, "echo", lambda c: addresses(c) == ["10.1.0.3"])
        await kube.delete("discovery.k8s.io/v1", "EndpointSlice", "echo-1", ns)
        await run.exported(ns, "echo", lambda c: not c.endpoints)
        await kube.delete("multicluster.x-k8s.io/v1beta1", "ServiceExport", "echo", ns)
        await until(lambda: run.claim(ns, "echo") is None)
        await kube.delete("v1", "Service", "echo", ns)
        await until(lambda: ServiceName(ns, "echo") not in run.state.services)


async def test_every_field_of_a_service(run: Any, make: Any, east: LocalCluster, kube_namespace: str) -> None:
    ns = kube_namespace
    ports = [
        {"name": "http", "port": 80, "targetPort": "web"},
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "sig", "port": 7, "protocol": "SCTP"},
    ]
    spec = {
        "ports": ports,
        "selector": {"app": "echo"},
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 77}},
        "internalTrafficPolicy": "Local",
        "trafficDistribution": "PreferClose",
        "ipFamilyPolicy": "RequireDualStack",
    }
    offered = [{"name": "http", "port": 8081, "protocol": "TCP"}, {"name": "dns", "port": 5353, "protocol": "UDP"}]
    async with east.connect() as kube:
        await kube.create(make.service(ns, **spec))
        await kube.create(make.export(ns, spec={"exportedLabels": {"a": "b"}, "exportedAnnotations": {"c": "d"}}))
        await kube.create(
            make.slice_(ns, make.at("10.1.0.1"), ports=offered),
            make.slice_(ns, make.at("2001:db8::1"), ports=offered, suffix="2", family="IPv6"),
        )
        claim = await run.exported(ns, "echo", lambda c: len(c.endpoints) == 2)
    assert [(p.name, p.port, p.protocol) for p in claim.ports] == [
        ("http", 80, Protocol.TCP),
        ("dns", 53, Protocol.UDP),
        ("sig", 7, Protocol.SCTP),
    ]
    assert claim.endpoints[0].ports == {80: 8081, 53: 5353}, "named target ports are resolved by the slice"
    assert (claim.session_affinity, claim.session_affinity_seconds) == ("ClientIP", 77)
    assert (claim.internal_traffic_policy, claim.traffic_distribution) == ("Local", "PreferClose")
    assert claim.ip_families == ("IPv4", "IPv6")
    assert (claim.labels, claim.annotations) == ({"a": "b"}, {"c": "d"})
    assert claim.ready == 1, "an endpoint with an address of each family counts once"
    said = [p.detail for p in run.state.problems if p.code == "unsupported_protocol" and f"{ns}/echo" in p.subject]
    assert said == ["port 7 speaks SCTP: imports show it, gateways and sidecars carry TCP only"]


async def test_headless_with_hostnames(run: Any, make: Any, east: LocalCluster, kube_namespace: str) -> None:
    ns = kube_namespace
    async with east.connect() as kube:
        await kube.create(make.service(ns, clusterIP="None"), make.export(ns))
        await kube.create(make.slice_(ns, make.at("10.1.0.1", hostname="db-0"), make.at("10.1.0.2", hostname="db-1")))
        claim = await run.exported(ns, "echo", lambda c: len(c.endpoints) == 2)
    assert claim.headless
    assert [e.hostname for e in claim.endpoints] == ["db-0", "db-1"]


async def test_terminating_endpoints_are_drained_not_dropped(
    run: Any, make: Any, east: LocalCluster, kube_namespace: str
) -> None:
    ns = kube_namespace
    ending = make.at("10.1.0.1", ready=False, conditions={"serving": True, "terminating": True})
    ended = make.at("10.1.0.2", ready=False, conditions={"serving": False, "terminating": True})
    async with east.connect() as kube:
        await kube.create(make.service(ns), make.export(ns), make.slice_(ns, ending, ended))
        claim = await run.exported(ns, "echo", lambda c: len(c.endpoints) == 2)
    assert [(e.ready, e.terminating) for e in claim.endpoints] == [(False, True), (False, False)]


async def test_not_ready_addresses_can_be_published(
    run: Any, make: Any, east: LocalCluster, kube_namespace: str
) -> None:
    ns = kube_namespace
    async with east.connect() as kube:
        await kube.create(make.service(ns, publishNotReadyAddresses=True), make.export(ns))
        await kube.create(make.slice_(ns, make.at("10.1.0.1", ready=False)))
        claim = await run.exported(ns, "echo", lambda c: len(c.endpoints) == 1)
    assert claim.endpoints[0].ready


async def test_where_an_endpoint_is(run: Any, make: Any, east: LocalCluster, kube_namespace: str) -> None:
    ns, node = kube_namespace, f"node-{kube_namespace}"
    labels = {"topology.kubernetes.io/region": "r7", "topology.kubernetes.io/zone": "z7"}
    async with east.connect() as kube:
        await kube.create(make.service(ns), make.export(ns))
        await kube.create(
            make.slice_(ns, make.at("10.1.0.1", nodeName=node), make.at("10.1.0.2", nodeName=node, zone="z8"))
        )
        await run.exported(ns, "echo", lambda c: len(c.endpoints) == 2)
        try:
            await kube.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": labels}})
            want = [Locality("r7", "z7"), Locality("r7", "z8")]
            await run.exported(ns, "echo", lambda c: [e.locality for e in c.endpoints] == want)
            moved = {**labels, "topology.kubernetes.io/region": "r9"}
            await kube.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": moved}})
            want = [Locality("r9", "z7"), Locality("r9", "z8")]
            await run.exported(ns, "echo", lambda c: [e.locality for e in c.endpoints] == want)
        finally:
            await kube.delete("v1", "Node", node)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "spec", "metadata", "code"),
    [
        pytest.param(None, {}, {}, "no_service", id="no Service"),
        pytest.param(
            {"type": "ExternalName", "externalName": "x.example", "ports": []},
            {},
            {},
            "invalid_service_type",
            id="type",
        ),
        pytest.param({"ports": [{"port": 7, "protocol": "SCTP"}]}, {}, {}, "unsupported_protocol", id="SCTP alone"),
        pytest.param({}, {"exportedAnnotations": {"x": "y" * 1_000_000}}, {}, "metadata_too_large", id="1 MB"),
        pytest.param({}, {}, {"annotations": {"isthmus.io/consumers": ",,"}}, "invalid_consumers", id="consumers"),
    ],
)
async def test_an_export_that_is_refused_is_a_problem(
    run: Any,
    make: Any,
    east: LocalCluster,
    kube_namespace: str,
    given: dict[str, Any] | None,
    spec: dict[str, Any],
    metadata: dict[str, Any],
    code: str,
) -> None:
    ns = kube_namespace
    async with east.connect() as kube:
        if given is not None:
            await kube.create(make.service(ns, **given))
        await kube.create(make.export(ns, spec=spec, **metadata))
        await until(lambda: run.problem(code, f"{ns}/echo"))
        assert run.claim(ns, "echo") is None
        await kube.delete("multicluster.x-k8s.io/v1beta1", "ServiceExport", "echo", ns)
        await until(lambda: run.problem(code, f"{ns}/echo") is None)


async def test_names_at_the_length_limits(run: Any, make: Any, east: LocalCluster, kube_namespace: str) -> None:
    ns, label, subdomain = kube_namespace, "s" * 63, ".".join(["e" * 63] * 3 + ["e" * 61])
    async with east.connect() as kube:
        await kube.create(make.service(ns, name=label), make.export(ns, name=label), make.export(ns, name=subdomain))
        await run.exported(ns, label)
        await until(lambda: run.problem("no_service", subdomain))


async def test_what_is_being_deleted_is_gone(run: Any, make: Any, east: LocalCluster, kube_namespace: str) -> None:
    ns, finalizers = kube_namespace, ["isthmus.example/test"]
    held = make.service(ns)
    held["metadata"]["finalizers"] = finalizers
    async with east.connect() as kube:
        await kube.create(held, make.export(ns), make.service(ns, name="other"))
        await kube.create(make.export(ns, name="other", finalizers=finalizers))
        await run.exported(ns, "echo")
        await run.exported(ns, "other")
        for version, kind, name in (
            ("v1", "Service", "echo"),
            ("multicluster.x-k8s.io/v1beta1", "ServiceExport", "other"),
        ):
            await kube.delete(version, kind, name, ns)
        await until(lambda: run.claim(ns, "echo") is None and run.claim(ns, "other") is None)
        assert "being deleted" in (await until(lambda: run.problem("no_service", f"{ns}/echo"))).detail
        for version, kind, name in (
            ("v1", "Service", "echo"),
            ("multicluster.x-k8s.io/v1beta1", "ServiceExport", "other"),
        ):
            await kube.patch(version, kind, name, ns, merge={"metadata": {"finalizers": None}})


async def test_forbidden_names_the_rule_that_is_missing(east: LocalCluster, following: Any, tmp_path: Path) -> None:
    async with following(east.kubeconfig_for("nobody"), tmp_path / "kubernetes.state", complete=False) as run:
        await until(lambda: sum(p.code == "kube_forbidden" for p in run.state.problems) >= 5)
        rule = 'lacks {apiGroups: ["discovery.k8s.io"], resources: ["endpointslices"], verbs: ["list"]}'
        assert rule in run.problem("kube_forbidden", "endpointslices").detail
        assert not run.state.complete


async def test_a_kubeconfig_that_is_wrong_ends_the_agent_in_one_line(following: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings) as caught:
        async with following(tmp_path / "missing", tmp_path / "kubernetes.state"):
            pass
    assert "\n" not in str(caught.value)


# --- what is written -------------------------------------------------------------------------------------------------


async def test_export_and_unexport(run: Any, make: Any, east: LocalCluster, kube_namespace: str) -> None:
    ns, name = kube_namespace, ServiceName(kube_namespace, "echo")
    with pytest.raises(NotFound):
        await run.source.export(name, ())
    async with east.connect() as kube:
        await kube.create(make.service(ns))
        await until(lambda: name in run.state.services)
        assert await run.source.export(name, (Grant("west", (80,)),)) == (f"ServiceExport {name}", True)
        assert (await run.exported(ns, "echo")).grants == (Grant("west", (80,)),)
        assert await run.source.export(name, (Grant("west", (80,)),)) == (f"ServiceExport {name}", False)
        assert await run.source.export(name, ()) == (f"ServiceExport {name}", True)
        await run.exported(ns, "echo", lambda c: c.grants == ())
        assert await run.source.unexport(name) == (f"ServiceExport {name}", True)
        await until(lambda: run.claim(ns, "echo") is None)
        assert await run.source.unexport(name) == ("", False)


async def test_what_another_wrote_is_left_alone(run: Any, make: Any, east: LocalCluster, kube_namespace: str) -> None:
    ns, name = kube_namespace, ServiceName(kube_namespace, "echo")
    async with east.connect() as kube:
        await kube.create(make.service(ns), make.export(ns))
        await run.exported(ns, "echo")
        assert await run.source.export(name, ()) == (f"ServiceExport {name}", False)
        with pytest.raises(Conflict):
            await run.source.export(name, (Grant("west"),))
        with pytest.raises(Conflict):
            await run.source.unexport(name)


async def test_a_preview_asks_the_server_and_changes_nothing(
    run: Any, make: Any, east: LocalCluster, kube_namespace: str
) -> None:
    ns, name = kube_namespace, ServiceName(kube_namespace, "echo")
    ports = [{"name": "http", "port": 80}, {"name": "sig", "port": 7, "protocol": "SCTP"}]
    async with east.connect() as kube:
        await kube.create(make.service(ns, ports=ports), make.slice_(ns, make.at("10.1.0.1")))
        await until(lambda: name in run.state.services)
        seen = await run.source.preview(name, (Grant("west", (80,)),))
        assert (seen.where, seen.changed, seen.uncarried) == (f"ServiceExport {name}", True, ((7, "SCTP"),))
        assert [(p.port, p.name) for p in seen.claim.ports] == [(80, "http"), (7, "sig")]
        assert seen.claim.grants == (Grant("west", (80,)),)
        assert seen.claim.exported_at_ns > 0, "as the server would date it"
        assert not await kube.list(MCS, "ServiceExport", ns)
        assert run.claim(ns, "echo") is None
        assert not (await run.source.preview(name, None)).changed, "there is nothing to withdraw"

        await run.source.export(name, ())
        claim = await run.exported(ns, "echo", lambda c: len(c.endpoints) == 1)
        assert (await run.source.preview(name, ())) == Preview(
            where=f"ServiceExport {name}", changed=False, claim=claim, uncarried=((7, "SCTP"),)
        )
        narrowed = await run.source.preview(name, (Grant("west"),))
        assert narrowed.changed
        assert narrowed.claim == replace(claim, grants=(Grant("west"),))
        taken = await run.source.preview(name, None)
        assert (taken.where, taken.changed, taken.claim) == (f"ServiceExport {name}", True, None)
        (export,) = await kube.list(MCS, "ServiceExport", ns)
        assert "annotations" not in export["metadata"]
        assert "deletionTimestamp" not in export["metadata"]


@pytest.mark.parametrize("preview", [True, False], ids=["preview", "export"])
@pytest.mark.parametrize(
    ("given", "metadata", "error", "code"),
    [
        pytest.param(None, {}, NotFound, "no_service", id="no Service"),
        pytest.param(
            {"type": "ExternalName", "externalName": "x.example", "ports": []},
            {},
            Conflict,
            "invalid_service_type",
            id="ExternalName",
        ),
        pytest.param(
            {"ports": [{"port": 7, "protocol": "SCTP"}]}, {}, Conflict, "unsupported_protocol", id="SCTP alone"
        ),
        pytest.param({}, {"finalizers": ["isthmus.example/test"]}, Conflict, "service_deleting", id="being deleted"),
    ],
)
async def test_what_nobody_could_see_is_not_exported(
    run: Any,
    make: Any,
    east: LocalCluster,
    kube_namespace: str,
    given: dict[str, Any] | None,
    metadata: dict[str, Any],
    error: type[IsthmusError],
    code: str,
    preview: bool,
) -> None:
    ns, name = kube_namespace, ServiceName(kube_namespace, "echo")
    async with east.connect() as kube:
        if given is not None:
            made = make.service(ns, **given)
            made["metadata"].update(metadata)
            await kube.create(made)
            await until(lambda: name in run.state.services)
        if metadata:
            await kube.delete("v1", "Service", "echo", ns)
            await until(lambda: name not in run.state.services)
        try:
            with pytest.raises(error) as caught:
                await (run.source.preview if preview else run.source.export)(name, ())
            assert caught.value.error_code == code
            assert "\n" not in str(caught.value)
            assert str(name) in caught.value.message
            assert not await kube.list(MCS, "ServiceExport", ns)
        finally:
            if metadata:
                await kube.patch("v1", "Service", "echo", ns, merge={"metadata": {"finalizers": None}})


async def test_an_export_that_is_being_deleted_is_not_taken_for_one(
    run: Any, make: Any, east: LocalCluster, kube_namespace: str
) -> None:
    ns, name = kube_namespace, ServiceName(kube_namespace, "echo")
    async with east.connect() as kube:
        await kube.create(make.service(ns), make.export(ns, finalizers=["isthmus.example/test"]))
        await run.exported(ns, "echo")
        await kube.delete(MCS, "ServiceExport", "echo", ns)
        await until(lambda: run.claim(ns, "echo") is None)
        with pytest.raises(Conflict) as caught:
            await run.source.export(name, ())
        assert caught.value.error_code == "serviceexport_deleting"
        assert await run.source.unexport(name) == ("", False)
        await kube.patch(MCS, "ServiceExport", "echo", ns, merge={"metadata": {"finalizers": None}})


async def test_the_longest_names_are_exported(run: Any, make: Any, east: LocalCluster, kube_namespace: str) -> None:
    name = ServiceName(kube_namespace, "s" * 63)
    async with east.connect() as kube:
        await kube.create(make.service(kube_namespace, name=name.name))
        await until(lambda: name in run.state.services)
        assert (await run.source.preview(name, ())).changed
        assert await run.source.export(name, ()) == (f"ServiceExport {name}", True)
        await run.exported(kube_namespace, name.name)


async def test_what_the_server_forbids_shows_in_the_preview(
    east: LocalCluster, make: Any, following: Any, tmp_path: Path, kube_namespace: str
) -> None:
    """Reads everything, writes nothing."""
    name, rule = ServiceName(kube_namespace, "echo"), {"apiGroups": ["*"], "resources": ["*"]}
    role = f"read-{kube_namespace}"
    rbac = "rbac.authorization.k8s.io"
    async with east.connect() as kube:
        await kube.create(
            make.service(kube_namespace),
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "ClusterRole",
                "metadata": {"name": role},
                "rules": [{**rule, "verbs": ["get", "list", "watch"]}],
            },
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": role},
                "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": rbac, "kind": "User", "name": role}],
            },
        )
        try:
            async with following(east.kubeconfig_for(role), tmp_path / "other.state") as run:
                await until(lambda: name in run.state.services)
                with pytest.raises(Denied) as caught:
                    await run.source.preview(name, ())
                assert 'resources: ["serviceexports"], verbs: ["patch"]' in caught.value.hint
        finally:
            for kind in ("ClusterRole", "ClusterRoleBinding"):
                await kube.delete(f"{rbac}/v1", kind, role)


async def test_before_the_server_was_read_nothing_is_said_of_what_it_lacks(
    east: LocalCluster, following: Any, tmp_path: Path, kube_namespace: str
) -> None:
    async with following(east.kubeconfig_for("nobody"), tmp_path / "other.state", complete=False) as run:
        await until(lambda: run.problem("kube_forbidden"))
        assert run.source.has_namespace(kube_namespace) is None
        for ask in (run.source.export, run.source.preview):
            with pytest.raises(Unavailable) as caught:
                await ask(ServiceName(kube_namespace, "echo"), ())
            assert caught.value.error_code == "source_not_read"
            assert "ClusterRole lacks" in caught.value.hint


async def test_namespaces_are_known(run: Any, kube_namespace: str) -> None:
    await until(lambda: run.source.has_namespace(kube_namespace))
    assert run.source.has_namespace("never-was") is False
