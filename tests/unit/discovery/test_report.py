"""The report: only what really changed becomes a record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from discovery.report import Report, changed_names, keep_floor, next_epoch
from federation import log
from federation.aio.clock import FakeClock
from federation.model.cluster import Bundle, Cluster, Gateway, Problem
from federation.model.ids import ServiceName
from federation.model.record import MAX_EPOCH, Key, Kind
from federation.model.service import Endpoint, Grant, Locality, Readiness, Service
from federation.model.wire import decode_endpoints, decode_service

LOG = log.get("test")
ECHO = ServiceName("shop", "echo")


def service(*addresses: str, name: ServiceName = ECHO) -> Service:
    return Service(
        name=name,
        exported_at_ns=1,
        readiness=(Readiness(Locality(), len(addresses)),),
        endpoints=tuple(Endpoint(address=a) for a in addresses),
    )


def sequence(report: Report, name: ServiceName = ECHO) -> int:
    record = report.records.log.get(Key("east", Kind.SERVICE, str(name)))
    return 0 if record is None else record.version.sequence


def test_endpoints_stay_here_and_their_moves_are_no_news() -> None:
    report = Report(cluster="east", epoch=7)
    report.services({ECHO: service("10.0.0.1")})
    record = report.records.log.get(Key("east", Kind.SERVICE, "shop/echo"))
    assert record is not None
    assert record.version == (7, 1)
    assert decode_service(record.payload or b"").endpoints == ()
    report.services({ECHO: service("10.0.0.2")})
    assert sequence(report) == 1
    report.services({ECHO: service("10.0.0.2", "10.0.0.3")})
    assert sequence(report) == 2
    report.services({})
    assert report.records.log.get(Key("east", Kind.SERVICE, "shop/echo")) is None


def test_gateways_and_the_cluster_itself() -> None:
    report = Report(cluster="east", epoch=7)
    gateway = Gateway(name="gw-1", address="192.0.2.1", port=15443)
    report.gateways({"gw-1": gateway})
    report.gateways({"gw-1": gateway})
    assert report.records.sequence == 1
    report.gateways({})
    assert report.records.names(Kind.GATEWAY) == set()
    bundle = Bundle(trust_domain="east.fed", sequence=1, roots=(b"x",))
    for _ in range(2):
        report.describe(Cluster(name="east", trust_domain="east.fed", bundle=bundle))
    assert report.records.sequence == 3
    problem = Problem("file_malformed", "a.yaml:1", "no YAML")
    report.describe(Cluster(name="east", trust_domain="east.fed", bundle=bundle, problems=(problem,)))
    assert report.records.sequence == 4


def test_changed_names() -> None:
    one, two = service("10.0.0.1"), service("10.0.0.1", name=ServiceName("shop", "other"))
    old = {one.name: one, two.name: two}
    assert changed_names(old, dict(old)) == set()
    assert changed_names(old, {one.name: one}) == {two.name}
    assert changed_names({one.name: one}, old) == {two.name}
    assert changed_names(old, {one.name: service("10.0.0.2"), two.name: two}) == {one.name}
    third = service(name=ServiceName("shop", "third"))
    assert changed_names(old, {one.name: one, third.name: third}) == {two.name, third.name}


def test_epochs_rise_whatever_the_clock_and_the_disk_do(tmp_path: Path) -> None:
    clock = FakeClock(wall_ns=1000 * 10**9)
    path = tmp_path / "epoch.state"
    assert next_epoch(path, clock=clock, log=LOG) == 1000
    assert next_epoch(path, clock=clock, log=LOG) == 1001
    clock.advance(-500)
    assert next_epoch(path, clock=clock, log=LOG) == 1002
    clock.advance(5000)
    path.unlink()
    assert next_epoch(path, clock=clock, log=LOG) == 5500
    path.write_bytes(b"nonsense")
    clock.advance(1)
    assert next_epoch(path, clock=clock, log=LOG) == 5501
    assert path.with_name("epoch.state.corrupt").exists()


def test_a_cluster_that_joins_again_exceeds_its_earlier_epochs_whatever_its_clock_says(tmp_path: Path) -> None:
    clock = FakeClock(wall_ns=1000 * 10**9)
    path = tmp_path / "epoch.state"
    keep_floor(path, 0)  # a name that was never there
    assert not path.exists()
    keep_floor(path, 5000)
    assert next_epoch(path, clock=clock, log=LOG) == 5001
    clock.advance(9000)
    assert next_epoch(path, clock=clock, log=LOG) == 10_000
    keep_floor(path, 2**64 - 1)  # no registry can ask for more than it takes
    assert next_epoch(path, clock=clock, log=LOG) <= MAX_EPOCH


def test_on_a_flat_network_the_endpoints_of_headless_services_are_told() -> None:
    headless = replace(service("10.0.0.1", "10.0.0.2"), headless=True, grants=(Grant("west"),))
    plain = service("10.0.0.3", name=ServiceName("shop", "plain"))
    silent = Report(cluster="east", epoch=7)
    silent.services({ECHO: headless})
    assert silent.records.names(Kind.ENDPOINTS) == set()

    report = Report(cluster="east", epoch=7, network="flat")
    report.services({ECHO: headless, plain.name: plain})
    assert report.records.names(Kind.ENDPOINTS) == {"shop/echo"}
    told = report.records.log.get(Key("east", Kind.ENDPOINTS, "shop/echo"))
    assert told is not None
    found = decode_endpoints(told.payload or b"")
    assert (found.network, found.grants) == ("flat", (Grant("west"),))
    assert [e.address for e in found.endpoints] == ["10.0.0.1", "10.0.0.2"]

    moved = replace(headless, endpoints=(Endpoint(address="10.0.0.1"), Endpoint(address="10.0.0.9")))
    before = sequence(report)
    report.services({ECHO: moved, plain.name: plain})
    assert sequence(report) == before  # its readiness is the same
    again = report.records.log.get(Key("east", Kind.ENDPOINTS, "shop/echo"))
    assert again is not None
    assert again.version > told.version
    report.services({ECHO: service("10.0.0.1")})  # no longer headless
    assert report.records.names(Kind.ENDPOINTS) == set()
    report.services({ECHO: headless})
    report.begin(9)
    assert report.records.names(Kind.ENDPOINTS) == {"shop/echo"}
    report.services({})
    assert report.records.names(Kind.ENDPOINTS) == set()
