"""plan and what it builds, carried out on a dictionary that behaves like an API server."""

from __future__ import annotations

import copy
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.mcs.desired import Desired, LocalGateway, Namespace, Site, derived_name, exported_metadata, usable
from discovery.mcs.held import Kind
from discovery.mcs.plan import Verb, foreign, plan, unstamped
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Endpoint, Locality, Port, Protocol

ECHO = ServiceName("shop", "echo")
DERIVED = derived_name(ECHO)
HTTP = Port(name="http", port=80, app=AppProtocol.HTTP, declared="http")
DNS = Port(name="dns", port=53, protocol=Protocol.UDP)


def test_an_import_becomes_a_serviceimport_a_service_and_a_slice_per_cluster(world, imported, backend):
    world.settle(imported(backend("east", local=True), backend("west"), ports=(HTTP, DNS), session_affinity="ClientIP"))
    made = world.api.of(Kind.IMPORT)["echo"]
    assert made["spec"]["type"] == "ClusterSetIP"
    assert made["spec"]["ips"] == ["10.96.0.1"]
    assert made["spec"]["ipFamilies"] == ["IPv4"]
    assert made["spec"]["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10_800}}
    assert made["spec"]["ports"] == [
        {"name": "http", "port": 80, "protocol": "TCP", "appProtocol": "http"},
        {"name": "dns", "port": 53, "protocol": "UDP"},
    ]
    assert made["status"]["clusters"] == [{"cluster": "east"}, {"cluster": "west"}]
    assert [(c["type"], c["status"], c["reason"]) for c in made["status"]["conditions"]] == [("Ready", "True", "Ready")]
    service = world.api.of(Kind.SERVICE)[DERIVED]
    assert {p["port"]: p["targetPort"] for p in service["spec"]["ports"]} == {80: 10_080, 53: 53}
    assert "selector" not in service["spec"]
    slices = world.api.of(Kind.SLICE)
    assert sorted(s["metadata"]["labels"]["multicluster.kubernetes.io/source-cluster"] for s in slices.values()) == [
        "east",
        "west",
    ]
    for one in slices.values():
        assert one["metadata"]["labels"]["kubernetes.io/service-name"] == DERIVED
        assert one["metadata"]["labels"]["multicluster.kubernetes.io/service-name"] == "echo"
        assert one["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == "agent.isthmus.io"
        assert one["ports"] == [{"name": "http", "protocol": "TCP", "port": 10_080, "appProtocol": "http"}]
        assert [e["addresses"] for e in one["endpoints"]] == [["10.1.0.1"]]
        assert one["endpoints"][0]["zone"] == "a"
    uid = made["metadata"]["uid"]
    for one in (*slices.values(), service):
        assert [o["uid"] for o in one["metadata"]["ownerReferences"]] == [uid]


def test_a_cluster_without_ready_endpoints_has_an_empty_slice(world, imported, backend):
    world.settle(imported(backend("east", 0), backend("west", 2)))
    sizes = {name: len(s["endpoints"]) for name, s in world.api.of(Kind.SLICE).items()}
    assert sizes == {f"{DERIVED}-east-ipv4": 0, f"{DERIVED}-west-ipv4": 1}


def test_a_port_leads_to_the_clusters_that_have_it(world, imported, backend):
    grpc = Port(name="grpc", port=90)
    world.settle(imported(backend("east"), backend("west", ports=(80, 90)), ports=(HTTP, grpc)))
    ports = {n: [p["port"] for p in s["ports"]] for n, s in world.api.of(Kind.SLICE).items()}
    assert ports == {f"{DERIVED}-east-ipv4": [10_080], f"{DERIVED}-west-ipv4": [10_080, 10_090]}


def test_a_headless_import_has_slices_with_hostnames_and_no_service(world, imported, backend):
    endpoints = (
        Endpoint(address="10.0.0.1", hostname="echo-0", ports={80: 8080}, locality=Locality("r", "z")),
        Endpoint(address="10.0.0.2", hostname="echo-1", ports={80: 8080}, ready=False, terminating=True),
        Endpoint(address="10.0.0.3", hostname="echo-2", ports={80: 9090}),
        Endpoint(address="fd00::1", hostname="echo-0", ports={80: 8080}),
    )
    world.settle(imported(backend("east", local=True, endpoints=endpoints), backend("west"), headless=True))
    made = world.api.of(Kind.IMPORT)["echo"]
    assert (made["spec"]["type"], made["spec"]["ips"]) == ("Headless", [])
    assert not world.api.of(Kind.SERVICE)
    slices = world.api.of(Kind.SLICE)
    assert {(s["addressType"], s["ports"][0]["port"], len(s["endpoints"])) for s in slices.values()} == {
        ("IPv4", 8080, 2),
        ("IPv4", 9090, 1),
        ("IPv6", 8080, 1),
    }
    first = slices[f"{DERIVED}-east-ipv4-0"]["endpoints"]
    assert [e["hostname"] for e in first] == ["echo-0", "echo-1"]
    assert first[1]["conditions"] == {"ready": False, "serving": True, "terminating": True}
    assert all("kubernetes.io/service-name" not in s["metadata"]["labels"] for s in slices.values())


def test_headless_endpoints_on_another_network_are_told_of(world, imported, backend):
    endpoints = (Endpoint(address="10.0.0.1", ports={80: 8080}),)
    world.settle(imported(backend("east", local=True, endpoints=endpoints), backend("west"), headless=True))
    condition = world.api.of(Kind.IMPORT)["echo"]["status"]["conditions"][0]
    assert (condition["status"], condition["reason"]) == ("True", "Ready")
    assert condition["message"].startswith("the endpoints in west are on another network")
    world.settle(imported(backend("west", endpoints=endpoints), headless=True))
    assert world.api.of(Kind.IMPORT)["echo"]["status"]["conditions"][0]["message"] == ""


def test_an_import_that_becomes_headless_loses_its_service(world, imported, backend):
    world.settle(imported())
    world.settle(imported(headless=True))
    assert not world.api.of(Kind.SERVICE)
    assert world.api.of(Kind.IMPORT)["echo"]["spec"]["ips"] == []


def test_what_is_settled_is_not_written_again(world, imported):
    assert world.settle(imported()) > 0
    assert world.settle(imported()) == 0


def test_the_end_of_an_import_takes_all_of_it(world, imported, backend):
    world.settle(imported(backend("east"), backend("west")))
    world.settle(None)
    assert not world.api.objects


def test_nothing_goes_while_it_is_not_known_what_a_cluster_exports(world, imported, backend):
    world.settle(imported(backend("west")))
    world.settled = frozenset({"east"})
    world.settle(None)
    assert len(world.api.objects) == 3
    world.settled = frozenset({"east", "west"})
    world.settle(None)
    assert not world.api.objects


@pytest.mark.parametrize("state", [Namespace.ABSENT, Namespace.TERMINATING])
def test_nothing_is_written_where_there_is_no_namespace(world, imported, state):
    world.namespace = state
    assert world.settle(imported()) == 0
    world.namespace = Namespace.ACTIVE
    world.settle(imported())
    assert world.api.of(Kind.IMPORT)


def test_a_missing_namespace_is_created_if_that_is_asked_for(world, imported):
    world.namespace = Namespace.ABSENT
    world.site = dataclasses.replace(world.site, create_namespaces=True)
    (write,) = world.round(imported())
    assert (write.verb, write.kind, write.name) == (Verb.CREATE, Kind.NAMESPACE, "shop")


def test_a_foreign_serviceimport_is_left_alone(world, imported):
    world.settle(imported())
    foreign_one = {"metadata": {"name": "echo", "namespace": "shop", "uid": "x", "resourceVersion": "9"}, "spec": {}}
    world.api.objects[(Kind.IMPORT, "shop", "echo")] = foreign_one
    world.settle(imported())
    assert world.api.of(Kind.IMPORT)["echo"] is foreign_one
    assert not world.api.of(Kind.SERVICE)  # what led to ours goes
    assert not world.api.of(Kind.SLICE)
    problem = foreign(Desired(name=ECHO, import_=imported()), world.api.actual())
    assert problem is not None
    assert problem.code == "import_not_ours"
    world.settle(None)
    assert world.api.of(Kind.IMPORT)["echo"] is foreign_one


def _label(found):
    found["metadata"]["labels"]["added"] = "by hand"


def test_labels_of_others_stay_and_are_no_reason_to_write(world, imported):
    world.settle(imported())
    for kind, name in ((Kind.IMPORT, "echo"), (Kind.SERVICE, DERIVED), (Kind.SLICE, f"{DERIVED}-west-ipv4")):
        world.api.edit(kind, name, _label)
    assert world.settle(imported()) == 0
    world.settle(imported(labels={"tier": "1"}))
    labels = world.api.of(Kind.IMPORT)["echo"]["metadata"]["labels"]
    assert labels["added"] == "by hand"
    assert labels["tier"] == "1"
    world.settle(imported())
    assert "tier" not in world.api.of(Kind.IMPORT)["echo"]["metadata"]["labels"]


EDITS = [
    (Kind.IMPORT, "echo", lambda o: o["spec"].update(ports=[])),
    (Kind.IMPORT, "echo", lambda o: o["spec"].update(type="Headless")),
    (Kind.IMPORT, "echo", lambda o: o["spec"].update(ips=["192.0.2.1"])),
    (Kind.IMPORT, "echo", lambda o: o["spec"].update(trafficDistribution="PreferClose")),
    (Kind.IMPORT, "echo", lambda o: o["status"].update(clusters=[])),
    (Kind.IMPORT, "echo", lambda o: o["status"].update(conditions=[])),
    (Kind.IMPORT, "echo", lambda o: o["metadata"]["labels"].pop("app.kubernetes.io/managed-by")),
    (Kind.IMPORT, "echo", lambda o: o["metadata"]["annotations"].pop("isthmus.io/applied")),
    (Kind.SERVICE, DERIVED, lambda o: o["spec"].update(selector={"app": "mine"})),
    (Kind.SERVICE, DERIVED, lambda o: o["spec"]["ports"][0].update(targetPort=1)),
    (Kind.SERVICE, DERIVED, lambda o: o["spec"].update(type="NodePort")),
    (Kind.SERVICE, DERIVED, lambda o: o["metadata"].update(ownerReferences=[])),
    (Kind.SLICE, f"{DERIVED}-west-ipv4", lambda o: o.update(endpoints=[])),
    (Kind.SLICE, f"{DERIVED}-west-ipv4", lambda o: o["ports"][0].update(port=1)),
    (Kind.SLICE, f"{DERIVED}-west-ipv4", lambda o: o["endpoints"][0]["conditions"].update(ready=False)),
]


@pytest.mark.parametrize(("kind", "name", "edit"), EDITS)
def test_what_is_edited_by_hand_is_repaired(world, imported, kind, name, edit):
    world.settle(imported())
    before = copy.deepcopy({k: v.get("spec") for k, v in world.api.objects.items()})
    world.api.edit(kind, name, edit)
    assert world.settle(imported()) > 0
    assert {k: v.get("spec") for k, v in world.api.objects.items()} == before
    assert world.settle(imported()) == 0


def test_a_derived_service_that_was_deleted_comes_back_at_its_address(world, imported):
    world.settle(imported())
    wanted = dataclasses.replace(imported(), ips=("10.96.0.1",))
    del world.api.objects[(Kind.SERVICE, "shop", DERIVED)]
    desired = Desired(name=ECHO, import_=wanted, ports={80: 10_080}, ips=("10.96.0.1",))
    writes = plan(desired, world.api.actual(), world.site, now=world.now)
    (write,) = [w for w in writes if w.kind is Kind.SERVICE]
    assert write.verb is Verb.CREATE
    assert write.body["spec"]["clusterIPs"] == ["10.96.0.1"]


def test_an_object_that_somebody_holds_back_is_waited_for(world, imported):
    world.settle(imported())
    for kind, name in ((Kind.IMPORT, "echo"), (Kind.SERVICE, DERIVED)):
        world.api.edit(kind, name, lambda o: o["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z"))
    assert world.settle(imported()) == 0


def test_another_leader_writes_everything_again_so_that_what_the_last_one_saw_is_no_more(world, imported):
    world.settle(imported())
    before = world.api.actual()
    world.site = dataclasses.replace(world.site, epoch=2)
    assert unstamped(before, 2)
    assert world.settle(imported()) == 0, "the epoch alone is no reason to write"
    assert world.settle(imported(), stamp=True) == 1
    after = world.api.actual()
    assert not unstamped(after, 2)
    for old, new in ((before.import_, after.import_), (before.service, after.service)):
        assert (new.epoch, new.uid) == (2, old.uid)
        assert new.resource_version != old.resource_version
    for name, held in after.slices.items():
        assert held.resource_version != before.slices[name].resource_version
    assert before.service.ips == after.service.ips
    assert world.settle(imported(), stamp=True) == 0


def test_a_gateway_that_moves_is_followed(world, imported):
    world.settle(imported())
    world.site = dataclasses.replace(world.site, gateways=(LocalGateway("10.1.0.2"), LocalGateway("10.1.0.3")))
    assert world.settle(imported()) == 1
    (one,) = world.api.of(Kind.SLICE).values()
    assert [e["addresses"] for e in one["endpoints"]] == [["10.1.0.2"], ["10.1.0.3"]]


def test_dual_stack(world, imported):
    world.site = Site(families=("IPv6", "IPv4"), gateways=(LocalGateway("10.1.0.1"), LocalGateway("fd00::1")))
    both = imported(ip_families=("IPv4", "IPv6"))
    world.round(both)
    world.round(both)
    spec = world.api.of(Kind.SERVICE)[DERIVED]["spec"]
    assert (spec["ipFamilyPolicy"], spec["ipFamilies"]) == ("PreferDualStack", ["IPv4"])
    desired_spec = next(w.body["spec"] for w in world.api.writes if w.kind is Kind.SERVICE)
    assert desired_spec["ipFamilies"] == ["IPv4", "IPv6"]


@pytest.mark.parametrize(
    ("families", "headless", "reason"),
    [
        (("IPv6",), False, "Ready"),  # the gateways carry callers of one family to endpoints of the other
        (("IPv6",), True, "IPFamilyNotSupported"),
        (("IPv6", "IPv4"), True, "Ready"),
    ],
)
def test_families_that_the_cluster_has_not(world, imported, families, headless, reason):
    world.settle(imported(ip_families=families, headless=headless))
    assert world.api.of(Kind.IMPORT)["echo"]["status"]["conditions"][0]["reason"] == reason


def test_an_import_waits_for_a_gateway(world, imported):
    world.site = dataclasses.replace(world.site, gateways=())
    world.settle(imported())
    condition = world.api.of(Kind.IMPORT)["echo"]["status"]["conditions"][0]
    assert (condition["status"], condition["reason"]) == ("False", "Pending")
    world.site = dataclasses.replace(world.site, gateways=(LocalGateway("10.1.0.1"),))
    world.now = "2026-01-02T00:00:00Z"
    world.settle(imported())
    condition = world.api.of(Kind.IMPORT)["echo"]["status"]["conditions"][0]
    assert (condition["status"], condition["lastTransitionTime"]) == ("True", "2026-01-02T00:00:00Z")


def test_an_import_without_ports_has_no_address(world, imported):
    world.settle(imported(ports=()))
    assert not world.api.of(Kind.SERVICE)
    assert "no port" in world.api.of(Kind.IMPORT)["echo"]["status"]["conditions"][0]["message"]


@pytest.mark.parametrize("length", [1, 45, 46, 52, 63])
def test_derived_names_are_labels_and_differ(length):
    one, other = ServiceName("a", "x" * length), ServiceName("b", "x" * length)
    assert len(derived_name(one)) <= 63
    assert derived_name(one) != derived_name(other)
    assert not derived_name(ServiceName("a", "x" * 43 + "-" * 5 + "y")).count("--", 50)


def test_metadata_that_the_api_cannot_take_is_left_out_and_named(world, imported):
    labels = {"ok": "v", "bad value": "x", "long": "v" * 64, "app.kubernetes.io/managed-by": "me", "a.b/c": ""}
    annotations = {"note": "x", "huge": "x" * 1_000_000, "isthmus.io/epoch": "9", "/": "x", "Big.Case/Key": "fine"}
    given = imported(labels=labels, annotations=annotations)
    kept_labels, kept_annotations, left = exported_metadata(given)
    assert kept_labels == {"ok": "v", "a.b/c": ""}
    assert kept_annotations == {"note": "x", "Big.Case/Key": "fine"}
    assert set(left) == {"bad value", "long", "app.kubernetes.io/managed-by", "huge", "isthmus.io/epoch", "/"}
    world.settle(given)
    condition = world.api.of(Kind.IMPORT)["echo"]["status"]["conditions"][0]
    assert condition["status"] == "True"
    assert "huge" in condition["message"]


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("10.0.0.1", True),
        ("fd00::1", True),
        ("127.0.0.1", False),
        ("::1", False),
        ("169.254.0.1", False),
        ("gw", False),
    ],
)
def test_addresses_that_may_be_endpoints(address, good):
    assert usable(address) is good


numbers = st.sampled_from([80, 81, 82])
backends = st.dictionaries(st.sampled_from(["east", "west", "edge"]), st.integers(0, 2), min_size=1)
changes = st.one_of(
    st.none(),
    st.tuples(backends, st.sets(numbers, min_size=1), st.booleans(), st.sampled_from(["", "1", "2"])),
    st.sampled_from(range(len(EDITS))),
    st.sampled_from(["gone-import", "gone-service", "gone-slice"]),
)


@given(drawn=st.lists(changes, max_size=8))
def test_whatever_happens_it_comes_to_what_a_fresh_cluster_would_have(kit, drawn):
    backend, imported = kit.backend, kit.imported
    world, wanted = kit.World(), None
    for change in drawn:
        if change is None:
            wanted = None
        elif isinstance(change, tuple):
            clusters, ports, headless, tier = change
            wanted = imported(
                *(backend(c, n, ports=tuple(sorted(ports))) for c, n in sorted(clusters.items())),
                ports=tuple(Port(name=f"p{p}", port=p) for p in sorted(ports)),
                headless=headless,
                labels={"tier": tier} if tier else {},
            )
        else:
            _disturb(world, change)
        world.settle(wanted)
    world.settle(wanted)
    fresh = kit.World()
    fresh.settle(wanted)
    assert _shape(world) == _shape(fresh)


def _disturb(world, change):
    if isinstance(change, int):
        kind, name, edit = EDITS[change]
        if (kind, "shop", name) in world.api.objects:
            found = world.api.objects[(kind, "shop", name)]
            if found.get("ports") != [] and (found.get("endpoints") or kind is not Kind.SLICE):
                world.api.edit(kind, name, edit)
        return
    kind = {"gone-import": Kind.IMPORT, "gone-service": Kind.SERVICE, "gone-slice": Kind.SLICE}[change]
    for name in list(world.api.of(kind))[:1]:
        del world.api.objects[(kind, "shop", name)]


def _shape(world):
    """All that is written but versions, uids and addresses."""

    def plain(kind, body):
        spec = {
            k: v for k, v in body.get("spec", {}).items() if k not in ("clusterIP", "clusterIPs", "ips", "ipFamilies")
        }
        status = [(c["type"], c["status"]) for c in body.get("status", {}).get("conditions", ())]
        labels = body["metadata"].get("labels")
        return (spec, status, labels, body.get("endpoints"), body.get("ports"), body.get("status", {}).get("clusters"))

    return {key: plain(key[0], body) for key, body in world.api.objects.items()}
