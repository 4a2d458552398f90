"""Model → bytes → model is the identity, equal values give equal bytes, and garbage is refused in one way."""

from __future__ import annotations

import contextlib
import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import InvalidInput
from federation.model import wire
from federation.model.cluster import Bundle, Cluster, Gateway, Link, LinkGrant, Peer, Problem
from federation.model.ids import ServiceName, SpiffeId
from federation.model.service import (
    MAX_WEIGHT,
    AppProtocol,
    Backend,
    Endpoint,
    Endpoints,
    Export,
    FieldConflict,
    Grant,
    Import,
    Locality,
    Port,
    Protocol,
    Readiness,
    Service,
)
from federation.proto.v1 import records_pb2 as pb

label = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=12)
text = st.text(string.printable, max_size=12)
port_number = st.integers(1, 65535)
locality = st.builds(Locality, text, text)
name = st.builds(ServiceName, label, label)
port = st.builds(
    Port,
    name=st.one_of(st.just(""), label),
    port=port_number,
    protocol=st.sampled_from(Protocol),
    app=st.sampled_from(AppProtocol),
    declared=text,
)
readiness = st.builds(Readiness, locality, st.integers(0, 2**31), st.integers(0, 2**40))
endpoint = st.builds(
    Endpoint,
    address=text,
    ready=st.booleans(),
    terminating=st.booleans(),
    locality=locality,
    hostname=text,
    ports=st.dictionaries(port_number, port_number, max_size=3),
    identity=st.one_of(st.just(""), st.builds(lambda d, n, a: str(SpiffeId.workload(d, n, a)), label, label, label)),
    weight=st.integers(1, MAX_WEIGHT),
)
grant = st.builds(Grant, st.one_of(st.just("*"), label), st.lists(port_number, max_size=3).map(tuple))
bundle = st.builds(
    Bundle,
    trust_domain=text,
    sequence=st.integers(0, 2**63),
    roots=st.lists(st.binary(max_size=8), max_size=2).map(tuple),
    refresh_hint_seconds=st.integers(0, 2**31),
    signature=st.binary(max_size=8),
)
gateway = st.builds(
    Gateway,
    name=label,
    address=text,
    port=port_number,
    locality=locality,
    weight=st.integers(1, 2**31),
    draining=st.booleans(),
    egress=text,
)


def many(of: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(of, max_size=3).map(tuple)


service = st.builds(
    Service,
    name=name,
    exported_at_ns=st.integers(0, 2**62),
    ports=many(port),
    headless=st.booleans(),
    session_affinity=st.sampled_from(["None", "ClientIP"]),
    session_affinity_seconds=st.integers(0, 86400),
    internal_traffic_policy=text,
    traffic_distribution=text,
    ip_families=many(text),
    labels=st.dictionaries(text, text, max_size=3),
    annotations=st.dictionaries(text, text, max_size=3),
    readiness=many(readiness),
    grants=many(grant),
    endpoints=many(endpoint),
)
imported = st.builds(
    Import,
    name=name,
    ips=many(text),
    ip_families=many(text),
    headless=st.booleans(),
    ports=many(port),
    session_affinity=st.sampled_from(["None", "ClientIP"]),
    session_affinity_seconds=st.integers(0, 86400),
    internal_traffic_policy=text,
    traffic_distribution=text,
    labels=st.dictionaries(text, text, max_size=3),
    annotations=st.dictionaries(text, text, max_size=3),
    backends=many(
        st.builds(
            Backend,
            cluster=label,
            local=st.booleans(),
            stale=st.booleans(),
            ports=many(port_number),
            readiness=many(readiness),
            endpoints=many(endpoint),
        )
    ),
    conflicts=many(st.builds(FieldConflict, text, text)),
    gateway_ports=st.dictionaries(port_number, port_number, max_size=3),
    aliases=st.lists(st.sampled_from(["db.service.consul", "db-sql.service.consul"]), unique=True).map(tuple),
)
exported = st.builds(Export, name=name, ports=many(port), endpoints=many(endpoint), grants=many(grant))
cluster = st.builds(
    Cluster,
    name=label,
    trust_domain=text,
    locality=locality,
    bundle=bundle,
    agent_version=text,
    problems=many(st.builds(Problem, text, text, text, st.integers(0, 2**62))),
    network=st.just("") | label,
    pod_ranges=many(text),
)
where = st.builds(Endpoints, name=name, network=label, endpoints=many(endpoint), grants=many(grant))
link = st.builds(
    Link,
    a=label,
    b=label,
    created_ns=st.integers(0, 2**62),
    grants=many(
        st.builds(
            LinkGrant,
            origin=label,
            consumer=label,
            namespace=st.one_of(st.just("*"), label),
            service=st.one_of(st.just("*"), label),
            ports=many(port_number),
        )
    ),
)
peer = st.builds(
    Peer,
    cluster=label,
    trust_domain=text,
    locality=locality,
    own=st.booleans(),
    bundle=bundle,
    gateways=many(gateway),
)

PAYLOADS = {
    "service": (service, wire.encode_service, wire.decode_service),
    "import": (imported, wire.encode_import, wire.decode_import),
    "export": (exported, wire.encode_export, wire.decode_export),
    "cluster": (cluster, wire.encode_cluster, wire.decode_cluster),
    "endpoints": (where, wire.encode_endpoints, wire.decode_endpoints),
    "gateway": (gateway, wire.encode_gateway, wire.decode_gateway),
    "link": (link, wire.encode_link, wire.decode_link),
    "peer": (peer, wire.encode_peer, wire.decode_peer),
}


@pytest.mark.parametrize("payload", PAYLOADS)
def test_round_trip_and_determinism(payload: str):
    strategy, encode, decode = PAYLOADS[payload]

    @given(strategy)
    def check(value: object) -> None:
        data = encode(value)
        again = decode(data)
        assert again == value
        assert encode(again) == data

    check()


@given(imported)
def test_what_is_written_by_hand_is_what_protobuf_reads(value: Import):
    assert pb.Import.FromString(wire.encode_import(value)) == wire.import_to_pb(value)


def test_no_field_is_forgotten_by_hand():
    """Whoever adds one adds it to federation.model.endpointwire or to the parts of federation.model.wire, too."""
    fields = {
        m.DESCRIPTOR.name: [f.number for f in m.DESCRIPTOR.fields]
        for m in (pb.Endpoint, pb.Backend, pb.Export, pb.Import)
    }
    assert fields == {
        "Endpoint": [1, 2, 3, 4, 5, 6, 7, 8],
        "Backend": [1, 2, 3, 4, 5, 6],
        "Export": [1, 2, 3, 4, 5],
        "Import": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 14, 16],
    }


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 16_383, 16_384, 70_000])
def test_long_values_have_long_lengths(size: int):
    one = Endpoint(
        address="a" * size, hostname="h" * size, locality=Locality("r" * size, "z"), ports={65535: 127, 80: 8080}
    )
    other = Endpoint(address="é", ready=False, terminating=True, ports={16_384: 16_383, 128: 1})
    value = Export(name=ServiceName("shop", "echo"), ports=(), endpoints=(one, other), grants=())
    data = wire.encode_export(value)
    assert wire.decode_export(data) == value
    turned = replace(one, ports=dict(reversed(one.ports.items())))
    assert wire.encode_export(replace(value, endpoints=(turned, other))) == data


@pytest.mark.parametrize("payload", PAYLOADS)
def test_garbage_is_invalid_input(payload: str):
    _, _, decode = PAYLOADS[payload]

    @given(st.binary(max_size=80))
    def check(data: bytes) -> None:
        with contextlib.suppress(InvalidInput):
            decode(data)

    check()


@pytest.mark.parametrize("identity", ["spiffe://east.test", "spiffe://east.test/", "east.test/ns/a/sa/b", "plain", " "])
def test_an_endpoint_without_a_lawful_identity_is_no_endpoint(identity: str):
    """Taken for an empty one, it would be sent plain text."""
    exported = Export(name=ServiceName("shop", "db"), endpoints=(Endpoint(address="10.0.0.1", identity=identity),))
    with pytest.raises(InvalidInput, match="no SPIFFE ID"):
        wire.decode_export(wire.encode_export(exported))
