import pytest

from federation.cli.status import Seen, assess, leads, rows
from federation.errors import Unavailable
from federation.proto.v1 import agent_pb2, records_pb2, registry_pb2


def cluster(name: str, state: str = "live", gateways: int = 1, **fields: object) -> registry_pb2.ClusterInfo:
    return registry_pb2.ClusterInfo(name=name, state=state, gateways=gateways, **fields)


def link(a: str, b: str, state: str = "live", detail: str = "") -> registry_pb2.LinkInfo:
    return registry_pb2.LinkInfo(link=records_pb2.Link(a=a, b=b), state=state, detail=detail)


def consumer(**fields: object) -> agent_pb2.ConsumerStatus:
    return agent_pb2.ConsumerStatus(role="gateway", name="gw", **{"connected": True, **fields})


HEALTHY = Seen(
    registry=registry_pb2.RegistryStatus(),
    clusters=[cluster("east"), cluster("west")],
    links=[link("east", "west")],
    agents={
        "east": agent_pb2.AgentStatus(
            registry_connected=True,
            peers=[agent_pb2.PeerStatus(cluster="west", state="live")],
            consumers=[consumer(applied_revision=7, offered_revision=7)],
        )
    },
)


def codes(seen: Seen) -> list[tuple[str, str]]:
    return [(f.code, f.subject) for f in assess(seen)]


def test_a_whole_federation_has_no_findings():
    assert assess(HEALTHY) == []


def test_each_fault_has_its_own_finding():
    problem = records_pb2.Problem(code="file_malformed", subject="echo.yaml:3", detail="no YAML")
    assert codes(Seen(unreachable={"registry": Unavailable("gone"), "east": Unavailable("gone")})) == [
        ("registry_unreachable", "registry"),
        ("agent_unreachable", "east"),
    ]
    assert codes(Seen(clusters=[cluster("east", "stale")])) == [("cluster_not_live", "east")]
    assert codes(Seen(clusters=[cluster("east", gateways=0)])) == [("no_gateway", "east")]
    assert codes(Seen(clusters=[cluster("east", gateways=0, outbound_only=True)])) == []
    assert codes(Seen(links=[link("a", "b", "degraded")])) == [("link_not_live", "a/b")]

    def agent(**fields: object) -> Seen:
        return Seen(agents={"east": agent_pb2.AgentStatus(**{"registry_connected": True, **fields})})

    assert codes(agent(registry_connected=False)) == [("registry_lost", "east")]
    assert codes(agent(problems=[problem])) == [("file_malformed", "east: echo.yaml:3")]
    assert codes(agent(peers=[agent_pb2.PeerStatus(cluster="west", state="unpinned")])) == [
        ("peer_not_live", "east -> west")
    ]
    assert codes(agent(consumers=[consumer(connected=False)])) == [("consumer_lost", "east: gateway gw")]


def test_one_cause_is_told_once():
    """A link and a peer show it too when a cluster is away, or when an agent names a reason."""
    alone = Seen(
        clusters=[cluster("east"), cluster("west", gateways=0)],
        links=[link("east", "west", "degraded", "west has no gateway")],
        agents={
            "east": agent_pb2.AgentStatus(
                registry_connected=True, peers=[agent_pb2.PeerStatus(cluster="west", state="no gateway")]
            )
        },
    )
    assert codes(alone) == [("no_gateway", "west")]
    inside = Seen(  # behind NAT, and it exports something: its own agent says what that comes to
        clusters=[cluster("east"), cluster("west", gateways=0, outbound_only=True, services=1)],
        links=[link("east", "west", "degraded", "no gateway of west can be reached from outside")],
        agents={
            "east": agent_pb2.AgentStatus(
                registry_connected=True, peers=[agent_pb2.PeerStatus(cluster="west", state="no gateway")]
            ),
            "west": agent_pb2.AgentStatus(
                registry_connected=True,
                problems=[records_pb2.Problem(code="no_inbound", subject="gateways", detail="nobody can call it")],
            ),
        },
    )
    assert codes(inside) == [("no_inbound", "west: gateways")]
    reason = "west is linked and not pinned"
    unpinned = Seen(
        clusters=[cluster("east"), cluster("west")],
        links=[link("east", "west", "degraded", f"east: {reason}")],
        agents={
            "east": agent_pb2.AgentStatus(
                registry_connected=True,
                peers=[agent_pb2.PeerStatus(cluster="west", state="unpinned", detail=reason)],
                problems=[records_pb2.Problem(code="unpinned", subject="west", detail=reason)],
            )
        },
    )
    assert codes(unpinned) == [("unpinned", "east: west")]


def test_connected_is_not_enough_a_consumer_must_have_applied_what_it_was_offered():
    seen = Seen(
        agents={
            "east": agent_pb2.AgentStatus(
                registry_connected=True, consumers=[consumer(applied_revision=5, offered_revision=9)]
            )
        }
    )
    (finding,) = assess(seen)
    assert finding.code == "consumer_behind"
    assert "4 revisions" in finding.detail


def test_a_cluster_s_problems_come_from_its_agent_where_that_is_known_and_from_the_registry_elsewhere():
    problem = records_pb2.Problem(code="file_malformed", subject="f", detail="d")
    remote = registry_pb2.ClusterInfo(name="west", state="live", gateways=1, problems=[problem])
    assert codes(Seen(clusters=[remote])) == [("file_malformed", "west: f")]
    assert codes(Seen(clusters=[remote], agents={"west": agent_pb2.AgentStatus(registry_connected=True)})) == []


def test_an_agent_that_could_not_read_its_cluster_is_not_one_that_is_not_started():
    why = "it reports and serves nothing before it has read the API server https://10.0.0.1"
    problems = [
        records_pb2.Problem(code="kube_unreachable", subject="Kubernetes", detail="no answer"),
        records_pb2.Problem(code="source_not_read", detail=why),
    ]
    status = agent_pb2.AgentStatus(registry_connected=False, registry_detail=why, problems=problems)
    seen = Seen(clusters=[cluster("east", "pending")], agents={"east": status})
    assert codes(seen) == [
        ("cluster_not_live", "east"),
        ("kube_unreachable", "east: Kubernetes"),
        ("source_not_read", "east"),
    ]
    assert "its agent runs" in assess(seen)[0].detail
    assert "is its agent started" in assess(Seen(clusters=[cluster("east", "pending")]))[0].detail


def replica(**fields: object) -> Seen:
    found = agent_pb2.ReplicaStatus(
        **{"identity": "a_1", "leader": "a_1", "leading": True, "reporting": True, **fields}
    )
    return Seen(agents={"east": agent_pb2.AgentStatus(registry_connected=True, replica=found)})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"since_ns": 1_700_000_000_000_000_000}, "east: a_1 leads since 2023-11-14T22:13:20Z; the one asked"),
        ({}, "east: a_1 leads; the one asked"),
        ({"leader": "b_2", "leading": False, "reporting": False}, "east: b_2 leads; a_1 was asked"),
        (
            {"leader": "b_2", "leading": False, "reporting": False, "expired": True},
            "east: b_2 leads, and has not renewed its Lease in time; a_1 was asked",
        ),
        ({"leading": False, "expired": True}, "has not renewed its Lease in time; the one asked, which reports, too"),
        ({"leader": "", "leading": False}, "east: no replica is known to lead; a_1 was asked"),
    ],
)
def test_who_leads_is_said_in_a_line(fields: dict[str, object], said: str) -> None:
    (row,) = rows(replica(**fields))
    assert said in leads(row["cluster"], row["replica"])


def test_who_leads_is_there_for_programs_and_only_where_there_are_replicas() -> None:
    (row,) = rows(replica(leader="b_2", leading=False, reporting=False, since_ns=1_700_000_000_000_000_000))
    assert row["replica"] == {
        "asked": "a_1",
        "leader": "b_2",
        "since": "2023-11-14T22:13:20Z",
        "leading": False,
        "reporting": False,
        "expired": False,
    }
    assert [r["replica"] for r in rows(HEALTHY)] == [None, None]
