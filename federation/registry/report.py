"""Checks one record of a report at the edge: what its origin may claim, about itself and nobody else. Pure.

Arrives: a record from the Publish stream of a proven cluster. Leaves: what the registry needs to know of it (size,
grants, a new bundle), or an error that becomes the record's rejection; the rest of the report goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from federation.errors import Denied, InvalidInput
from federation.model import wire
from federation.model.cluster import Bundle
from federation.model.ids import ServiceName, parse_label
from federation.model.record import Kind, Record
from federation.model.service import Endpoint
from federation.registry.addresses import check_gateway_address
from federation.registry.quota import Size
from federation.registry.sight import ANYBODY, Terms
from federation.store.base import Member
from federation.trust.bundle import check_pin, fingerprint

MAX_PORTS = 256
MAX_TEXT = 253


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A record that may enter. `bundle`: a lawful successor of the member's, to be kept."""

    size: Size
    terms: Terms = ANYBODY
    bundle: Bundle | None = None


def admit(record: Record, member: Member, *, single_machine: bool) -> Admitted:
    """`record` as `member` claims it (no tombstone).

    Raises Denied (foreign_origin, foreign_name, foreign_trust_domain, bundle_*: an attempt to speak for somebody else,
    worth an audit line) and InvalidInput (malformed_record, invalid_name, forbidden_address, unexpected_kind …).
    """
    key, payload = record.key, record.payload or b""
    if key.origin != member.name:
        raise Denied(f"{member.name} claims a record of {key.origin[:80]!r}", code="foreign_origin")
    if key.kind is Kind.SERVICE:
        return _service(key.name, payload, single_machine=single_machine)
    if key.kind is Kind.ENDPOINTS:
        return _endpoints(key.name, payload, single_machine=single_machine)
    if key.kind is Kind.GATEWAY:
        return _gateway(key.name, payload, single_machine=single_machine)
    if key.kind is Kind.CLUSTER:
        return _cluster(key.name, payload, member)
    raise InvalidInput(f"a cluster does not report records of kind {key.kind.name}", code="unexpected_kind")


def _service(name: str, payload: bytes, *, single_machine: bool) -> Admitted:
    service = wire.decode_service(payload)
    if str(service.name) != name or ServiceName.parse(name) != service.name:
        raise Denied(f"the record {name[:140]!r} is about {service.name}", code="foreign_name")
    if len(service.ports) > MAX_PORTS:
        raise InvalidInput(f"{service.name} has {len(service.ports)} ports; at most {MAX_PORTS}", code="too_many_ports")
    _check_endpoints(service.endpoints, single_machine=single_machine)
    count = max(service.ready, len(service.endpoints))
    return Admitted(size=Size.of(Kind.SERVICE, length=len(payload), endpoints=count), terms=Terms(service.grants))


def _endpoints(name: str, payload: bytes, *, single_machine: bool) -> Admitted:
    found = wire.decode_endpoints(payload)
    if str(found.name) != name:
        raise Denied(f"the record {name[:140]!r} is about {found.name}", code="foreign_name")
    _check_endpoints(found.endpoints, single_machine=single_machine)
    count = max(1, len(found.endpoints))  # a record counts even where it is empty
    size = Size.of(Kind.ENDPOINTS, length=len(payload), endpoints=count)
    return Admitted(size=size, terms=Terms(found.grants, found.network))


def _check_endpoints(endpoints: Iterable[Endpoint], *, single_machine: bool) -> None:
    for endpoint in endpoints:
        check_gateway_address(endpoint.address, single_machine=single_machine)
        if endpoint.hostname:
            parse_label(endpoint.hostname, what="hostname")


def _gateway(name: str, payload: bytes, *, single_machine: bool) -> Admitted:
    gateway = wire.decode_gateway(payload)
    if gateway.name != name:
        raise Denied(f"the record {name[:80]!r} is about gateway {gateway.name!r}", code="foreign_name")
    check_gateway_address(gateway.address, single_machine=single_machine)
    return Admitted(size=Size.of(Kind.GATEWAY, length=len(payload)))


def _cluster(name: str, payload: bytes, member: Member) -> Admitted:
    cluster = wire.decode_cluster(payload)
    if not name == cluster.name == member.name:
        raise Denied(f"{member.name} speaks for cluster {cluster.name!r} as {name[:80]!r}", code="foreign_name")
    for domain in (cluster.trust_domain, cluster.bundle.trust_domain):
        if domain != member.trust_domain:
            raise Denied(
                f"{member.name} claims the trust domain {domain[:80]!r}; its own is {member.trust_domain}",
                code="foreign_trust_domain",
            )
    check_pin(cluster.bundle, fingerprint(member.bundle), member.bundle)
    bundle = cluster.bundle if cluster.bundle.sequence > member.bundle.sequence else None
    for problem in cluster.problems:
        if len(problem.code) > MAX_TEXT:
            raise InvalidInput("a problem's code is longer than any", code="malformed_record")
    return Admitted(size=Size.of(Kind.CLUSTER, length=len(payload)), bundle=bundle)
