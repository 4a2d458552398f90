"""Placement: who is asked first, and with which share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.model.cluster import Bundle, Gateway, Peer
from federation.model.ids import ServiceName
from federation.model.service import Backend, Endpoint, Import, Locality, Port, Readiness
from federation.policy.locality import Host, place, ready_hosts

ECHO = ServiceName("shop", "echo")
HERE = Locality("eu", "eu-1")


def peer(cluster: str, *gateways: Gateway, locality: Locality = Locality()) -> Peer:
    domain = f"{cluster}.example.org"
    bundle = Bundle(trust_domain=domain, sequence=1, roots=(b"r",))
    return Peer(cluster=cluster, trust_domain=domain, locality=locality, bundle=bundle, gateways=gateways)


def gateway(address: str, *, weight: int = 1, draining: bool = False, locality: Locality = Locality()) -> Gateway:
    return Gateway(name="g", address=address, port=15443, weight=weight, draining=draining, locality=locality)


def service(*backends: Backend, distribution: str = "") -> Import:
    return Import(name=ECHO, ports=(Port(port=80),), backends=backends, traffic_distribution=distribution)


def remote(cluster: str, *, ready: int = 1, ports: tuple[int, ...] = (80,)) -> Backend:
    return Backend(cluster=cluster, ports=ports, readiness=(Readiness(Locality(), ready),))


def local(*endpoints: Endpoint) -> Backend:
    return Backend(cluster="here", local=True, ports=(80,), endpoints=endpoints)


def placed(svc: Import, *peers: Peer, pinned: str | None = None) -> tuple[tuple[Host, ...], ...]:
    return place(svc, 80, peers={p.cluster: p for p in peers}, locality=HERE, pinned=pinned)


def test_the_order_is_local_zone_region_rest() -> None:
    far = peer("far", gateway("10.0.0.1"), locality=Locality("us", "us-1"))
    region = peer("region", gateway("10.0.0.2"), locality=Locality("eu", "eu-2"))
    zone = peer("zone", gateway("10.0.0.3"), locality=HERE)
    svc = service(
        remote("far"), local(Endpoint(address="10.1.0.1", ports={80: 8080})), remote("region"), remote("zone")
    )
    assert placed(svc, far, region, zone) == (
        (Host("10.1.0.1", 8080),),
        (Host("10.0.0.3", 15443, 100, "zone"),),
        (Host("10.0.0.2", 15443, 100, "region"),),
        (Host("10.0.0.1", 15443, 100, "far"),),
    )


def test_a_gateways_own_locality_counts_more_than_its_clusters() -> None:
    near = gateway("10.0.0.1", locality=HERE)
    other = gateway("10.0.0.2", locality=Locality("eu", "eu-2"))
    hosts = placed(service(remote("west")), peer("west", other, near, locality=Locality("us", "")))
    assert [h.address for tier in hosts for h in tier] == ["10.0.0.1", "10.0.0.2"]
    assert len(hosts) == 2


def test_unknown_localities_are_elsewhere() -> None:
    svc = service(remote("west"))
    hosts = place(svc, 80, peers={"west": peer("west", gateway("10.0.0.1"))}, locality=Locality())
    assert hosts == ((Host("10.0.0.1", 15443, 100, "west"),),)


def test_ready_endpoints_are_shared_out_by_the_gateways_weights() -> None:
    west = peer("west", gateway("10.0.0.1", weight=3), gateway("10.0.0.2"))
    south = peer("south", gateway("10.0.0.3"))
    (tier,) = placed(service(remote("west", ready=8), remote("south", ready=2)), west, south)
    assert {h.address: h.weight for h in tier} == {"10.0.0.1": 600, "10.0.0.2": 200, "10.0.0.3": 200}


def test_gateways_behind_one_address_are_one_of_their_common_weight() -> None:
    west = peer("west", gateway("10.0.0.1", weight=2), gateway("10.0.0.1"), gateway("10.0.0.2"))
    (tier,) = placed(service(remote("west", ready=4)), west)
    assert {h.address: h.weight for h in tier} == {"10.0.0.1": 300, "10.0.0.2": 100}
    other_port = replace(gateway("10.0.0.1"), port=443)
    (tier,) = placed(service(remote("west", ready=4)), peer("west", gateway("10.0.0.1"), other_port))
    assert {(h.port, h.weight) for h in tier} == {(443, 200), (15443, 200)}, "another port is another gateway"
    leaving = peer("west", gateway("10.0.0.1", draining=True, weight=9), gateway("10.0.0.1"), gateway("10.0.0.2"))
    (tier,) = placed(service(remote("west", ready=4)), leaving)
    assert {h.address: h.weight for h in tier} == {"10.0.0.1": 200, "10.0.0.2": 200}, "who drains weighs nothing"


@pytest.mark.parametrize(
    ("places", "tier"),
    [
        (("eu/eu-1", "eu/eu-1"), 0),
        (("eu/eu-1", "eu/eu-2"), 1),  # behind one address nobody chooses the zone
        (("eu/eu-1", "us/us-1"), 2),
        (("eu/", "eu/eu-1"), 1),
    ],
)
def test_what_stands_before_gateways_is_where_all_of_them_are(places: tuple[str, ...], tier: int) -> None:
    behind = [gateway("10.0.0.9", locality=Locality(*place.split("/"))) for place in places]
    marks = [gateway(f"10.0.0.{n}", locality=Locality(*p.split("/"))) for n, p in enumerate(("eu/eu-1", "eu/eu-2"), 1)]
    elsewhere = peer("far", gateway("10.0.0.3"), locality=Locality("us", "us-9"))
    order = placed(service(remote("west"), remote("far")), peer("west", *behind, *marks), elsewhere)
    assert [n for n, hosts in enumerate(order) if "10.0.0.9" in [h.address for h in hosts]] == [tier]


def test_clusters_that_say_what_their_endpoints_weigh_share_by_that() -> None:
    """Two VMs of weight 8 and four pods: 16 to 4. A cluster that says nothing has 1 for each."""
    vms = Backend(cluster="vms", ports=(80,), readiness=(Readiness(Locality(), 2, 16),))
    pods = remote("pods", ready=4)
    (hosts,) = placed(service(vms, pods), peer("vms", gateway("1.1.1.1")), peer("pods", gateway("2.2.2.2")))
    assert {h.cluster: h.weight for h in hosts} == {"vms": 1600, "pods": 400}


def test_weights_that_envoy_could_not_add_up_are_made_smaller() -> None:
    huge = Backend(cluster="a", ports=(80,), readiness=(Readiness(Locality(), 20_000, 20_000 * 65_535),))
    (hosts,) = placed(
        service(huge, remote("b"), remote("c")), *(peer(n, gateway(f"{i}.1.1.1")) for i, n in enumerate("abc", 1))
    )
    assert sum(h.weight for h in hosts) <= 2**32 - 1
    assert min(h.weight for h in hosts) >= 1
    assert max(h.weight for h in hosts) > 2**31


def test_who_is_left_out() -> None:
    west = peer("west", gateway("10.0.0.1", draining=True), gateway("10.0.0.2"))
    (tier,) = placed(service(remote("west")), west)
    assert [h.address for h in tier] == ["10.0.0.2"], "a draining gateway, when there is another"
    (tier,) = placed(service(remote("west")), peer("west", gateway("10.0.0.1", draining=True)))
    assert [h.address for h in tier] == ["10.0.0.1"], "better a draining gateway than none"
    assert placed(service(remote("west", ready=0)), west) == (), "a cluster with nothing ready"
    assert placed(service(remote("west", ports=(443,))), west) == (), "a cluster that does not offer the port"
    assert placed(service(remote("gone")), west) == (), "a cluster that is not linked"
    assert placed(service(remote("west")), peer("west", gateway("gw.example.org"))) == (), "a name is no address"


def test_a_pinned_name_means_one_cluster() -> None:
    west, south = peer("west", gateway("10.0.0.1")), peer("south", gateway("10.0.0.2"))
    svc = service(local(Endpoint(address="10.1.0.1", ports={80: 8080})), remote("west"), remote("south"))
    assert placed(svc, west, south, pinned="west") == ((Host("10.0.0.1", 15443, 100, "west"),),)
    assert placed(svc, west, south, pinned="here") == ((Host("10.1.0.1", 8080),),)


def test_an_address_counts_once_and_the_nearest_owner_keeps_it() -> None:
    shared_near, shared_far = peer("a", gateway("10.0.0.1"), locality=HERE), peer("b", gateway("10.0.0.1"))
    assert placed(service(remote("a"), remote("b")), shared_near, shared_far) == ((Host("10.0.0.1", 15443, 100, "a"),),)


def test_local_endpoints_must_be_ready_not_leaving_and_have_the_port() -> None:
    endpoints = (
        Endpoint(address="10.1.0.2", ports={80: 8080}),
        Endpoint(address="10.1.0.1", ports={80: 8080}),
        Endpoint(address="10.1.0.1", ports={80: 8080}),
        Endpoint(address="10.1.0.3", ports={80: 8080}, ready=False),
        Endpoint(address="10.1.0.4", ports={80: 8080}, terminating=True),
        Endpoint(address="10.1.0.5", ports={443: 8443}),
        Endpoint(address="not-an-address", ports={80: 8080}),
    )
    expected = (Host("10.1.0.1", 8080), Host("10.1.0.2", 8080))
    assert ready_hosts(endpoints, 80) == expected
    assert placed(service(local(*endpoints))) == (expected,)


def test_local_endpoints_have_their_own_weights() -> None:
    endpoints = (
        Endpoint(address="10.1.0.1", ports={80: 8080}, weight=5),
        Endpoint(address="10.1.0.2", ports={80: 8080}),
    )
    expected = (Host("10.1.0.1", 8080, weight=5), Host("10.1.0.2", 8080))
    assert ready_hosts(endpoints, 80) == expected
    assert placed(service(local(*endpoints))) == (expected,)


def test_an_endpoint_with_an_identity_counts_only_where_that_can_be_proven() -> None:
    here, elsewhere = "spiffe://here.example.org/ns/shop/sa/db", "spiffe://west.example.org/ns/shop/sa/db"
    plain = Endpoint(address="10.1.0.1", ports={80: 8080})
    proven = Endpoint(address="10.1.0.2", ports={80: 15006}, identity=here)
    foreign = Endpoint(address="10.1.0.3", ports={80: 15006}, identity=elsewhere)
    alike = Endpoint(address="10.1.0.4", ports={80: 15006}, identity="spiffe://here.example.org.evil/ns/shop/sa/db")
    own, west = peer("here"), peer("west", gateway("10.0.0.1"))
    rootless = replace(own, bundle=replace(own.bundle, roots=()))
    mistaken = replace(own, bundle=west.bundle)
    both = (Host("10.1.0.1", 8080), Host("10.1.0.2", 15006, identity=here))
    svc = service(local(plain, proven, foreign, alike))
    assert placed(svc, own, west) == (both,)
    assert ready_hosts((plain, proven, foreign, alike), 80, own=own) == both
    for doubtful in ((), (rootless,), (mistaken,)):
        assert placed(svc, *doubtful, west) == ((Host("10.1.0.1", 8080),),)
    for doubtful in (None, rootless, mistaken):
        assert ready_hosts((plain, proven), 80, own=doubtful) == (Host("10.1.0.1", 8080),)


def test_of_two_claims_to_an_address_that_with_an_identity_counts() -> None:
    here = "spiffe://here.example.org/ns/shop/sa/db"
    claims = [Endpoint(address="10.1.0.1", ports={80: 15006}, identity=identity) for identity in ("", here)]
    for order in (claims, claims[::-1]):
        assert ready_hosts(order, 80, own=peer("here")) == (Host("10.1.0.1", 15006, identity=here),)


def test_traffic_distribution_keeps_to_the_own_zone_first() -> None:
    mine = Endpoint(address="10.1.0.1", ports={80: 8080}, locality=HERE)
    other = Endpoint(address="10.1.0.2", ports={80: 8080}, locality=Locality("eu", "eu-2"))
    assert placed(service(local(mine, other), distribution="PreferClose")) == (
        (Host("10.1.0.1", 8080),),
        (Host("10.1.0.2", 8080),),
    )
    assert len(placed(service(local(mine, other)))) == 1
