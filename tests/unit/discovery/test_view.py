"""The merged view: fed with records as the registry shows them, read as its consumers do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from discovery.mcs.imports import Allocations
from discovery.pins import Pins
from discovery.view import ClusterView
from federation import log
from federation.aio.clock import FakeClock
from federation.catalog.replica import Changes
from federation.model.cluster import Bundle, Cluster, Gateway, Link, LinkGrant, Peer
from federation.model.ids import REGISTRY_ORIGIN, ServiceName
from federation.model.record import Key, Kind, Origin, OriginState, Record, Version
from federation.model.service import Endpoint, Endpoints, Export, Grant, Import, Locality, Port, Readiness, Service
from federation.model.wire import (
    decode_export,
    decode_import,
    decode_peer,
    encode_cluster,
    encode_endpoints,
    encode_gateway,
    encode_link,
    encode_service,
)
from federation.trust.authority import Authority
from federation.trust.bundle import fingerprint

LOG = log.get("test")
ECHO = ServiceName("shop", "echo")
HTTP, ADMIN = Port(name="http", port=80), Port(name="admin", port=81)


def service(ready: int = 1, *, name: ServiceName = ECHO, grants: tuple[Grant, ...] = (), at: int = 1) -> Service:
    return Service(
        name=name,
        exported_at_ns=at,
        ports=(HTTP, ADMIN),
        readiness=(Readiness(Locality(), ready),),
        grants=grants,
        ip_families=("IPv4",),
        endpoints=tuple(Endpoint(address=f"10.0.0.{n + 1}", ports={80: 8080, 81: 8081}) for n in range(ready)),
    )


class World:
    """A view of the cluster "east", and the registry as the test plays it."""

    def __init__(self, root: Path, *, network: str = "") -> None:
        self.root, self.clock, self.sequence = root, FakeClock(), 0
        self.pins = Pins(root / "pins", cluster="east", federation="fed.example", clock=self.clock, log=LOG)
        self.view = ClusterView(
            cluster="east",
            federation="fed.example",
            locality=Locality("eu", "eu-1"),
            bundle=self.bundle("east"),
            epoch=7,
            pins=self.pins,
            allocations=Allocations(v4="241.0.0.0/16", v6="", gateway_ports=(20_000, 20_999), release_seconds=600.0),
            single_machine=False,
            network=network,
            clock=self.clock,
            log=LOG,
        )

    def bundle(self, cluster: str) -> Bundle:
        return Authority.open(self.root / cluster, trust_domain=f"{cluster}.fed.example", clock=self.clock).bundle

    def record(self, origin: str, kind: Kind, name: str, payload: bytes) -> Record:
        self.sequence += 1
        return Record(Key(origin, kind, name), Version(1, self.sequence), payload)

    def cluster(self, origin: str, **changes: object) -> Record:
        made = Cluster(name=origin, trust_domain=f"{origin}.fed.example", bundle=self.bundle(origin))
        return self.record(origin, Kind.CLUSTER, origin, encode_cluster(replace(made, **changes)))  # type: ignore[arg-type]

    def link(self, other: str, *grants: LinkGrant) -> Record:
        a, b = sorted(("east", other))
        return self.record(REGISTRY_ORIGIN, Kind.LINK, f"{a}/{b}", encode_link(Link(a=a, b=b, grants=grants)))

    def service(self, origin: str, given: Service, *, name: str = "") -> Record:
        return self.record(origin, Kind.SERVICE, name or str(given.name), encode_service(replace(given, endpoints=())))

    def endpoints(self, origin: str, *addresses: str, network: str = "flat", name: ServiceName = ECHO) -> Record:
        found = Endpoints(name=name, network=network, endpoints=tuple(Endpoint(address=a) for a in addresses))
        return self.record(origin, Kind.ENDPOINTS, str(name), encode_endpoints(found))

    def gateway(self, origin: str, address: str = "192.0.2.1") -> Record:
        return self.record(origin, Kind.GATEWAY, "gw", encode_gateway(Gateway(name="gw", address=address, port=15443)))

    def show(self, *records: Record) -> None:
        self.view.apply(Changes(put=records))

    def hide(self, *keys: tuple[str, Kind, str]) -> None:
        self.view.apply(Changes(deleted=tuple(Key(*key) for key in keys)))

    def state(self, origin: str, state: OriginState) -> None:
        self.view.apply(Changes(origins=(Origin(origin, Version(1, 1), state),)))

    def pin(self, cluster: str) -> None:
        self.pins.pin(cluster, f"{cluster}.fed.example", fingerprint(self.bundle(cluster)))
        self.view.pinned(cluster)

    def peer(self, cluster: str, *services: Service) -> None:
        """A linked, pinned cluster with a gateway."""
        self.pin(cluster)
        self.state(cluster, OriginState.LIVE)
        self.show(
            self.link(cluster),
            self.cluster(cluster),
            self.gateway(cluster),
            *(self.service(cluster, s) for s in services),
        )

    def imported(self, name: ServiceName = ECHO) -> Import | None:
        record = self.view.records.log.get(Key("east", Kind.IMPORT, str(name)))
        return decode_import(record.payload or b"") if record is not None else None

    def backends(self, name: ServiceName = ECHO) -> dict[str, tuple[int, ...]]:
        found = self.imported(name)
        return {b.cluster: b.ports for b in found.backends} if found is not None else {}

    def exported(self) -> Export:
        record = self.view.records.log.get(Key("east", Kind.EXPORT, "shop/echo"))
        assert record is not None
        return decode_export(record.payload or b"")

    def peers(self) -> dict[str, Peer]:
        return {r.key.name: decode_peer(r.payload or b"") for r in self.view.records.log.records(kind=Kind.PEER)}

    def codes(self) -> set[str]:
        return {p.code for p in self.view.problems()}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_own_services_have_endpoints_and_are_imported_alone(world: World) -> None:
    world.view.own_services({ECHO: service(2)})
    found = world.imported()
    assert found is not None
    assert [(b.cluster, b.local, len(b.endpoints)) for b in found.backends] == [("east", True, 2)]
    assert found.ips
    assert set(found.gateway_ports) == {80, 81}
    assert world.exported().endpoints == service(2).endpoints
    assert world.exported().grants == ()
    assert set(world.peers()) == {"east"}
    assert world.peers()["east"].own


def test_who_has_the_younger_export_tells_of_ports_that_differ(world: World) -> None:
    unnamed = replace(service(), ports=(Port(name="", port=80), ADMIN))
    world.view.own_services({ECHO: replace(unnamed, exported_at_ns=2)})
    assert world.codes() == set()
    world.peer("west", service(at=1))
    (problem,) = world.view.problems()
    assert (problem.code, problem.subject) == ("port_conflict", "shop/echo")
    assert "port 80/TCP is named 'http', not ''" in problem.detail
    world.view.own_services({ECHO: replace(unnamed, exported_at_ns=0)})  # the elder: the other one tells of it
    assert world.codes() == set()
    world.view.own_services({ECHO: replace(unnamed, exported_at_ns=2)})
    assert world.codes() == {"port_conflict"}
    world.view.own_services({ECHO: service(at=2)})
    assert world.codes() == set()


def test_many_ports_that_differ_are_a_few_problems(world: World) -> None:
    names = [ServiceName("shop", f"s{n:02d}") for n in range(25)]
    world.view.own_services({n: replace(service(name=n, at=2), ports=(HTTP,)) for n in names})
    world.peer("west", *(service(name=n, at=1) for n in names))
    problems = world.view.problems()
    assert len(problems) == 21
    assert "5 more services" in problems[-1].detail
    world.hide(("west", Kind.SERVICE, "shop/s00"))
    assert "4 more services" in world.view.problems()[-1].detail


def test_a_peer_is_link_pin_and_bundle_in_any_order(world: World) -> None:
    parts = {
        "pin": lambda: world.pin("west"),
        "link": lambda: world.show(world.link("west")),
        "cluster": lambda: world.show(world.cluster("west")),
        "service": lambda: world.show(world.service("west", service())),
        "gateway": lambda: world.show(world.gateway("west")),
    }
    for last in parts:
        for name, step in parts.items():
            if name != last:
                step()
        if last in ("pin", "link", "cluster"):
            assert world.backends() == {}
            assert set(world.peers()) == {"east"}
        parts[last]()
        assert world.backends() == {"west": (80, 81)}
        assert [g.name for g in world.peers()["west"].gateways] == ["gw"]
        world.hide(
            (REGISTRY_ORIGIN, Kind.LINK, "east/west"),
            ("west", Kind.CLUSTER, "west"),
            ("west", Kind.SERVICE, "shop/echo"),
            ("west", Kind.GATEWAY, "gw"),
        )
        world.pins.unpin("west")
        world.view.pinned("west")
        assert world.backends() == {}


def test_an_unpinned_peer_is_shown_and_not_trusted(world: World) -> None:
    world.show(world.link("west"), world.cluster("west"), world.service("west", service()))
    assert world.codes() == {"unpinned"}
    assert world.backends() == {}
    world.pin("west")
    assert world.codes() == set()
    assert world.backends() == {"west": (80, 81)}


def test_a_forged_bundle_changes_nothing_that_was_proven(world: World, tmp_path: Path) -> None:
    world.peer("west", service())
    forged = Authority.open(tmp_path / "forged", trust_domain="west.fed.example", clock=world.clock).bundle
    world.show(world.cluster("west", bundle=forged))
    assert world.codes() == {"bundle_rollback"}
    assert world.peers()["west"].bundle.roots == world.bundle("west").roots
    assert world.backends() == {"west": (80, 81)}


@pytest.mark.parametrize(
    "bad",
    [
        lambda w: w.service("west", service(name=ServiceName("shop", "other")), name="shop/echo"),
        lambda w: w.gateway("west", "127.0.0.1"),
        lambda w: w.gateway("west", "169.254.169.254"),
        lambda w: w.record("west", Kind.SERVICE, "shop/echo", b"\xff\xff"),
        lambda w: w.cluster("west", trust_domain="east.fed.example"),
        lambda w: w.cluster("west", name="east"),
    ],
)
def test_a_bad_record_is_refused_alone(world: World, bad: object) -> None:
    world.peer("west", service(2))
    assert callable(bad)
    before = {r.key: r.payload for r in world.view.records.log.records()}
    world.show(bad(world))
    assert world.codes()
    assert {r.key: r.payload for r in world.view.records.log.records()} == before


def test_nobody_speaks_for_us(world: World) -> None:
    world.view.own_services({ECHO: service(1)})
    before = world.view.records.log.revision
    world.show(world.service("east", service(9)), world.cluster("east"), world.gateway("east"))
    assert world.view.records.log.revision == before


def test_grants_of_the_origin_and_of_the_link(world: World) -> None:
    world.peer("west", service(grants=(Grant("east", (80,)), Grant("edge"))))
    assert world.backends() == {"west": (80,)}
    world.show(world.service("west", service(grants=(Grant("edge"),))))
    assert world.backends() == {}
    world.show(world.service("west", service()))
    world.show(world.link("west", LinkGrant(origin="west", consumer="east", service="echo", ports=(81,))))
    assert world.backends() == {"west": (81,)}
    world.show(world.link("west", LinkGrant(origin="east", consumer="west")))
    assert world.backends() == {}


def test_exports_name_who_is_admitted(world: World) -> None:
    for name in ("west", "edge"):
        world.peer(name)
    world.show(world.link("other"), world.cluster("other"))  # linked and not pinned
    world.view.own_services({ECHO: service(grants=(Grant("west", (80,)), Grant("*", (81,))))})
    assert world.exported().grants == (Grant("edge", (81,)), Grant("west", (80, 81)))
    world.view.own_services({ECHO: service()})
    assert world.exported().grants == (Grant("edge"), Grant("west"))
    world.show(world.link("west", LinkGrant(origin="east", consumer="west", service="other")))
    assert world.exported().grants == (Grant("edge"),)
    world.hide((REGISTRY_ORIGIN, Kind.LINK, "east/edge"))
    assert world.exported().grants == ()


def test_stale_origins_are_kept_and_marked(world: World) -> None:
    world.peer("west", service())
    for state, stale in (
        (OriginState.STALE, True),
        (OriginState.UNKNOWN, True),  # a registry that has just started knows nothing yet
        (OriginState.LIVE, False),
        (OriginState.UNKNOWN, False),
    ):
        world.state("west", state)
        found = world.imported()
        assert found is not None
        assert found.backends[0].stale is stale


def test_who_was_gone_can_come_back(world: World) -> None:
    world.peer("west", service())
    world.view.apply(
        Changes(
            origins=(Origin("west", Version(1, 9), OriginState.GONE),),
            deleted=(Key("west", Kind.SERVICE, "shop/echo"), Key("west", Kind.CLUSTER, "west")),
        )
    )
    assert world.backends() == {}
    world.state("west", OriginState.UNKNOWN)
    world.show(world.cluster("west"), world.service("west", service()))
    assert world.backends() == {"west": (80, 81)}


def test_only_what_changed_is_written(world: World) -> None:
    names = [ServiceName("shop", f"s{n}") for n in range(50)]
    world.peer("west", *(service(name=n) for n in names))
    own = {n: service(name=n) for n in names}
    world.view.own_services(own)
    before = world.view.records.sequence
    world.view.own_services({**own, names[3]: service(2, name=names[3])})
    assert world.view.records.sequence == before + 2  # its EXPORT and its IMPORT
    world.show(world.service("west", service(5, name=names[4])))
    assert world.view.records.sequence == before + 3
    world.show(world.service("west", service(5, name=names[4])))
    assert world.view.records.sequence == before + 3


def test_addresses_stay_with_the_import(world: World) -> None:
    world.peer("west", service())
    first = world.imported()
    assert first is not None
    world.view.own_services({ECHO: service()})
    world.hide(("west", Kind.SERVICE, "shop/echo"))
    second = world.imported()
    assert second is not None
    assert (second.ips, second.gateway_ports) == (first.ips, first.gateway_ports)
    world.view.own_services({})
    assert world.imported() is None
    world.show(world.service("west", service()))
    third = world.imported()
    assert third is not None
    assert (third.ips, third.gateway_ports) == (first.ips, first.gateway_ports)


def test_conflicts_follow_the_oldest(world: World) -> None:
    world.peer("west", replace(service(at=1), headless=True))
    world.view.own_services({ECHO: service(at=2)})
    found = world.imported()
    assert found is not None
    assert found.headless
    assert found.ips == ()
    assert {c.reason for c in found.conflicts} == {"TypeConflict"}


def test_own_gateways_are_on_the_own_peer(world: World) -> None:
    world.view.own_gateways({"gw": Gateway(name="gw", address="192.0.2.9", port=1)})
    assert [g.address for g in world.peers()["east"].gateways] == ["192.0.2.9"]


def test_unpinning_ends_the_trust_in_a_peer_that_says_nothing_of_itself(world: World) -> None:
    world.peer("west", service())
    world.hide(("west", Kind.CLUSTER, "west"))  # a registry that withholds the record keeps what was proven
    assert world.backends() == {"west": (80, 81)}
    world.pins.unpin("west")
    world.view.pinned("west")
    assert world.backends() == {}
    assert set(world.peers()) == {"east"}


def test_a_peer_that_says_something_new_of_itself_leaves_the_services_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.view.own_services({ECHO: service()})
    world.peer("west", service())
    built: list[ServiceName] = []
    export = ClusterView._export

    def build(self: ClusterView, name: ServiceName) -> Record | None:
        built.append(name)
        return export(self, name)

    monkeypatch.setattr(ClusterView, "_export", build)
    world.show(world.cluster("west", agent_version="2"), world.gateway("west", "192.0.2.7"))
    assert world.peers()["west"].gateways[0].address == "192.0.2.7"
    world.show(world.link("west"))
    world.pin("west")
    assert built == []
    world.show(world.link("west", LinkGrant(origin="west", consumer="east")))
    assert built == [ECHO]
    assert world.exported().grants == ()


def addresses(world: World) -> dict[str, list[str]]:
    found = world.imported()
    return {b.cluster: [e.address for e in b.endpoints] for b in found.backends} if found is not None else {}


def test_headless_endpoints_of_the_same_network_are_reached_directly(tmp_path: Path) -> None:
    world = World(tmp_path, network="flat")
    headless = replace(service(), headless=True)
    world.peer("west", headless)
    assert addresses(world) == {"west": []}
    world.show(world.endpoints("west", "10.1.0.2", "10.1.0.1"))
    assert addresses(world) == {"west": ["10.1.0.1", "10.1.0.2"]}
    told: list[ServiceName] = []
    world.view.listen(told.extend)
    world.show(world.endpoints("west", "10.1.0.3"))
    assert (addresses(world), told) == ({"west": ["10.1.0.3"]}, [ECHO])
    world.show(world.endpoints("west", "127.0.0.1"))  # refused: what was held stays
    assert addresses(world) == {"west": ["10.1.0.3"]}
    assert world.codes() == {"forbidden_address"}
    world.show(world.endpoints("west", "10.1.0.4", network="other"))
    assert addresses(world) == {"west": []}
    world.show(world.endpoints("west", "10.1.0.4"))
    world.hide(("west", Kind.ENDPOINTS, "shop/echo"))
    assert addresses(world) == {"west": []}
    world.show(world.endpoints("west", "10.1.0.4"))
    world.state("west", OriginState.GONE)
    assert world.imported() is None


def test_endpoints_of_what_is_not_headless_or_not_exported_are_not_used(tmp_path: Path) -> None:
    world = World(tmp_path, network="flat")
    world.peer("west", service())
    world.show(world.endpoints("west", "10.1.0.1"), world.endpoints("west", "10.1.0.1", name=ServiceName("a", "b")))
    assert addresses(world) == {"west": []}
    assert world.imported(ServiceName("a", "b")) is None


def test_without_a_network_of_ones_own_nothing_is_reached_directly(world: World) -> None:
    world.peer("west", replace(service(), headless=True))
    world.show(world.endpoints("west", "10.1.0.1"))
    assert addresses(world) == {"west": []}
