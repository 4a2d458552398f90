"""The services of VMs, as transcripts: who registers, who is lost, who drains, and what an agent that starts knows."""

from __future__ import annotations

from typing import Any

import pytest

from discovery.vms.registration import MAX_SERVICES, Site
from discovery.vms.workloads import Workloads
from federation import log
from federation.aio.clock import FakeClock
from federation.errors import Conflict, CorruptState, NotFound
from federation.model.ids import ServiceName, SpiffeId
from federation.model.service import Endpoint, Locality, Readiness
from federation.proto.v1 import catalog_pb2 as pb
from federation.proto.v1 import records_pb2 as records

DB, WEB = ServiceName("shop", "db"), ServiceName("shop", "web")
GRACE, FORGET = 10.0, 100.0


def workload(name: str = "db", address: str = "192.0.2.1", **changes: Any) -> pb.Workload:
    given: dict[str, Any] = {
        "namespace": "shop",
        "name": name,
        "ports": [records.Port(name="sql", port=5432)],
        "targets": {5432: 15432},
        "address": address,
        "ready": True,
        "exported": True,
    }
    return pb.Workload(**{**given, **changes})


class Cluster:
    """The registrations of a cluster, and the streams of its VMs."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.allowed = {"vm-1", "vm-2"}
        self.saved = 0
        self.all = self.make()

    def make(self) -> Workloads:
        made = Workloads(
            may_register=lambda vm, service: vm in self.allowed and service.namespace == "shop",
            site=Site(trust_domain="dc1.test", any_address=True),
            locality=Locality("eu", "eu-1"),
            grace=GRACE,
            forget=FORGET,
            clock=self.clock,
            log=log.get("test"),
        )

        def saved() -> None:
            self.saved += 1

        made.on_change = saved
        return made

    def say(self, vm: str, *workloads: pb.Workload, token: object = None) -> object:
        token = token or object()
        identity = SpiffeId.parse(f"spiffe://dc1.test/ns/shop/sa/{vm}")
        self.all.present(vm, token, pb.Workloads(items=workloads), identity=identity, host="192.0.2.1")
        return token

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.all.expire()

    def endpoints(self, name: ServiceName = DB) -> list[tuple[str, bool, bool]]:
        service = self.all.state.value.exports.get(name)
        return [(e.address, e.ready, e.terminating) for e in service.endpoints] if service is not None else []

    @property
    def codes(self) -> list[str]:
        return [p.code for p in self.all.state.value.problems]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def cluster(clock: FakeClock) -> Cluster:
    return Cluster(clock)


UP, DOWN, DRAINING = ("192.0.2.1", True, False), ("192.0.2.1", False, False), ("192.0.2.1", False, True)


def test_it_is_complete_from_the_beginning(cluster: Cluster) -> None:
    state = cluster.all.state.value
    assert (state.complete, dict(state.exports), set(state.services)) == (True, {}, set())


def test_a_vm_registers_changes_and_takes_back(cluster: Cluster, clock: FakeClock) -> None:
    first = clock.wall_ns()
    token = cluster.say("vm-1", workload(), workload("web"))
    state = cluster.all.state.value
    assert cluster.endpoints() == [UP]
    db = state.exports[DB]
    assert (db.exported_at_ns, db.readiness) == (first, (Readiness(Locality("eu", "eu-1"), 1),))
    assert db.endpoints[0] == Endpoint(address="192.0.2.1", locality=Locality("eu", "eu-1"), ports={5432: 15432})
    assert (state.changed, set(state.services)) == ({DB, WEB}, {DB, WEB})

    clock.advance(5)
    cluster.say("vm-1", workload(ready=False), workload("web"), token=token)
    after = cluster.all.state.value
    assert (cluster.endpoints(), after.changed, after.number) == ([DOWN], {DB}, state.number + 1)
    assert after.exports[DB].exported_at_ns == first
    assert after.exports[WEB] is state.exports[WEB]

    cluster.say("vm-1", workload("web"), token=token)
    assert cluster.endpoints() == []
    assert set(cluster.all.state.value.services) == {WEB}
    cluster.say("vm-1", token=token)
    assert dict(cluster.all.state.value.exports) == {}


def test_the_same_again_changes_nothing(cluster: Cluster) -> None:
    token = cluster.say("vm-1", workload())
    version, saved = cluster.all.state.version, cluster.saved
    cluster.say("vm-1", workload(), token=token)
    cluster.say("vm-1", workload())  # on another stream
    assert cluster.all.state.version == version
    assert cluster.saved >= saved


def test_what_nobody_exports_waits_for_who_does(cluster: Cluster) -> None:
    token = cluster.say("vm-1", workload(exported=False))
    state = cluster.all.state.value
    assert (dict(state.exports), set(state.unexported), state.changed) == ({}, {DB}, {DB})
    cluster.say("vm-2", workload(address="192.0.2.2"))
    state = cluster.all.state.value
    assert ([e.address for e in state.exports[DB].endpoints], dict(state.unexported)) == (
        ["192.0.2.1", "192.0.2.2"],
        {},
    )
    cluster.say("vm-1", workload(), token=token)
    cluster.say("vm-1", workload(exported=False), token=token)
    assert len(cluster.endpoints()) == 2


def test_a_broken_stream_is_a_grace_then_not_ready_then_forgotten(cluster: Cluster) -> None:
    cluster.all.closed("vm-1", cluster.say("vm-1", workload()), clean=False)
    cluster.wait(GRACE - 0.1)
    assert (cluster.endpoints(), cluster.codes) == ([UP], [])
    cluster.wait(0.2)
    assert (cluster.endpoints(), cluster.codes) == ([DOWN], ["vm_lost"])
    cluster.wait(FORGET - 0.2)
    assert cluster.endpoints() == [DOWN], "its name stays"
    cluster.wait(0.3)
    assert (cluster.endpoints(), cluster.codes, cluster.all.next_deadline()) == ([], [], None)


def test_who_comes_back_in_time_never_left(cluster: Cluster) -> None:
    cluster.all.closed("vm-1", cluster.say("vm-1", workload()), clean=False)
    version = cluster.all.state.version
    cluster.wait(GRACE / 2)
    cluster.say("vm-1", workload())
    cluster.wait(FORGET * 2)
    assert (cluster.endpoints(), cluster.all.state.version) == ([UP], version)


def test_who_comes_back_late_is_ready_at_once(cluster: Cluster) -> None:
    cluster.all.closed("vm-1", cluster.say("vm-1", workload()), clean=False)
    cluster.wait(GRACE + 1)
    assert cluster.endpoints() == [DOWN]
    cluster.say("vm-1", workload())
    assert (cluster.endpoints(), cluster.codes) == ([UP], [])


def test_a_goodbye_drains(cluster: Cluster) -> None:
    cluster.all.closed("vm-1", cluster.say("vm-1", workload()), clean=True)
    assert cluster.endpoints() == [DRAINING]
    cluster.wait(GRACE + 0.1)
    assert (cluster.endpoints(), cluster.codes) == ([DOWN], [])
    cluster.wait(FORGET + 0.1)
    assert cluster.endpoints() == []


def test_the_end_of_an_older_stream_says_nothing(cluster: Cluster) -> None:
    old = cluster.say("vm-1", workload())
    cluster.say("vm-1", workload())
    cluster.all.closed("vm-1", old, clean=True)
    cluster.all.closed("vm-7", object(), clean=True)
    cluster.wait(FORGET * 2)
    assert cluster.endpoints() == [UP]


def test_a_vm_that_was_removed_leaves_at_once(cluster: Cluster) -> None:
    cluster.say("vm-1", workload())
    cluster.all.removed("vm-1")
    cluster.all.removed("vm-9")
    assert cluster.endpoints() == []
    cluster.wait(FORGET * 2)


def test_what_may_not_be_registered_is_a_problem_and_all_else_goes_on(cluster: Cluster) -> None:
    foreign = workload(namespace="bank")
    token = cluster.say("vm-1", foreign, workload("web", address="127.0.0.1"), workload(), workload())
    problems = {p.code: p for p in cluster.all.state.value.problems}
    assert set(problems) == {"service_denied", "forbidden_address", "duplicate_service"}
    assert problems["service_denied"].subject == "vm vm-1: bank/db"
    assert "VM vm-1 may not register bank/db" in problems["service_denied"].detail
    assert cluster.endpoints() == [UP]
    cluster.say("vm-1", workload(), token=token)
    assert cluster.codes == []
    cluster.say("vm-3", workload(address="192.0.2.3"))
    assert cluster.codes == ["service_denied"]


def test_names_that_are_none_are_shown_harmlessly(cluster: Cluster) -> None:
    cluster.say("vm-1", workload("\x1b[2J" + "x" * 100))
    (problem,) = cluster.all.state.value.problems
    assert problem.subject == "vm vm-1: shop/\\x1b[2J" + "x" * 59
    assert problem.detail.isprintable()


def test_there_are_only_so_many(cluster: Cluster) -> None:
    cluster.say("vm-1", *(workload(f"s{n}") for n in range(MAX_SERVICES + 1)))
    assert len(cluster.all.state.value.exports) == MAX_SERVICES
    assert cluster.codes == ["too_many_services"]


def test_several_vms_are_one_service_and_the_first_decides(cluster: Cluster, clock: FakeClock) -> None:
    cluster.say("vm-2", workload(address="192.0.2.2"))
    clock.advance(1)
    other = workload(ports=[records.Port(name="x", port=1)], targets={1: 1})
    cluster.say("vm-1", other)
    state = cluster.all.state.value
    assert [p.port for p in state.exports[DB].ports] == [5432]
    assert set(cluster.codes) == {"port_conflict"}
    assert all("vm vm-1" in p.detail and "vm vm-2" in p.detail for p in state.problems)
    cluster.say("vm-1", workload())
    assert (cluster.codes, len(cluster.endpoints())) == ([], 2)
    assert cluster.all.whence(DB) == {"192.0.2.1": "vm vm-1", "192.0.2.2": "vm vm-2"}


def test_an_agent_that_starts_knows_them_for_the_grace_period(cluster: Cluster, clock: FakeClock) -> None:
    first = clock.wall_ns()
    cluster.say("vm-1", workload(secure=True))
    cluster.all.closed("vm-2", cluster.say("vm-2", workload("web", address="192.0.2.2")), clean=True)
    data = cluster.all.dump()
    clock.advance(1000)
    cluster.all = cluster.make()
    cluster.all.load(data)
    assert cluster.all.state.value.complete
    assert cluster.endpoints() == [UP]
    db = cluster.all.state.value.exports[DB]
    assert (db.exported_at_ns, db.endpoints[0].identity) == (first, "spiffe://dc1.test/ns/shop/sa/vm-1")
    assert cluster.endpoints(WEB) == [("192.0.2.2", False, False)], "it had said goodbye"
    version = cluster.all.state.version
    cluster.say("vm-1", workload(secure=True))
    assert cluster.all.state.version == version
    cluster.wait(GRACE + 0.1)
    assert cluster.endpoints() == [UP]


def test_an_agent_that_starts_waits_no_longer_than_that(cluster: Cluster) -> None:
    cluster.say("vm-1", workload())
    data = cluster.all.dump()
    cluster.all = cluster.make()
    cluster.all.load(data)
    cluster.wait(GRACE + 0.1)
    assert (cluster.endpoints(), cluster.codes) == ([DOWN], ["vm_lost"])


def test_who_lost_its_right_meanwhile_is_not_loaded(cluster: Cluster) -> None:
    cluster.say("vm-1", workload())
    cluster.say("vm-2", workload("web"))
    data = cluster.all.dump()
    cluster.allowed = {"vm-2"}
    cluster.all = cluster.make()
    cluster.all.load(data)
    assert set(cluster.all.state.value.exports) == {WEB}
    with pytest.raises(CorruptState):
        cluster.make().load(b"nonsense")


async def test_a_vm_exports_by_its_own_file(cluster: Cluster) -> None:
    cluster.say("vm-1", workload(exported=False))
    for asked, key in (
        (cluster.all.export(DB, ()), "export: true"),
        (cluster.all.unexport(DB), "export: false"),
        (cluster.all.preview(DB, ()), "export: true"),
        (cluster.all.preview(DB, None), "export: false"),
    ):
        with pytest.raises(Conflict) as caught:
            await asked
        assert caught.value.error_code == "registered_by_vm"
        assert "vm-1" in caught.value.message
        assert key in caught.value.hint
    with pytest.raises(NotFound):
        await cluster.all.export(WEB, ())
