"""What the conformance suite of the Multi-Cluster Services API asks, behaviour by behaviour (docs/conformance).

Two clusters with API servers of their own on one flat network, their agents, DNS and gateways as processes of their
own. There are no Pods: endpoints are written by hand, a process answers for them, and calls are led as kube-proxy
leads them, by the derived Service and its EndpointSlices. As in the suite, east exports first.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusters.building import wait_whole
from clusters.ground import ApiServers
from clusters.names import lookup
from clusters.processes import NAMESPACE, ProcessFederation
from clusters.topology import ClusterSpec, Topology
from clusters.waiting import until
from federation.aio.files import write_atomic
from federation.cli.link import link_clusters
from federation.errors import NotFound, Unavailable
from federation.model.service import Locality

pytestmark = pytest.mark.e2e

MCS = "multicluster.x-k8s.io/v1beta1"
SERVICE, SOURCE = "multicluster.kubernetes.io/service-name", "multicluster.kubernetes.io/source-cluster"
TCP = {"name": "tcp", "port": 42, "protocol": "TCP"}
UDP = {"name": "udp", "port": 42, "protocol": "UDP"}
AFFINITY = {"clientIP": {"timeoutSeconds": 10}}
TIMES = 10
"""Calls in a row that have to be answered by the same cluster."""
SEEN = 0.5
"""Seconds for which what may not happen is looked for; the suite takes 5."""
Object = dict[str, Any]


class Flat(ApiServers):
    """Agents that say that endpoints of other clusters are reached directly."""

    def tell(self, cluster: str, settings: Path, *, dns: str) -> None:
        super().tell(cluster, settings, dns=dns)
        tree = yaml.safe_load(settings.read_text())
        write_atomic(settings, yaml.safe_dump({**tree, "network": "flat"}, sort_keys=False).encode())


class Cluster:
    """One of the two, and the service `name` there."""

    def __init__(self, federation: ProcessFederation, cluster: str, name: str) -> None:
        assert isinstance(federation.ground, ApiServers)
        self.place, self.name, self.cluster = federation.places[cluster], name, cluster
        self.host = f"{name}.{NAMESPACE}.svc.clusterset.local"
        self._server = federation.ground.clusters[cluster]

    async def apply(self, *objects: Object) -> None:
        async with self._server.connect() as client:
            await client.apply(*objects)

    async def deploy(self, *ports: Object, endpoints: Sequence[Object] = (), listen: int = 0, **spec: Any) -> None:
        """A Service as the suite's, and the endpoints that it would have with Pods."""
        ports = ports or (TCP, UDP)
        at = listen or self.place.tcp_port
        there = list(endpoints) or [{"addresses": [self.place.address], "conditions": {"ready": True}}]
        given = {"ports": list(ports), "sessionAffinity": "ClientIP", "sessionAffinityConfig": AFFINITY, **spec}
        note = {"dummy-svc": "dummy"}
        await self.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": self._meta(labels=note, annotations=note),
                "spec": given,
            }
        )
        if given.get("type") == "ExternalName":
            return
        targets = [{"name": p["name"], "protocol": p["protocol"], "port": at} for p in ports]
        await self.apply(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"{self.name}-by-hand",
                    "namespace": NAMESPACE,
                    "labels": {
                        "kubernetes.io/service-name": self.name,
                        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                    },
                },
                "addressType": "IPv4",
                "ports": targets,
                "endpoints": there,
            }
        )

    async def export(self, **spec: Any) -> None:
        note = {"dummy-svcexport": "dummy"}
        more = {"spec": spec} if spec else {}
        metadata = self._meta(labels=note, annotations=note)
        await self.apply({"apiVersion": MCS, "kind": "ServiceExport", "metadata": metadata, **more})

    async def unexport(self) -> None:
        async with self._server.connect() as client:
            await client.delete(MCS, "ServiceExport", self.name, NAMESPACE)

    def _meta(self, **more: Any) -> Object:
        return {"name": self.name, "namespace": NAMESPACE, **more}

    # --- what is seen ---

    async def imported(self) -> Object | None:
        """The ServiceImport as it is."""
        async with self._server.connect() as client:
            try:
                found: Object = await client.get(MCS, "ServiceImport", self.name, NAMESPACE)
            except NotFound:
                return None
        return found

    async def imports(self, good: Callable[[Object], Any] = bool) -> Object:
        """The ServiceImport, once it is there and its spec is `good`."""

        async def found() -> Object | None:
            seen = await self.imported()
            return seen if seen is not None and good(seen["spec"]) else None

        result: Object = await until(found, what=f"the ServiceImport {self.name} in {self.cluster}")
        return result

    async def forgets(self) -> None:
        async def gone() -> bool:
            return await self.imported() is None

        await until(gone, what=f"the end of the ServiceImport {self.name} in {self.cluster}")

    async def condition(self, kind: str, status: str) -> Object:
        """That condition of the ServiceExport, once it has that status."""

        async def found() -> Object | None:
            async with self._server.connect() as client:
                export = await client.get(MCS, "ServiceExport", self.name, NAMESPACE)
            held = export.get("status", {}).get("conditions", [])
            return next((c for c in held if (c["type"], c["status"]) == (kind, status)), None)

        result: Object = await until(found, what=f"{kind}={status} of {self.name} in {self.cluster}")
        return result

    async def slices(self) -> list[Object]:
        """Its EndpointSlices of the Multi-Cluster Services API, as the suite tells them from others."""
        async with self._server.connect() as client:
            found = await client.list("discovery.k8s.io/v1", "EndpointSlice", NAMESPACE)
        labelled = [s for s in found if {SERVICE, SOURCE} <= s["metadata"].get("labels", {}).keys()]
        return [s for s in labelled if s["metadata"]["labels"][SERVICE] == self.name and s.get("endpoints")]

    def ask(self, host: str, kind: str = "A") -> list[str]:
        return lookup(self.place.address, self.place.agent_dns_port, host, kind)

    async def answers(self, host: str, kind: str, good: Callable[[list[str]], Any]) -> list[str]:
        async def found() -> list[str] | None:
            try:
                said = await asyncio.to_thread(self.ask, host, kind)
            except Unavailable:
                return None
            return said if good(said) else None

        result: list[str] = await until(found, what=f"{kind} of {host} in {self.cluster}")
        return result

    async def call(self, port: int) -> str:
        """Who answers the ClusterSetIP's `port`; empty where nobody does. kube-proxy would lead it like this."""
        ips = await asyncio.to_thread(self.ask, self.host)
        async with self._server.connect() as client:
            services = await client.list("v1", "Service", NAMESPACE)
            slices = await client.list("discovery.k8s.io/v1", "EndpointSlice", NAMESPACE)
        derived = [s for s in services if ips and s["spec"].get("clusterIP") in ips]
        if len(derived) != 1:
            return ""
        (service,) = derived
        name = {(p["port"], p["protocol"]): p.get("name", "") for p in service["spec"]["ports"]}.get((port, "TCP"))
        led = [
            (address, target["port"])
            for one in slices
            if one["metadata"].get("labels", {}).get("kubernetes.io/service-name") == service["metadata"]["name"]
            for target in one.get("ports") or ()
            if target.get("name", "") == name
            for endpoint in one.get("endpoints") or ()
            if endpoint["conditions"]["ready"]
            for address in endpoint["addresses"]
        ]
        return await asyncio.to_thread(greeting, led[0]) if led else ""


def greeting(where: tuple[str, int]) -> str:
    """The first line that is said there: the name of the cluster."""
    try:
        with socket.create_connection(where, timeout=10) as connection:
            connection.sendall(b"hi\n")
            return connection.makefile().readline().strip()
    except OSError:
        return ""


class Pair:
    """east and west, of which the suite's first one is east, and a service that no other test has."""

    def __init__(self, federation: ProcessFederation, name: str) -> None:
        self.east, self.west = Cluster(federation, "east", name), Cluster(federation, "west", name)
        self.both = (self.east, self.west)

    async def export_twice(
        self, *ports: Object, first: Object | None = None, then: Object | None = None, **spec: Any
    ) -> None:
        """Exported by east, seen there, and then by west, with these ports and this spec: east's is the older one, by
        its name where both are of one second."""
        await self.east.deploy()
        await self.east.export(**(first or {}))
        await self.east.imports()
        await self.west.deploy(*ports, **spec)
        await self.west.export(**(then or {}))

    async def conflict(self) -> tuple[str, ...]:
        """The reasons of the conflict, which both are told."""
        said = [await one.condition("Conflict", "True") for one in self.both]
        assert said[0]["reason"] == said[1]["reason"]
        return tuple(said[0]["reason"].split(","))

    async def steadily(self, caller: Cluster, port: int, cluster: str) -> None:
        """`TIMES` calls in a row of `caller` are answered by `cluster`."""
        await until(lambda: _is(caller.call(port), cluster), what=f"an answer of {cluster} to {caller.cluster}")
        assert [await caller.call(port) for _ in range(TIMES)] == [cluster] * TIMES


async def _is(found: Any, wanted: str) -> bool:
    return bool(await found == wanted)


@pytest.fixture(scope="module")
def federation(
    _kube_session: Any, kube_ground: ApiServers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProcessFederation]:
    """Two linked clusters with a gateway each; `kube_ground` sees to what they leave on the API servers."""
    topology = Topology.full_mesh(
        "mcs.isthmus",
        ClusterSpec(name="east", locality=Locality("eu", "eu-1"), offers=()),
        ClusterSpec(name="west", locality=Locality("eu", "eu-2"), offers=()),
    )
    ground = Flat(tmp_path_factory.mktemp("g"), (), clusters=_kube_session)
    federation = ProcessFederation(topology, tmp_path_factory.mktemp("m"), ground=ground)
    yield federation
    federation.stop()
    ground.stop()


@pytest.fixture(scope="module")
def running(federation: ProcessFederation) -> ProcessFederation:
    async def build() -> None:
        federation.init_registry()
        federation.start_registry()
        await federation.ground.start()
        await federation.wait_ready("registry")
        for name in federation.topology.names:
            federation.start_workload(name, "tcp")
            await federation.join(name)
            federation.start_agent(name)
            await federation.ground.write(name, {**_CONFIG, "data": {"cluster": name}})
        await federation.wait_ready(*(f"{name}-agent" for name in federation.topology.names))
        for name in federation.topology.names:
            federation.start_gateway(name)
        await link_clusters(federation.home, "east", "west")
        await federation.wait_ready(*federation.running)
        await wait_whole(federation)

    asyncio.run(build())
    return federation


_CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "there", "namespace": NAMESPACE}}
"""Something in the namespace, so that it is there."""


@pytest.fixture
def pair(running: ProcessFederation, request: pytest.FixtureRequest) -> Pair:
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_"))
    return Pair(running, f"hello-{name}"[:45].rstrip("-"))


# --- imports ----------------------------------------------------------------------------------------------------------


async def test_1_an_export_is_imported_in_each_cluster_until_it_ends(pair: Pair):
    await pair.east.deploy()
    await pair.east.export()
    await pair.east.condition("Valid", "True")
    for one in pair.both:
        assert (await one.imports())["spec"]["type"] == "ClusterSetIP"
    await pair.east.unexport()
    for one in pair.both:
        await one.forgets()


async def test_2_to_6_what_an_import_has_of_its_service(pair: Pair):
    """Session affinity, traffic policies, an address for each family, and the ports."""
    await pair.east.deploy(internalTrafficPolicy="Cluster", trafficDistribution="PreferClose")
    await pair.east.export()
    spec = (await pair.east.imports(lambda spec: spec.get("ips")))["spec"]
    assert (spec["sessionAffinity"], spec["sessionAffinityConfig"]) == ("ClientIP", AFFINITY)
    assert (spec["internalTrafficPolicy"], spec["trafficDistribution"]) == ("Cluster", "PreferClose")
    assert [":" in ip for ip in spec["ips"]] == [family == "IPv6" for family in spec["ipFamilies"]]
    assert sorted(spec["ports"], key=lambda p: p["name"]) == [TCP, UDP]


async def test_7_ports_are_a_union_and_a_conflict_one_of_sctp_included(pair: Pair):
    sctp = {"name": "stcp", "port": 142, "protocol": "SCTP"}
    await pair.export_twice(TCP, sctp)
    assert await pair.conflict() == ("PortConflict",)
    for one in pair.both:
        await one.imports(lambda spec: sorted(spec["ports"], key=lambda p: p["name"]) == [sctp, TCP, UDP])
    valid = await pair.west.condition("Valid", "True")
    assert valid["message"] == "142/SCTP: imports show it, gateways and sidecars carry TCP only"


async def test_8_of_conflicting_ports_the_older_stays(pair: Pair):
    await pair.export_twice({**TCP, "port": 43})
    assert await pair.conflict() == ("PortConflict",)
    assert sorted((await pair.east.imports())["spec"]["ports"], key=lambda p: p["name"]) == [TCP, UDP]


async def test_9_an_import_lives_as_long_as_one_exporter(pair: Pair):
    await pair.export_twice()
    await pair.east.imports(lambda spec: spec)
    await until(lambda: _exported_by(pair.east, {"east", "west"}), what="both exporters")
    await pair.east.unexport()
    await until(lambda: _exported_by(pair.east, {"west"}), what="one exporter")
    await pair.west.unexport()
    await pair.east.forgets()


async def _exported_by(one: Cluster, clusters: set[str]) -> bool:
    """The import is there at every look."""
    seen = await one.imported()
    assert seen is not None, "it has ended, and is still exported"
    return {c["cluster"] for c in seen.get("status", {}).get("clusters", [])} == clusters


async def test_11_and_12_a_headless_service_has_an_import_of_its_type_without_address(pair: Pair):
    await pair.east.deploy(clusterIP="None")
    await pair.east.export()
    for one in pair.both:
        assert (await one.imports())["spec"]["type"] == "Headless"
    deadline = asyncio.get_running_loop().time() + SEEN
    while asyncio.get_running_loop().time() < deadline:
        assert not (await pair.east.imports())["spec"].get("ips")
    await pair.east.unexport()
    for one in pair.both:
        await one.forgets()


async def test_13_an_external_name_is_not_valid_and_not_imported(pair: Pair):
    await pair.east.deploy(type="ExternalName", externalName="example.com", ports=None)
    await pair.east.export()
    assert (await pair.east.condition("Valid", "False"))["reason"] == "InvalidServiceType"
    assert [await one.imported() for one in pair.both] == [None, None]


async def test_14_of_conflicting_types_the_older_stays(pair: Pair):
    await pair.export_twice(clusterIP="None")
    assert "TypeConflict" in await pair.conflict()
    for one in pair.both:
        assert (await one.imports())["spec"]["type"] == "ClusterSetIP"


async def test_15_only_what_is_said_to_be_exported_is_on_the_import(pair: Pair):
    await pair.east.deploy()
    await pair.east.export(exportedLabels={"dummy-label": "true"}, exportedAnnotations={"dummy-annotation": "true"})
    for one in pair.both:
        metadata = (await one.imports())["metadata"]
        assert metadata["labels"].get("dummy-label") == metadata["annotations"].get("dummy-annotation") == "true"
        assert not {"dummy-svc", "dummy-svcexport"} & (metadata["labels"].keys() | metadata["annotations"].keys())


async def test_16_of_conflicting_metadata_the_older_stays(pair: Pair):
    await pair.export_twice(
        first={"exportedLabels": {"dummy-label": "true"}, "exportedAnnotations": {"dummy-annotation": "true"}},
        then={"exportedLabels": {"dummy-label2": "true"}, "exportedAnnotations": {"dummy-annotation2": "true"}},
    )
    assert await pair.conflict() == ("AnnotationsConflict", "LabelsConflict")
    metadata = (await pair.east.imports())["metadata"]
    assert "dummy-label" in metadata["labels"]
    assert "dummy-annotation" in metadata["annotations"]
    assert not {"dummy-label2", "dummy-annotation2"} & (metadata["labels"].keys() | metadata["annotations"].keys())


async def test_17_each_cluster_has_endpoint_slices_as_long_as_it_is_exported(pair: Pair):
    await pair.east.deploy()
    await pair.east.export()
    for one in pair.both:
        found = await until(one.slices, what=f"slices in {one.cluster}")
        assert {s["metadata"]["labels"][SOURCE] for s in found} == {"east"}
        families = (await one.imports(lambda spec: spec.get("ipFamilies")))["spec"]["ipFamilies"]
        assert [s["addressType"] for s in found] == families
        managers = {s["metadata"]["labels"].get("endpointslice.kubernetes.io/managed-by") for s in found}
        assert None not in managers
        assert "endpointslice-controller.k8s.io" not in managers
    await pair.east.unexport()
    for one in pair.both:
        await until(lambda one=one: _none(one.slices()), what=f"the end of the slices in {one.cluster}")


async def _none(found: Any) -> bool:
    return not await found


# --- names -----------------------------------------------------------------------------------------------------------


async def test_18_and_19_the_name_of_a_clustersetip(pair: Pair):
    """Its address, and one SRV record, although TCP and UDP have the port."""
    await pair.east.deploy()
    await pair.east.export()
    for one in pair.both:
        ips = (await one.imports(lambda spec: spec.get("ips")))["spec"]["ips"]
        await one.answers(one.host, "A", lambda said, ips=ips: said == sorted(ips))
        (srv,) = await one.answers(one.host, "SRV", bool)
        assert srv.split()[2:] == ["42", f"{one.host}."]


async def test_20_names_of_the_cluster_stay_its_own(pair: Pair):
    """CoreDNS is told to ask the agent for its own zones alone; it would refuse others."""
    await pair.east.deploy()
    await pair.east.export()
    await pair.east.answers(pair.east.host, "A", bool)
    with pytest.raises(Unavailable, match="REFUSED"):
        pair.east.ask(f"{pair.east.name}.{NAMESPACE}.svc.cluster.local")


PODS = [
    {"addresses": [f"10.244.7.{number}"], "hostname": f"hello-ss-{number}", "conditions": {"ready": True}}
    for number in (1, 2)
]


async def test_21_and_23_a_headless_name_is_the_ready_endpoints(pair: Pair):
    """Their addresses, and a SRV record for each, whose target begins with the address where there is no hostname."""
    plain = [{key: value for key, value in pod.items() if key != "hostname"} for pod in PODS]
    await pair.east.deploy(clusterIP="None", endpoints=plain, listen=42)
    await pair.east.export()
    for one in pair.both:
        assert "IPv4" in (await one.imports(lambda spec: spec.get("ipFamilies")))["spec"]["ipFamilies"]
        await one.answers(one.host, "A", lambda said: said == ["10.244.7.1", "10.244.7.2"])
        found = await one.answers(one.host, "SRV", lambda said: len(said) == 2)
        assert [srv.split()[2] for srv in found] == ["42", "42"]
        assert sorted(srv.split()[3].partition(".")[0] for srv in found) == ["10-244-7-1", "10-244-7-2"]


async def test_22_an_endpoint_of_a_stateful_set_has_a_name(pair: Pair):
    await pair.east.deploy(clusterIP="None", endpoints=PODS, listen=42)
    await pair.east.export()
    for one in pair.both:
        (found,) = await until(one.slices, what=f"the slice in {one.cluster}")
        endpoints = {e["hostname"]: e["addresses"] for e in found["endpoints"] if e["conditions"]["ready"]}
        assert endpoints == {pod["hostname"]: pod["addresses"] for pod in PODS}
        cluster = found["metadata"]["labels"][SOURCE]
        for hostname, addresses in endpoints.items():
            assert await one.answers(f"{hostname}.{cluster}.{one.host}", "A", bool) == addresses


# --- calls -----------------------------------------------------------------------------------------------------------


async def test_10_what_is_not_exported_is_not_reached(pair: Pair):
    await pair.east.deploy()
    for one in pair.both:
        assert [(one.ask(one.host), await one.call(42)) for _ in range(3)] == [([], "")] * 3


async def test_24_an_exported_service_is_called_by_its_name(pair: Pair):
    await pair.east.deploy()
    await pair.east.export()
    for one in pair.both:
        await until(lambda one=one: _is(one.call(42), "east"), what=f"an answer to {one.cluster}")


async def test_25_only_who_exports_is_called(pair: Pair):
    for one in pair.both:
        await one.deploy()
    await pair.east.export()
    for one in pair.both:
        await pair.steadily(one, 42, "east")


async def test_26_a_port_leads_to_who_has_its_number(pair: Pair):
    await pair.export_twice({**TCP, "port": 4242})
    await pair.conflict()
    for one in pair.both:
        await pair.steadily(one, 42, "east")


async def test_27_ports_of_several_names_lead_to_who_has_them(pair: Pair):
    await pair.export_twice({**TCP, "name": "tcp2", "port": 4242})
    for one in pair.both:
        await one.imports(lambda spec: len(spec["ports"]) == 3)
        await pair.steadily(one, 42, "east")
        await pair.steadily(one, 4242, "west")
