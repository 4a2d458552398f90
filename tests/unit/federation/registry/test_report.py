"""What a record of a report may say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from federation.errors import IsthmusError
from federation.model.record import Kind
from federation.model.service import Endpoint, Grant, Port
from federation.registry.report import admit
from federation.registry.sight import Terms
from federation.trust.bundle import sign_successor


def test_good_records(claims: Any) -> None:
    east = claims("east")
    member = east.member()
    assert admit(east.cluster(), member, single_machine=False).bundle is None
    assert admit(east.gateway(), member, single_machine=False).size.gateways == 1
    admitted = admit(east.service(grants=(Grant("west"),), ready=5), member, single_machine=False)
    assert (admitted.size.services, admitted.size.endpoints, admitted.terms.grants) == (1, 5, (Grant("west"),))
    where = admit(east.endpoints("10.0.0.1", "10.0.0.2", grants=(Grant("west"),)), member, single_machine=False)
    assert (where.size.services, where.size.endpoints, where.terms) == (0, 2, Terms((Grant("west"),), "flat"))
    assert admit(east.endpoints(), member, single_machine=False).size.endpoints == 1  # it counts where it is empty


def test_a_lawful_successor(claims: Any) -> None:
    east = claims("east")
    successor = sign_successor(replace(east.authority.bundle, sequence=2), east.authority._root.key)
    assert admit(east.cluster(bundle=successor), east.member(), single_machine=False).bundle == successor


CASES = {
    "another origin": ("foreign_origin", lambda c: c.record(Kind.SERVICE, "a/b", b"", origin="west")),
    "a link": ("unexpected_kind", lambda c: c.record(Kind.LINK, "east/west", b"")),
    "a peer": ("unexpected_kind", lambda c: c.record(Kind.PEER, "west", b"")),
    "an export": ("unexpected_kind", lambda c: c.record(Kind.EXPORT, "a/b", b"")),
    "no message": ("malformed_record", lambda c: c.record(Kind.GATEWAY, "gw", b"\xff")),
    "an empty message": ("invalid_name", lambda c: c.record(Kind.SERVICE, "a/b", b"")),
    "another name": ("foreign_name", lambda c: c.record(Kind.GATEWAY, "other", c.gateway().payload)),
    "a name in capitals": ("foreign_name", lambda c: c.record(Kind.SERVICE, "Shop/echo", c.service().payload)),
    "port 0": ("invalid_port", lambda c: c.service(ports=(Port(port=0),))),
    "too many ports": ("too_many_ports", lambda c: c.service(ports=tuple(Port(port=i + 1) for i in range(300)))),
    "an endpoint on loopback": ("forbidden_address", lambda c: c.service(endpoints=(Endpoint(address="127.0.0.1"),))),
    "an endpoint that is no address": ("malformed_address", lambda c: c.service(endpoints=(Endpoint(address="a b"),))),
    "a hostname that is none": (
        "invalid_name",
        lambda c: c.service(endpoints=(Endpoint(address="10.0.0.1", hostname="a\nb"),)),
    ),
    "endpoints on loopback": ("forbidden_address", lambda c: c.endpoints("127.0.0.1")),
    "endpoints of no network": ("invalid_name", lambda c: c.endpoints("10.0.0.1", network="")),
    "endpoints of another service": (
        "foreign_name",
        lambda c: c.record(Kind.ENDPOINTS, "shop/other", c.endpoints("10.0.0.1").payload),
    ),
    "a grant to nobody": ("invalid_name", lambda c: c.service(grants=(Grant("No!"),))),
    "a gateway on loopback": ("forbidden_address", lambda c: c.gateway("127.0.0.1")),
    "an old bundle": ("bundle_rollback", lambda c: c.cluster(bundle=replace(c.authority.bundle, sequence=0))),
    "an unsigned bundle": ("bundle_unsigned", lambda c: c.cluster(bundle=replace(c.authority.bundle, sequence=2))),
    "no roots": ("bundle_empty", lambda c: c.cluster(bundle=replace(c.authority.bundle, roots=(), sequence=2))),
    "another trust domain": ("foreign_trust_domain", lambda c: c.cluster(trust_domain="west.demo.test")),
    "another cluster": ("foreign_name", lambda c: c.cluster(name="west")),
}


@pytest.mark.parametrize("what", CASES)
def test_bad_records(claims: Any, what: str) -> None:
    east = claims("east")
    code, make = CASES[what]
    with pytest.raises(IsthmusError) as caught:
        admit(make(east), east.member(), single_machine=False)
    assert caught.value.error_code == code
