"""Whatever a member writes where a name belongs: it is a DNS label, or the record is rejected. Nothing else gets in."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from federation.errors import IsthmusError
from federation.model.cluster import Bundle
from federation.model.record import Key, Kind, Record, Version
from federation.proto.v1 import records_pb2 as pb
from federation.registry.report import admit
from federation.store.base import Member

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
MEMBER = Member(
    name="east",
    trust_domain="east.demo.test",
    bundle=Bundle(trust_domain="east.demo.test", sequence=1, roots=(b"r",)),
    joined_ns=1,
)
nasty = st.sampled_from(["\0", "\r\n", "*", "..", "ä", "xn--", "-", "_", "/", "A", "a" * 64, "%00", " ", "\uff0e"])
names = st.one_of(
    st.from_regex(LABEL, fullmatch=True),
    st.text(max_size=70),
    st.lists(st.one_of(nasty, st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True)), max_size=4).map("".join),
)


def passes(kind: Kind, name: str, payload: bytes) -> bool:
    try:
        admit(Record(Key("east", kind, name), Version(1, 1), payload), MEMBER, single_machine=False)
    except IsthmusError:
        return False
    return True


@given(namespace=names, name=names, key=st.none() | names)
def test_services(namespace: str, name: str, key: str | None) -> None:
    payload = pb.Service(namespace=namespace, name=name).SerializeToString()
    record = f"{namespace}/{name}" if key is None else key
    if passes(Kind.SERVICE, record, payload):
        assert LABEL.fullmatch(namespace)
        assert LABEL.fullmatch(name)
        assert record == f"{namespace}/{name}"


@given(name=names, port=st.integers(0, 2**32 - 1), consumer=names)
def test_ports_grants_and_gateways(name: str, port: int, consumer: str) -> None:
    service = pb.Service(namespace="a", name="b", ports=[pb.Port(name=name, port=port)])
    service.grants.add(consumer=consumer)
    if passes(Kind.SERVICE, "a/b", service.SerializeToString()):
        assert not name or LABEL.fullmatch(name)
        assert 1 <= port <= 65535
        assert consumer == "*" or LABEL.fullmatch(consumer)
    gateway = pb.Gateway(name=name, address="203.0.113.1", port=port)
    if passes(Kind.GATEWAY, name, gateway.SerializeToString()):
        assert LABEL.fullmatch(name)
        assert 1 <= port <= 65535


@given(network=names, hostname=names, address=st.sampled_from(["10.0.0.1", "127.0.0.1", "fd00::1", "echo", ""]))
def test_endpoints(network: str, hostname: str, address: str) -> None:
    found = pb.Endpoints(namespace="a", name="b", network=network)
    found.endpoints.add(address=address, hostname=hostname)
    if passes(Kind.ENDPOINTS, "a/b", found.SerializeToString()):
        assert LABEL.fullmatch(network)
        assert not hostname or LABEL.fullmatch(hostname)
        assert address in ("10.0.0.1", "fd00::1")


@given(kind=st.sampled_from(list(Kind)), name=names, payload=st.binary(max_size=300))
def test_bytes_that_are_anything(kind: Kind, name: str, payload: bytes) -> None:
    passes(kind, name, payload)
