"""Whatever a service is: its records can be served, SRV records lead to addresses, no name means another service."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.dns import records as cluster_records
from federation.dns import names
from federation.dns.answer import NameRecords
from federation.dns.table import Table
from federation.dns.wire import encode_name
from federation.model.ids import ServiceName
from federation.model.service import Backend, Endpoint, Import, Locality, Port, Protocol, Readiness

SUFFIX = "global"
SETTINGS = settings(max_examples=60)
label = st.sampled_from(["echo", "e", "1", "a-b", "svc", "x" * 63])
clusters = st.sampled_from(["east", "west", "c" * 63])
numbers = st.sampled_from([53, 80, 81, 8080])
addresses = st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2", "::1", "1::"])
ports = st.lists(
    st.builds(
        Port, name=st.sampled_from(["", "http", "dns", "p" * 15]), port=numbers, protocol=st.sampled_from(Protocol)
    ),
    max_size=4,
    unique_by=(lambda p: (p.port, p.protocol), lambda p: p.name),
).map(tuple)
endpoints = st.lists(
    st.builds(
        Endpoint,
        address=addresses,
        ready=st.booleans(),
        terminating=st.booleans(),
        hostname=st.sampled_from(["", "pet-0", "pet-1", "h" * 63]),
        ports=st.dictionaries(numbers, numbers, max_size=3),
    ),
    max_size=4,
).map(tuple)
backends = st.lists(
    st.builds(
        Backend,
        cluster=clusters,
        ports=st.just((53, 80, 81, 8080)),
        readiness=st.integers(0, 3).map(lambda n: (Readiness(Locality(), n),)),
        endpoints=endpoints,
    ),
    max_size=2,
    unique_by=lambda b: b.cluster,
).map(tuple)
imports = st.builds(
    Import,
    name=st.builds(ServiceName, label, label),
    ips=st.lists(addresses, max_size=2, unique=True).map(tuple),
    headless=st.booleans(),
    ports=ports,
    backends=backends,
)


def served(imp: Import) -> tuple[Table, dict[str, NameRecords]]:
    found = cluster_records(imp, suffix=SUFFIX)
    table = Table([names.CLUSTERSET_ZONE, SUFFIX])
    for name, value in found.items():
        table.put(name, value)
    return table, found


@SETTINGS
@given(imports)
def test_every_record_can_be_served_and_every_srv_leads_to_an_address(imp: Import) -> None:
    table, found = served(imp)
    for name, value in found.items():
        for srv in value.srv:
            target = table.get(srv.target)
            assert target is not None, (name, srv)
            assert target.a or target.aaaa, (name, srv)
            assert 1 <= srv.port <= 65535
        assert len(set(value.srv)) == len(value.srv)


@SETTINGS
@given(imports)
def test_every_name_means_its_service(imp: Import) -> None:
    for name in served(imp)[1]:
        meant = names.parse(name, suffix=SUFFIX)
        assert meant is not None, name
        assert meant.service == imp.name
        assert meant.cluster in (None, *(b.cluster for b in imp.backends))


@SETTINGS
@given(imports)
def test_no_name_for_one_clusters_part_has_records(imp: Import) -> None:
    base = f"{imp.name.name}.{imp.name.namespace}.svc.clusterset.local"
    _, found = served(imp)
    assert not any(f"{b.cluster}.{base}" in found for b in imp.backends)


@SETTINGS
@given(imports)
def test_a_headless_service_has_exactly_its_ready_endpoints(imp: Import) -> None:
    table, found = served(imp)
    base = f"{imp.name.name}.{imp.name.namespace}.svc.clusterset.local"
    if not imp.headless:
        assert table.exists(encode_name(base))  # be it without an address yet
        return
    ready = {e.address for b in imp.backends for e in b.endpoints if e.ready and not e.terminating}
    here = found.get(base, NameRecords())
    assert {*here.a, *here.aaaa} == ready
    assert table.exists(encode_name(base)) is bool(ready)
    for value in found.values():
        assert {*value.a, *value.aaaa} <= ready


@SETTINGS
@given(imports.map(lambda i: replace(i, headless=True)))
def test_each_named_port_has_a_record_for_each_endpoint_that_has_it(imp: Import) -> None:
    _, found = served(imp)
    base = f"{imp.name.name}.{imp.name.namespace}.svc.clusterset.local"
    ready = [(b.cluster, e) for b in imp.backends for e in b.endpoints if e.ready and not e.terminating]
    for port in imp.ports:
        if not port.name or len(base) > 200:
            continue
        having = {
            (c, e.hostname or e.address, e.ports.get(port.port, port.port))
            for c, e in ready
            if not e.ports or port.port in e.ports
        }
        got = found.get(f"_{port.name}._{port.protocol.value.lower()}.{base}", NameRecords()).srv
        assert {s.port for s in got} == {number for _, _, number in having}
        assert len(got) <= len(having)
        if not any(e.address in ("::1", "1::") or len(e.hostname) > 8 for _, e in ready):
            assert len(got) == len(having)
