"""Gateways and sidecars of one agent, as transcripts."""

from __future__ import annotations

import pytest

from discovery.consumers import MAX_LOST, MAX_NAMES, Consumer, Consumers, Role
from discovery.gateways import Reach
from federation import log
from federation.aio.clock import FakeClock
from federation.errors import CorruptState, Denied, InvalidInput, IsthmusError
from federation.proto.v1 import catalog_pb2 as pb
from federation.proto.v1 import records_pb2


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def consumers(clock: FakeClock) -> Consumers:
    return Consumers(lease=5, memory=60, clock=clock, log=log.get("test"))


def presence(
    name: str = "gw-1", *, draining: bool = False, port: int = 15443, address: str = "192.0.2.1"
) -> pb.Presence:
    gateway = records_pb2.Gateway(name=name, address=address, port=port, draining=draining)
    return pb.Presence(role=pb.Presence.GATEWAY_PROCESS, name=name, gateway=gateway)


def arrive(consumers: Consumers, **more: object) -> Consumer:
    consumer = consumers.opened(role=Role.GATEWAY, identity="spiffe://e/ns/isthmus-system/sa/gateway", address="a")
    consumers.present(consumer, presence(**more))  # type: ignore[arg-type]
    return consumer


def test_a_broken_stream_leaves_the_gateway_for_its_lease(consumers: Consumers, clock: FakeClock) -> None:
    gateway = arrive(consumers)
    assert set(consumers.gateways.value) == {"gw-1"}
    consumers.closed(gateway, clean=False)
    clock.advance(4.9)
    consumers.expire()
    assert set(consumers.gateways.value) == {"gw-1"}
    assert consumers.next_deadline() == pytest.approx(clock.monotonic() + 0.1)
    clock.advance(0.2)
    consumers.expire()
    assert consumers.gateways.value == {}
    assert [c.connected for c in consumers.all] == [False]
    clock.advance(60)
    consumers.expire()
    assert consumers.all == []
    assert consumers.next_deadline() is None


def test_who_comes_back_in_time_never_left(consumers: Consumers, clock: FakeClock) -> None:
    versions = consumers.gateways.version
    consumers.closed(arrive(consumers), clean=False)
    clock.advance(3)
    arrive(consumers)
    clock.advance(100)
    consumers.expire()
    assert set(consumers.gateways.value) == {"gw-1"}
    assert consumers.gateways.version == versions + 1
    assert [c.connected for c in consumers.all] == [True]


def test_a_goodbye_withdraws_at_once(consumers: Consumers) -> None:
    consumers.closed(arrive(consumers), clean=True)
    assert consumers.gateways.value == {}
    assert consumers.all == []


def test_who_was_draining_has_said_goodbye(consumers: Consumers) -> None:
    gateway = arrive(consumers)
    consumers.present(gateway, presence(draining=True))
    assert consumers.gateways.value["gw-1"].draining
    consumers.closed(gateway, clean=False)
    assert consumers.gateways.value == {}


def test_the_older_stream_of_a_gateway_ends_after_the_newer_began(consumers: Consumers, clock: FakeClock) -> None:
    older = arrive(consumers)
    arrive(consumers, port=15444)
    consumers.closed(older, clean=True)
    clock.advance(100)
    consumers.expire()
    assert consumers.gateways.value["gw-1"].port == 15444


def test_a_gateway_that_changes_its_name(consumers: Consumers) -> None:
    gateway = arrive(consumers)
    consumers.present(gateway, presence("gw-2"))
    assert set(consumers.gateways.value) == {"gw-2"}


def test_a_gateway_that_cannot_be_is_refused(consumers: Consumers) -> None:
    with pytest.raises(InvalidInput):
        arrive(consumers, port=0)
    with pytest.raises(InvalidInput):
        arrive(consumers, name="Gate Way")
    assert consumers.gateways.value == {}


def test_only_gateways_are_gateways(consumers: Consumers) -> None:
    sidecar = consumers.opened(role=Role.SIDECAR, identity="spiffe://e/ns/shop/sa/web", address="a")
    consumers.present(sidecar, presence())
    assert consumers.gateways.value == {}


def test_names_led_through_the_gateway(consumers: Consumers, clock: FakeClock) -> None:
    sidecars = [
        consumers.opened(role=Role.SIDECAR, identity=f"spiffe://e/ns/shop/sa/{n}", address="a") for n in ("a", "b")
    ]
    for sidecar, names in zip(sidecars, (["shop/x"], ["shop/x", "shop/y"]), strict=True):
        consumers.present(sidecar, pb.Presence(name="s", via_gateway=names))
    assert consumers.via_gateway.value == {"shop/x", "shop/y"}
    consumers.closed(sidecars[1], clean=False)
    assert consumers.via_gateway.value == {"shop/x", "shop/y"}  # it may be back in a moment
    clock.advance(61)
    consumers.expire()
    assert consumers.via_gateway.value == {"shop/x"}
    consumers.closed(sidecars[0], clean=True)
    assert consumers.via_gateway.value == frozenset()


def test_known_gateways_are_kept_after_a_start(consumers: Consumers, clock: FakeClock) -> None:
    arrive(consumers)
    arrive(consumers, name="gw-2")
    after = Consumers(lease=5, memory=60, clock=clock, log=log.get("test"))
    after.load(consumers.dump(), grace=30)
    assert after.gateways.value == consumers.gateways.value
    arrive(after)
    clock.advance(31)
    after.expire()
    assert set(after.gateways.value) == {"gw-1"}
    with pytest.raises(CorruptState):
        after.load(b"[3]", grace=1)


def test_a_gateway_is_where_its_service_says_also_when_that_changes(consumers: Consumers) -> None:
    arrive(consumers, address="service")
    arrive(consumers, name="gw-2")
    assert consumers.gateways.value["gw-1"].address == ""
    consumers.before(Reach(addresses=("198.51.100.7",), ports={15443: 443}))
    first = consumers.gateways.value
    assert (first["gw-1"].address, first["gw-1"].port) == ("198.51.100.7", 443)
    assert first["gw-2"].address == "192.0.2.1"
    assert consumers.said["gw-1"].address == "service"
    consumers.before(Reach(addresses=("198.51.100.8",), ports={15443: 443}))
    assert consumers.gateways.value["gw-1"].address == "198.51.100.8"
    consumers.before(Reach(ports={}, reason="there is no such Service"))
    assert consumers.gateways.value["gw-1"].address == ""


def test_what_stood_before_a_gateway_counts_until_the_service_is_read(consumers: Consumers, clock: FakeClock) -> None:
    """An agent starts again: peers hear nothing of it."""
    arrive(consumers, address="service")
    consumers.before(Reach(addresses=("198.51.100.7",), ports={15443: 443}))
    after = Consumers(lease=5, memory=60, clock=clock, log=log.get("test"))
    after.load(consumers.dump(), grace=30)
    arrive(after, address="service")
    assert after.gateways.value == consumers.gateways.value


def test_a_sidecar_that_comes_and_breaks_off_is_remembered_a_few_times(consumers: Consumers) -> None:
    for number in range(1_000):
        consumer = consumers.opened(role=Role.SIDECAR, identity="spiffe://e/ns/shop/sa/x", address=f"a:{number}")
        consumers.present(consumer, pb.Presence(name=f"s{number}", via_gateway=[f"shop/s{number}"]))
        consumers.closed(consumer, clean=False)
    other = consumers.opened(role=Role.SIDECAR, identity="spiffe://e/ns/shop/sa/other", address="b")
    consumers.closed(other, clean=False)
    assert len(consumers.all) == MAX_LOST + 1
    assert other in consumers.all
    assert len(consumers.via_gateway.value) == MAX_LOST


def test_what_a_sidecar_names_is_bounded(consumers: Consumers) -> None:
    consumer = consumers.opened(role=Role.SIDECAR, identity="spiffe://e/ns/shop/sa/x", address="a")
    consumers.named(consumer, frozenset({"shop/a", "shop/b"}), frozenset())
    consumers.named(consumer, frozenset(), frozenset({"shop/a"}))
    assert consumer.names == {"shop/b"}
    for more in (frozenset({"s" * 128}), frozenset(f"shop/{n}" for n in range(MAX_NAMES + 1))):
        with pytest.raises(IsthmusError) as caught:
            consumers.named(consumer, more, frozenset())
        assert caught.value.error_code == "too_many_names"
        with pytest.raises(IsthmusError):
            consumers.present(consumer, pb.Presence(via_gateway=more))
    assert (consumer.names, consumer.via) == ({"shop/b"}, frozenset())


@pytest.mark.parametrize(("name", "refused"), [("vm-1", False), ("vm-2", True), ("", True)])
def test_a_virtual_machine_goes_by_its_own_name(consumers: Consumers, name: str, refused: bool) -> None:
    consumer = consumers.opened(role=Role.SIDECAR, identity="spiffe://e/ns/shop/sa/x", address="a", vm="vm-1")
    said = pb.Presence(role=pb.Presence.SIDECAR, name=name)
    if refused:
        with pytest.raises(Denied) as caught:
            consumers.present(consumer, said)
        assert caught.value.error_code == "vm_name_mismatch"
        assert not consumer.name
    else:
        consumers.present(consumer, said)
        assert consumer.name == "vm-1"


def test_a_virtual_machine_is_no_other_ones_gateway(consumers: Consumers) -> None:
    consumer = consumers.opened(
        role=Role.GATEWAY, identity="spiffe://e/ns/isthmus-system/sa/gateway", address="a", vm="v"
    )
    said = presence("v")
    consumers.present(consumer, said)
    said.gateway.name = "gw-1"
    with pytest.raises(Denied):
        consumers.present(consumer, said)
    assert set(consumers.gateways.value) == {"v"}
