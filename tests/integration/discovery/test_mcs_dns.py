"""The MCS DNS specification 1.0.0, rule by rule: real API servers, the agents of two clusters on one flat network, and
dnspython as the client. Each test has services of its own; the clusters are shared."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import dns.asyncquery
import dns.edns
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
import pytest_asyncio

from clusters.waiting import until
from discovery.kube.settings import KubernetesSettings
from discovery.settings import ClusterDnsSettings
from federation.model.ids import ServiceName

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

MCS = "multicluster.x-k8s.io/v1beta1"
HTTP = {"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}
Object = dict[str, Any]


def at(*addresses: str, hostname: str = "", ready: bool = True) -> list[Object]:
    """Endpoints, all of one hostname if it is given."""
    name = {"hostname": hostname} if hostname else {}
    return [{"addresses": [a], "conditions": {"ready": ready}, **name} for a in addresses]


class Side:
    """One cluster: its API server and its agent's DNS."""

    def __init__(self, name: str, running: Any, client: Any, namespace: str) -> None:
        self.name, self.running, self.client, self.namespace = name, running, client, namespace

    async def service(self, name: str, *, ports: Sequence[Object] = (HTTP,), **spec: Any) -> None:
        metadata = {"name": name, "namespace": self.namespace}
        await self.client.apply(
            {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": list(ports), **spec}}
        )

    async def slice_(
        self, service: str, endpoints: Sequence[Object], *, family: str = "IPv4", ports: Sequence[Object] = (HTTP,)
    ) -> None:
        """The EndpointSlice of one address family, as it is from now on."""
        labels = {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "test"}
        numbers = [
            {"name": p["name"], "protocol": p["protocol"], "port": p.get("targetPort", p["port"])} for p in ports
        ]
        await self.client.apply(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": f"{service}-{family.lower()}", "namespace": self.namespace, "labels": labels},
                "addressType": family,
                "ports": numbers,
                "endpoints": list(endpoints),
            }
        )

    async def export(self, name: str) -> None:
        metadata = {"name": name, "namespace": self.namespace}
        await self.client.apply({"apiVersion": MCS, "kind": "ServiceExport", "metadata": metadata})

    async def unexport(self, name: str) -> None:
        await self.client.delete(MCS, "ServiceExport", name, self.namespace)

    async def headless(self, name: str, *endpoints: Object, ports: Sequence[Object] = (HTTP,), **spec: Any) -> None:
        """A headless service with endpoints of IPv4, exported."""
        await self.service(name, ports=ports, clusterIP="None", **spec)
        await self.slice_(name, endpoints, ports=ports)
        await self.export(name)

    async def imported(self, name: str) -> Object:
        """The spec of the ServiceImport once it has its addresses."""

        async def found() -> Object | None:
            objects = await self.client.list(MCS, "ServiceImport", self.namespace)
            specs = [o["spec"] for o in objects if o["metadata"]["name"] == name]
            return specs[0] if specs and specs[0].get("ips") else None

        result: Object = await until(found, what=f"the ServiceImport {name}")
        return result

    async def knows(self, name: str) -> None:
        """Wait until the agent has the import, whatever DNS makes of it."""
        wanted = ServiceName(self.namespace, name)
        await until(lambda: wanted in self.running.agent.view.imports)

    async def ask(self, name: str, rtype: str = "A") -> dns.message.Message:
        query = dns.message.make_query(name, rtype, use_edns=0)
        answer, _ = await dns.asyncquery.udp_with_fallback(
            query, "127.0.0.1", port=self.running.agent.dns.port, timeout=30
        )
        return answer

    async def answers(self, name: str, rtype: str = "A") -> list[str]:
        return sorted(str(r) for rrset in (await self.ask(name, rtype)).answer for r in rrset)

    async def targets(self, name: str) -> list[tuple[int, str]]:
        """Port and target of the SRV records, with what stands before the name of the service."""
        base = f".{'.'.join(name.split('.')[-5:])}."
        found = [text.split() for text in await self.answers(name, "SRV")]
        return sorted((int(port), target.removesuffix(base)) for _, _, port, target in found)

    async def rcode(self, name: str, rtype: str = "A") -> str:
        return dns.rcode.to_text((await self.ask(name, rtype)).rcode())


class Clusterset:
    def __init__(self, east: Side, west: Side) -> None:
        self.east, self.west = east, west
        self.sides = (east, west)
        self._count = 0

    def name(self) -> tuple[str, str]:
        """A service's name that no other test has, and its name in DNS."""
        self._count += 1
        name = f"echo{self._count}"
        return name, f"{name}.{self.east.namespace}.svc.clusterset.local"

    async def becomes(self, name: str, rtype: str, expected: list[str]) -> None:
        """Wait until both clusters answer `expected`."""
        for side in self.sides:
            await until(lambda side=side: _same(side.answers(name, rtype), sorted(expected)), what=f"{rtype} of {name}")

    async def denied(self, name: str, rtype: str = "A") -> None:
        """Wait until both clusters say NXDOMAIN."""
        for side in self.sides:
            await until(lambda side=side: _same(side.rcode(name, rtype), "NXDOMAIN"), what=f"no {rtype} of {name}")


async def _same(found: Awaitable[Any], wanted: Any) -> bool:
    return await found == wanted


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clusterset(
    _kube_session: Any, federations: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Clusterset]:
    namespace = f"dns-{uuid.uuid4().hex[:8]}"
    federation = federations(tmp_path_factory.mktemp("dns"))
    async with contextlib.AsyncExitStack() as stack:
        await federation.start_registry()
        stack.push_async_callback(federation.stop_registry)
        sides = []
        for cluster in _kube_session:
            client = await stack.enter_async_context(cluster.connect())
            await client.create_namespace(namespace)
            stack.push_async_callback(_remove, client, namespace)
            running = await federation.cluster(cluster.name, start=False)
            settings = KubernetesSettings(kubeconfig=str(cluster.kubeconfig), confirm=0.2, namespace=namespace)
            listening = ClusterDnsSettings(listen="127.0.0.1:0")
            stack.push_async_callback(running.stop)
            await running.start(files=None, kubernetes=settings, network="flat", dns=listening)
            sides.append(Side(cluster.name, running, client, namespace))
        await federation.link(*(side.name for side in sides))
        yield Clusterset(*sides)


async def _remove(client: Any, namespace: str) -> None:
    kinds = [
        ("v1", "Service"),
        ("discovery.k8s.io/v1", "EndpointSlice"),
        (MCS, "ServiceExport"),
        (MCS, "ServiceImport"),
    ]
    more = [("v1", "ConfigMap"), ("v1", "Secret"), ("v1", "ServiceAccount"), ("coordination.k8s.io/v1", "Lease")]
    await client.remove_namespace(namespace, kinds=[*kinds, *more])


# --- 2.2 Schema version -----------------------------------------------------------------------------------------------


async def test_the_schema_version_is_a_txt_record(clusterset: Clusterset) -> None:
    await clusterset.becomes("dns-version.clusterset.local", "TXT", ['"1.0.0"'])


# --- 2.3 Services with a ClusterSetIP ---------------------------------------------------------------------------------


async def test_the_a_record_is_the_clustersetip_in_every_cluster(clusterset: Clusterset) -> None:
    name, base = clusterset.name()
    await clusterset.east.service(name)
    await clusterset.east.slice_(name, at("10.0.0.1"))
    await clusterset.east.export(name)
    for side in clusterset.sides:  # the exporting cluster, too
        ips = (await side.imported(name))["ips"]
        await until(lambda side=side, ips=ips: _same(side.answers(base), ips))
        assert await side.answers(base, "AAAA") == []
        assert (await side.ask(base, "AAAA")).rcode() == dns.rcode.NOERROR


async def test_a_service_of_both_families_has_a_and_aaaa_records(clusterset: Clusterset) -> None:
    name, base = clusterset.name()
    await clusterset.east.service(name, ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv6", "IPv4"])
    await clusterset.east.slice_(name, at("10.0.0.1"))
    await clusterset.east.export(name)
    for side in clusterset.sides:
        spec = await side.imported(name)
        assert spec["ipFamilies"] == ["IPv6", "IPv4"]
        v6, v4 = spec["ips"]
        await until(lambda side=side, v4=v4: _same(side.answers(base), [v4]))
        assert await side.answers(base, "AAAA") == [v6]


async def test_named_ports_have_srv_records_and_unnamed_ones_have_none(clusterset: Clusterset) -> None:
    (name, base), (plain, bare) = clusterset.name(), clusterset.name()
    await clusterset.east.service(name, ports=[HTTP, {"name": "dns", "port": 53, "protocol": "UDP"}])
    await clusterset.east.service(plain, ports=[{"port": 80}])
    for one in (name, plain):
        await clusterset.east.slice_(one, at("10.0.0.1"))
        await clusterset.east.export(one)
        await clusterset.west.imported(one)
    await clusterset.becomes(f"_http._tcp.{base}", "SRV", [f"0 100 80 {base}."])
    await clusterset.becomes(f"_dns._udp.{base}", "SRV", [f"0 100 53 {base}."])
    for missing in (f"_http._udp.{base}", f"_dns._tcp.{base}", f"_other._tcp.{base}", f"_http._tcp.{bare}"):
        await clusterset.denied(missing, "SRV")


async def test_the_bare_name_has_a_srv_record_per_port(clusterset: Clusterset) -> None:
    """Nothing in the text of the specification; its conformance suite asks for it."""
    name, base = clusterset.name()
    await clusterset.east.service(name, ports=[HTTP, {"name": "admin", "port": 81, "protocol": "TCP"}])
    await clusterset.east.slice_(name, at("10.0.0.1"))
    await clusterset.east.export(name)
    await clusterset.becomes(base, "SRV", [f"0 100 {port} {base}." for port in (80, 81)])


async def test_a_port_of_tcp_and_udp_is_one_srv_record_at_the_bare_name(clusterset: Clusterset) -> None:
    name, base = clusterset.name()
    both = [{"name": p.lower(), "port": 42, "protocol": p} for p in ("TCP", "UDP")]
    await clusterset.east.service(name, ports=both)
    await clusterset.east.slice_(name, at("10.0.0.1"), ports=both)
    await clusterset.east.export(name)
    await clusterset.becomes(base, "SRV", [f"0 100 42 {base}."])
    await clusterset.becomes(f"_tcp._tcp.{base}", "SRV", [f"0 100 42 {base}."])
    await clusterset.becomes(f"_udp._udp.{base}", "SRV", [f"0 100 42 {base}."])


async def test_no_name_picks_one_clusters_part_of_a_clustersetip(clusterset: Clusterset) -> None:
    name, base = clusterset.name()
    for side in clusterset.sides:
        await side.service(name)
        await side.slice_(name, at("10.0.0.1", hostname="web"))
        await side.export(name)
    for side in clusterset.sides:
        ips = (await side.imported(name))["ips"]
        await until(lambda side=side, ips=ips: _same(side.answers(base), ips))
    for rtype in ("A", "AAAA", "SRV"):
        for label in ("east", "west", "web", "web.east", "10-0-0-1.east"):
            await clusterset.denied(f"{label}.{base}", rtype)


async def test_a_service_without_ready_endpoints_keeps_its_clustersetip(clusterset: Clusterset) -> None:
    name, base = clusterset.name()
    await clusterset.east.service(name)
    await clusterset.east.slice_(name, at("10.0.0.1", ready=False))
    await clusterset.east.export(name)
    ips = (await clusterset.west.imported(name))["ips"]
    await until(lambda: _same(clusterset.west.answers(base), ips))
    await clusterset.east.slice_(name, at("10.0.0.1"))
    await until(lambda: clusterset.west.running.clusters(f"{clusterset.east.namespace}/{name}") == {"east": 1})
    assert await clusterset.west.answers(base) == ips


async def test_names_end_with_the_last_export(clusterset: Clusterset) -> None:
    name, base = clusterset.name()
    for side in clusterset.sides:
        await side.service(name)
        await side.slice_(name, at("10.0.0.1"))
        await side.export(name)
    ips = (await clusterset.west.imported(name))["ips"]
    await until(lambda: _same(clusterset.west.answers(base), ips))
    await clusterset.west.unexport(name)
    await until(lambda: clusterset.west.running.clusters(f"{clusterset.west.namespace}/{name}") == {"east": 1})
    assert await clusterset.west.answers(base) == ips
    await clusterset.east.unexport(name)
    for rtype, missing in (("A", base), ("SRV", base), ("SRV", f"_http._tcp.{base}")):
        await clusterset.denied(missing, rtype)


async def test_a_service_that_is_not_exported_has_no_name(clusterset: Clusterset) -> None:
    name, base = clusterset.name()
    await clusterset.east.service(name)
    await clusterset.east.slice_(name, at("10.0.0.1"))
    await clusterset.denied(base)


# --- 2.4 Headless services --------------------------------------------------------------------------------------------


async def test_a_headless_service_is_the_ready_endpoints_of_all_clusters(clusterset: Clusterset) -> None:
    name, base = clusterset.name()
    await clusterset.east.headless(name, *at("10.0.0.1", "10.0.0.2"), *at("10.0.0.3", ready=False))
    await clusterset.west.headless(name, *at("10.1.0.1"))
    await clusterset.becomes(base, "A", ["10.0.0.1", "10.0.0.2", "10.1.0.1"])
    await clusterset.east.slice_(name, at("10.0.0.2", "10.0.0.3"))
    await clusterset.becomes(base, "A", ["10.0.0.2", "10.0.0.3", "10.1.0.1"])


async def test_endpoints_with_a_hostname_have_names_of_their_own(clusterset: Clusterset) -> None:
    name, base = clusterset.name()
    await clusterset.east.headless(name, *at("10.0.0.1", hostname="pet-0"), *at("10.0.0.2", hostname="pet-1"))
    await clusterset.west.headless(name, *at("10.1.0.1", hostname="pet-0"))
    await clusterset.becomes(f"pet-0.east.{base}", "A", ["10.0.0.1"])
    await clusterset.becomes(f"pet-1.east.{base}", "A", ["10.0.0.2"])
    await clusterset.becomes(f"pet-0.west.{base}", "A", ["10.1.0.1"])
    await clusterset.denied(f"pet-1.west.{base}")
    await clusterset.denied(f"pet-0.{base}")


async def test_all_addresses_of_a_hostname_are_given(clusterset: Clusterset) -> None:
    name, base = clusterset.name()
    await clusterset.east.headless(name, *at("10.0.0.1", "10.0.0.2", hostname="web"))
    await clusterset.becomes(f"web.east.{base}", "A", ["10.0.0.1", "10.0.0.2"])


async def test_an_endpoint_that_is_not_ready_has_no_name(clusterset: Clusterset) -> None:
    name, base = clusterset.name()
    await clusterset.east.headless(
        name, *at("10.0.0.1", hostname="pet-0"), *at("10.0.0.2", hostname="pet-1", ready=False)
    )
    await clusterset.becomes(f"pet-0.east.{base}", "A", ["10.0.0.1"])
    await clusterset.denied(f"pet-1.east.{base}")
    await clusterset.becomes(base, "SRV", [f"0 100 8080 pet-0.east.{base}."])


async def test_not_ready_endpoints_are_given_where_the_service_publishes_them(clusterset: Clusterset) -> None:
    name, base = clusterset.name()
    await clusterset.east.headless(name, *at("10.0.0.1", ready=False), publishNotReadyAddresses=True)
    await clusterset.becomes(base, "A", ["10.0.0.1"])


async def test_n_endpoints_with_m_named_ports_have_n_times_m_srv_records(clusterset: Clusterset) -> None:
    name, base = clusterset.name()
    ports = [{"name": p, "port": n, "protocol": "TCP"} for p, n in (("http", 80), ("admin", 81))]
    pets = [one for n in range(3) for one in at(f"10.0.0.{n}", hostname=f"pet-{n}")]
    await clusterset.east.headless(name, *pets, ports=ports)
    await clusterset.west.headless(name, *at("10.1.0.1", hostname="pet-0"), ports=ports)
    hosts = ["pet-0.east", "pet-0.west", "pet-1.east", "pet-2.east"]
    await clusterset.becomes(base, "A", ["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.1.0.1"])
    for side in clusterset.sides:
        assert await side.targets(f"_http._tcp.{base}") == [(80, host) for host in hosts]
        assert await side.targets(f"_admin._tcp.{base}") == [(81, host) for host in hosts]
        assert await side.targets(base) == [(port, host) for port in (80, 81) for host in hosts]


async def test_srv_targets_have_addresses(clusterset: Clusterset) -> None:
    name, base = clusterset.name()
    await clusterset.east.headless(name, *at("10.0.0.1", hostname="pet-0"), *at("10.0.0.2"))
    await clusterset.becomes(base, "A", ["10.0.0.1", "10.0.0.2"])
    found = set()
    for record in await clusterset.west.answers(f"_http._tcp.{base}", "SRV"):
        found.update(await clusterset.west.answers(record.split()[-1]))
    assert found == {"10.0.0.1", "10.0.0.2"}


async def test_an_endpoint_without_a_hostname_is_named_by_its_address_with_dashes(clusterset: Clusterset) -> None:
    name, base = clusterset.name()
    await clusterset.east.headless(name, *at("10.0.0.1"))
    await clusterset.east.slice_(name, at("fd00::1:1"), family="IPv6")
    await clusterset.becomes(f"10-0-0-1.east.{base}", "A", ["10.0.0.1"])
    await clusterset.becomes(f"fd00--1-1.east.{base}", "AAAA", ["fd00::1:1"])
    for side in clusterset.sides:
        assert await side.targets(base) == [(8080, "10-0-0-1.east"), (8080, "fd00--1-1.east")]


async def test_an_unnamed_port_of_a_headless_service_has_no_srv_record_of_its_own(clusterset: Clusterset) -> None:
    name, base = clusterset.name()
    unnamed = [{"name": "", "port": 80, "protocol": "TCP"}]
    await clusterset.east.headless(name, *at("10.0.0.1"), ports=unnamed)
    await clusterset.becomes(base, "A", ["10.0.0.1"])
    await clusterset.denied(f"_http._tcp.{base}", "SRV")


async def test_the_same_endpoints_are_given_in_both_families(clusterset: Clusterset) -> None:
    """However many there are: where UDP has no room, the answer is cut and TCP brings all of both."""
    name, base = clusterset.name()
    await clusterset.east.headless(name, ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv4", "IPv6"])
    numbers = range(1, 61)
    await clusterset.east.slice_(name, [one for n in numbers for one in at(f"10.0.0.{n}", hostname=f"pet-{n}")])
    v6 = [one for n in numbers for one in at(f"fd00::{n}", hostname=f"pet-{n}")]
    await clusterset.east.slice_(name, v6, family="IPv6")
    await clusterset.becomes(base, "A", [f"10.0.0.{n}" for n in numbers])
    await clusterset.becomes(base, "AAAA", [f"fd00::{n}" for n in numbers])
    await clusterset.becomes(f"pet-7.east.{base}", "A", ["10.0.0.7"])
    await clusterset.becomes(f"pet-7.east.{base}", "AAAA", ["fd00::7"])
    assert len(await clusterset.west.answers(f"_http._tcp.{base}", "SRV")) == len(numbers)  # one target for both


async def test_a_headless_service_without_a_ready_endpoint_is_nxdomain(clusterset: Clusterset) -> None:
    name, base = clusterset.name()
    await clusterset.east.headless(name, *at("10.0.0.1", hostname="pet-0", ready=False))
    for side in clusterset.sides:
        await side.knows(name)
    for rtype in ("A", "AAAA", "SRV"):
        await clusterset.denied(base, rtype)
    await clusterset.denied(f"_http._tcp.{base}", "SRV")
    await clusterset.east.slice_(name, at("10.0.0.1", hostname="pet-0"))
    await clusterset.becomes(base, "A", ["10.0.0.1"])
    await clusterset.east.slice_(name, [])
    await clusterset.denied(base)


async def test_endpoint_slices_and_names_of_a_headless_service_agree(clusterset: Clusterset) -> None:
    """The conformance suite takes hostnames and addresses from the slices, and asks for them by name."""
    name, base = clusterset.name()
    await clusterset.east.headless(name, *at("10.0.0.1", hostname="pet-0"), *at("10.0.0.2", hostname="pet-1"))
    await clusterset.west.headless(name, *at("10.1.0.1", hostname="pet-0"))
    for side in clusterset.sides:

        async def pets(side: Side = side) -> dict[str, list[str]]:
            selector = f"multicluster.kubernetes.io/service-name={name}"
            found = await side.client.list(
                "discovery.k8s.io/v1", "EndpointSlice", side.namespace, labelSelector=selector
            )
            return {
                f"{e['hostname']}.{s['metadata']['labels']['multicluster.kubernetes.io/source-cluster']}": e[
                    "addresses"
                ]
                for s in found
                for e in s["endpoints"]
            }

        expected = {"pet-0.east": ["10.0.0.1"], "pet-1.east": ["10.0.0.2"], "pet-0.west": ["10.1.0.1"]}
        await until(lambda pets=pets, expected=expected: _same(pets(), expected))
        for host, addresses in expected.items():
            await until(lambda side=side, host=host, a=addresses: _same(side.answers(f"{host}.{base}"), a))


async def test_one_clusters_part_of_a_headless_service_has_no_records(clusterset: Clusterset) -> None:
    name, base = clusterset.name()
    await clusterset.east.headless(name, *at("10.0.0.1", hostname="pet-0"))
    await clusterset.becomes(base, "A", ["10.0.0.1"])
    for side in clusterset.sides:
        for rtype in ("A", "AAAA", "SRV", "TXT", "ANY"):
            assert await side.answers(f"east.{base}", rtype) == []
        await until(lambda side=side: _same(side.rcode(f"west.{base}"), "NXDOMAIN"))


# --- around it --------------------------------------------------------------------------------------------------------


async def test_cluster_local_is_untouched(clusterset: Clusterset) -> None:
    name, _ = clusterset.name()
    await clusterset.east.service(name)
    await clusterset.east.export(name)
    await clusterset.east.imported(name)
    for side in clusterset.sides:
        assert await side.rcode(f"{name}.{side.namespace}.svc.cluster.local") == "REFUSED"
        assert await side.rcode("kubernetes.default.svc.cluster.local", "SRV") == "REFUSED"


async def test_services_of_a_namespace_that_a_cluster_lacks_have_no_name_there(clusterset: Clusterset) -> None:
    """Namespace sameness: imports exist where the namespace does."""
    east, west = clusterset.sides
    namespace = f"{east.namespace}-only"
    there = Side(east.name, east.running, east.client, namespace)
    base = f"db.{namespace}.svc.clusterset.local"
    await east.client.create_namespace(namespace)
    try:
        await there.headless("db", *at("10.0.0.1"))
        await until(lambda: _same(east.answers(base), ["10.0.0.1"]))
        await until(lambda: ServiceName(namespace, "db") in west.running.agent.view.imports)
        assert await west.rcode(base) == "NXDOMAIN"
        await west.client.create_namespace(namespace)
        await until(lambda: _same(west.answers(base), ["10.0.0.1"]))
    finally:
        for side in clusterset.sides:
            await _remove(side.client, namespace)
    await until(lambda: _same(west.rcode(base), "NXDOMAIN"))


async def test_names_above_services_exist_without_records(clusterset: Clusterset) -> None:
    """A resolver that asks label by label (RFC 9156) would stop at NXDOMAIN there."""
    for side in clusterset.sides:
        for name in ("clusterset.local", "svc.clusterset.local", f"{side.namespace}.svc.clusterset.local"):
            answer = await side.ask(name)
            assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])
            assert answer.authority[0].rdtype == dns.rdatatype.SOA


async def test_an_agent_that_restarts_answers_the_same(clusterset: Clusterset) -> None:
    (name, base), (pets, pet_base) = clusterset.name(), clusterset.name()
    await clusterset.west.service(name)
    await clusterset.west.slice_(name, at("10.1.0.1"))
    await clusterset.west.export(name)
    await clusterset.west.headless(pets, *at("10.1.0.1", hostname="pet-0"))
    east = clusterset.east
    ips = (await east.imported(name))["ips"]
    await until(lambda: _same(east.answers(base), ips))
    await clusterset.becomes(pet_base, "A", ["10.1.0.1"])
    settings = east.running.agent.settings
    await east.running.stop()
    await east.running.start(files=None, kubernetes=settings.kubernetes, network=settings.network, dns=settings.dns)
    assert await east.answers(base) == ips
    assert await east.answers(pet_base) == ["10.1.0.1"]
    await asyncio.gather(east.knows(name), east.knows(pets))
