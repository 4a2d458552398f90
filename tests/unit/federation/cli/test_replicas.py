"""Who is served, by which replica, and whose answer is missing."""

from __future__ import annotations

from federation.cli.replicas import Answer, served, unheard
from federation.cli.status import Seen, assess, rows
from federation.errors import Unavailable
from federation.proto.v1 import agent_pb2


def consumer(name: str, *, connected: bool = True, role: str = "sidecar") -> agent_pb2.ConsumerStatus:
    return agent_pb2.ConsumerStatus(role=role, name=name, connected=connected)


def answer(replica: str, *consumers: agent_pb2.ConsumerStatus, leader: str = "") -> Answer:
    standing = agent_pb2.ReplicaStatus(identity=replica, leader=leader)
    status = agent_pb2.AgentStatus(registry_connected=True, version="1", consumers=consumers, replica=standing)
    return Answer(replica, status)


def names(*answers: Answer) -> list[tuple[str, str, bool]]:
    return [(one.consumer.name, one.replica, one.consumer.connected) for one in served(answers)]


SILENT = Answer("b", failure=Unavailable("no answer"))


def test_each_is_there_once() -> None:
    assert names(answer("a", consumer("web-1")), answer("b", consumer("web-2"))) == [
        ("web-1", "a", True),
        ("web-2", "b", True),
    ]
    moved = answer("a", consumer("gw", role="gateway", connected=False)), answer("b", consumer("gw", role="gateway"))
    assert names(*moved) == [("gw", "b", True)]
    gone = answer("a", consumer("gw", connected=False)), answer("b", consumer("gw", connected=False))
    assert names(*gone) == [("gw", "a", False)]
    another = answer("a", consumer("gw", connected=False)), answer("b", consumer("gw", role="gateway"))
    assert len(names(*another)) == 2
    assert names(SILENT) == []


def test_a_replica_that_does_not_answer_is_named() -> None:
    assert unheard("east", [answer("a", leader="a")]) == []
    assert unheard("east", [answer("a", leader="c"), answer("c", leader="c")]) == []
    assert unheard("east", [answer("")]) == []
    alone = answer("isthmus-agent-1_0f3c", leader="isthmus-agent-2_1a2b").status
    assert unheard("east", [Answer("isthmus-agent-1", alone)]) == []  # the other pod does not run any more
    (line,) = unheard("east", [answer("a", leader="b"), SILENT])
    assert line == "east: b does not answer, and whom it serves is missing here: no answer"
    (line,) = unheard("east", [answer("a", leader="b")])
    assert line == "east: b is another replica, which is not known here: whom it serves is missing here"


def test_status_counts_all_of_them_and_finds_what_is_missing() -> None:
    answers = [answer("a", consumer("web-1")), answer("b", consumer("web-2", connected=False))]
    first = answers[0].status
    assert first is not None
    seen = Seen(agents={"east": first}, replicas={"east": [*answers, Answer("c", failure=Unavailable("no answer"))]})
    assert [row["consumers"] for row in rows(seen)] == [2]
    assert [(f.code, f.subject) for f in assess(seen)] == [
        ("replica_unreachable", "east: c"),
        ("consumer_lost", "east: sidecar web-2"),
    ]
