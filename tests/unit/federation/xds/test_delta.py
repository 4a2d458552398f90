"""Transcripts of one delta ADS stream: `<` is what the client says, `>` what the session answers."""

from __future__ import annotations

import pytest

from federation.xds import delta
from federation.xds.delta import Session
from federation.xds.exchange import Request, Response
from federation.xds.references import Reference
from federation.xds.snapshot import Resource, Snapshot, TypeUrl

S, C, E, L, R = TypeUrl
LETTER = {S: "S", C: "C", E: "E", L: "L", R: "R"}


def res(kind: TypeUrl, name: str, version: str = "1", *references: tuple[TypeUrl, str]) -> Resource:
    found = frozenset(Reference(k.value, n) for k, n in references)
    return Resource(kind=kind, name=name, version=version, body=version.encode(), references=found)


def clusters(*names: str, version: str = "1") -> list[Resource]:
    return [res(C, name, version, (E, name)) for name in names]


def endpoints(*names: str, version: str = "1") -> list[Resource]:
    return [res(E, name, version) for name in names]


def shown(response: Response | None) -> str:
    if response is None:
        return "-"
    words = [f"+{r.name}" for r in response.put] + [f"-{name}" for name in response.removed]
    return " ".join([LETTER[response.kind], *words])


class Client:
    """Speaks for Envoy; every exchange is a line that a person can read."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.now = 0.0
        self.last: dict[TypeUrl, Response] = {}

    def ask(self, kind: TypeUrl, names: str = "", *, drop: str = "", had: dict[str, str] | None = None) -> set[str]:
        request = Request(kind=kind, subscribe=names.split(), unsubscribe=drop.split(), initial_versions=had or {})
        return set(self.session.receive(request, now=self.now))

    def hear(self) -> str:
        response = self.session.next()
        if response is not None:
            self.last[response.kind] = response
        return shown(response)

    def ack(self, kind: TypeUrl, *, error: str | None = None, nonce: str | None = None) -> None:
        sent = self.last[kind].nonce if nonce is None else nonce
        self.session.receive(Request(kind=kind, nonce=sent, error=error), now=self.now)

    def nack(self, kind: TypeUrl, error: str) -> None:
        self.ack(kind, error=error)

    def settle(self) -> list[str]:
        """Acknowledge everything until there is silence."""
        heard = []
        while (line := self.hear()) != "-":
            heard.append(line)
            response = next(r for r in reversed(list(self.last.values())) if shown(r) == line)
            self.ack(response.kind)
        return heard


def connected(snapshot: Snapshot | None = None, **options: object) -> Client:
    session = Session(on_demand=("vip/",), **options)  # type: ignore[arg-type]
    client = Client(session)
    if snapshot is not None:
        session.publish(1, snapshot)
    client.ask(C)
    client.ask(L)
    return client


WEB = Snapshot.of(
    {
        C: clusters("a", "b"),
        E: endpoints("a", "b"),
        L: [res(L, "l", "1", (R, "r"))],
        R: [res(R, "r", "1", (C, "a"))],
        S: [res(S, "identity")],
    }
)


def settled() -> Client:
    client = connected(WEB)
    client.settle()
    client.ask(E, "a b")
    client.settle()
    client.ask(R, "r")
    client.settle()
    assert client.session.acked == 1
    return client


def test_additions_go_clusters_endpoints_listeners_routes() -> None:
    client = connected(WEB)
    assert client.hear() == "C +a +b"
    assert client.hear() == "-"  # the listener waits for the clusters
    client.ack(C)
    assert client.hear() == "-"  # … and for their endpoints
    client.ask(E, "a b")
    assert client.hear() == "E +a +b"
    assert client.hear() == "L +l"  # behind them on the stream, which is enough
    assert client.session.acked == 0
    client.ack(E)
    client.ack(L)
    assert client.session.acked == 0
    client.ask(R, "r")
    assert client.hear() == "R +r"
    client.ack(R)
    assert client.session.acked == 1
    assert client.hear() == "-"


def test_who_asks_for_the_endpoints_has_taken_the_cluster() -> None:
    client = settled()
    listener = res(L, "m", "1", (C, "c"))
    client.session.publish(
        2, WEB.with_(C, put=clusters("b", "c")).with_(E, put=endpoints("c")).with_(L, put=[listener])
    )
    assert client.hear() == "C +c"
    assert client.hear() == "-"
    client.ask(E, "c")  # Envoy does so before it acknowledges
    assert client.hear() == "E +c"
    assert client.hear() == "L +m"
    for kind in (C, E, L):
        assert client.session.acked == 1
        client.ack(kind)
    assert client.session.acked == 2


def test_what_was_asked_for_before_says_nothing_of_a_changed_cluster() -> None:
    client = settled()
    changed = WEB.with_(C, put=clusters("b", version="2")).with_(L, put=[res(L, "m", "1", (C, "b"))])
    client.session.publish(2, changed)
    assert client.hear() == "C +b"
    assert client.hear() == "E +b"
    client.ask(E, "b")
    client.ack(E)
    assert client.hear() == "E +b"
    assert client.hear() == "-"  # the listener waits for the answer
    client.ack(C)
    assert client.hear() == "L +m"


def test_one_cluster_of_several_that_is_refused_keeps_listeners_waiting() -> None:
    client = settled()
    client.session.publish(
        2,
        WEB.with_(C, put=clusters("c", "d"))
        .with_(E, put=endpoints("c", "d"))
        .with_(L, put=[res(L, "m", "1", (C, "c"), (C, "d"))]),
    )
    assert client.hear() == "C +c +d"
    client.ask(E, "c")
    assert client.hear() == "E +c"
    assert client.hear() == "-"


def test_endpoints_do_not_overtake_the_cluster_that_they_belong_to() -> None:
    client = settled()
    client.session.publish(2, WEB.with_(C, put=clusters("b", version="2")))
    assert client.hear() == "C +b"
    assert client.hear() == "E +b"  # behind it on the stream, which is enough
    client.ack(E)
    client.session.publish(3, WEB.with_(C, put=clusters("b", version="3")))
    assert client.hear() == "-"  # the cluster has to wait for the answer, and its endpoints with it
    client.ack(C)
    assert client.hear() == "C +b"
    assert client.hear() == "E +b"


def test_removals_go_the_other_way_and_after_the_additions() -> None:
    client = settled()
    moved = WEB.with_(C, remove=["a"]).with_(E, remove=["a"]).with_(R, put=[res(R, "r", "2", (C, "b"))])
    client.session.publish(2, moved)
    assert client.hear() == "R +r"
    assert client.hear() == "-"  # a goes only when no route leads there any more
    client.ack(R)
    assert client.hear() == "C -a"
    client.ask(E, drop="a")
    client.ack(C)
    assert client.hear() == "-"
    assert client.session.acked == 2


def test_what_leads_to_a_cluster_goes_before_it() -> None:
    client = settled()
    client.session.publish(2, Snapshot())
    assert client.hear() == "L -l"
    assert client.hear() == "-"
    client.ack(L)
    client.ask(R, drop="r")
    assert client.hear() == "C -a -b"
    client.ask(E, drop="a b")
    client.ack(C)
    assert client.settle() == []
    assert client.session.acked == 2


def test_only_one_is_in_flight_and_the_newest_wins() -> None:
    client = settled()
    for generation in range(2, 6):
        client.session.publish(generation, WEB.with_(E, put=endpoints("a", version=str(generation))))
        if generation == 2:
            assert client.hear() == "E +a"  # the first change goes out at once
        else:
            assert client.hear() == "-"
    client.ack(E)
    assert client.session.acked == 2
    assert client.hear() == "E +a"
    assert client.last[E].put[0].version == "5.1"
    assert client.session.acked == 2
    client.ack(E)
    assert client.session.acked == 5


def test_a_change_that_was_taken_back_is_not_sent() -> None:
    client = settled()
    client.session.publish(2, WEB.with_(E, put=endpoints("a", version="2")))
    client.session.publish(3, WEB)
    assert client.hear() == "-"
    assert client.session.acked == 3


def test_stale_nonces_do_not_answer_but_their_subscriptions_count() -> None:
    client = connected(WEB)
    assert client.hear() == "C +a +b"
    client.ack(C, nonce="99", error="about something else")
    assert client.session.nacks == {}
    client.session.receive(Request(kind=C, nonce="99", subscribe=["*", "vip/1"]), now=0.0)
    assert client.session.named(C) == {"vip/1"}
    client.ack(C)
    assert client.session.nacks == {}


def test_the_offender_is_found_and_the_others_live() -> None:
    client = settled()
    names = [f"n{i}" for i in range(8)]
    worse = WEB.with_(C, put=clusters(*names)).with_(E, put=endpoints(*names))
    client.session.publish(2, worse)
    rounds = 0
    while (line := client.hear()) != "-":
        rounds += 1
        if line.startswith("C"):
            bad = "+n5" in line
            client.ack(C, error="one of them is broken" if bad else None)
            client.ask(E, " ".join(set(names) - {"n5"}))
        else:
            client.ack(E)
    assert rounds < 12
    assert [(k, n) for k, n in client.session.nacks] == [(C, "n5")]
    assert client.session.nacks[C, "n5"].detail == "one of them is broken"
    assert client.session.acked == 2
    client.session.publish(3, worse.with_(C, put=clusters("n5", version="2")))
    assert client.hear() == "C +n5"
    client.ack(C)
    assert client.session.nacks == {}


def test_a_name_in_the_complaint_is_suspected_first() -> None:
    client = settled()
    client.session.publish(2, WEB.with_(C, put=clusters("x", "y", "z")).with_(E, put=endpoints("x", "y", "z")))
    assert client.hear() == "C +x +y +z"
    client.nack(C, "Error adding/updating cluster(s) y: no")
    assert client.session.acked == 1
    assert client.hear() == "C +x +z"
    client.ack(C)
    assert client.session.acked == 1
    assert client.hear() == "C +y"
    client.nack(C, "no")
    assert set(client.session.nacks) == {(C, "y")}


def test_what_may_have_been_taken_from_a_refused_response_is_taken_back() -> None:
    client = settled()
    client.session.publish(2, WEB.with_(C, put=clusters("x", "y")).with_(E, put=endpoints("x", "y")))
    assert client.hear() == "C +x +y"
    client.session.publish(3, WEB)
    client.nack(C, "y: no")
    assert client.hear() == "C -x -y"


def test_a_refused_change_keeps_what_the_last_good_one_needs() -> None:
    client = settled()
    client.session.publish(
        2, WEB.with_(R, put=[res(R, "r", "2", (C, "b"))]).with_(C, remove=["a"]).with_(E, remove=["a"])
    )
    assert client.hear() == "R +r"
    client.nack(R, "no")
    assert client.hear() == "-"  # r still leads to a
    assert client.session.acked == 2
    client.session.publish(3, WEB.with_(R, put=[res(R, "r", "3")]).with_(C, remove=["a"]).with_(E, remove=["a"]))
    assert client.hear() == "R +r"
    client.ack(R)
    assert client.hear() == "C -a"


def test_the_last_good_ones_needs_are_known_across_streams() -> None:
    client = settled()
    refused = WEB.with_(R, put=[res(R, "r", "2", (C, "b"))]).with_(C, remove=["a"]).with_(E, remove=["a"])
    again = Client(Session(on_demand=("vip/",), heir_of=client.session))
    again.session.publish(2, refused)
    again.ask(C, had={"a": "1", "b": "1"})
    again.ask(L, had={"l": "1"})
    again.ask(R, "r", had={"r": "1"})
    again.ask(E, "a b", had={"a": "1.1", "b": "1.1"})
    assert again.hear() == "R +r"
    again.nack(R, "no")
    assert again.hear() == "-"


def test_trying_again() -> None:
    client = settled()
    client.session.publish(2, WEB.with_(L, put=[res(L, "m")]))
    assert client.hear() == "L +m"
    client.nack(L, "address in use")
    assert client.hear() == "-"
    client.session.release(L, "other")
    assert client.hear() == "-"
    client.session.release(L, "m")
    assert client.hear() == "L +m"
    client.nack(L, "address in use")
    # When another listener goes, its address may have been the one.
    client.session.publish(3, WEB.with_(L, put=[res(L, "m")], remove=["l"]))
    assert client.hear() == "L -l"
    client.ack(L)
    assert client.hear() == "L +m"


def test_names_on_demand() -> None:
    vips = WEB.with_(C, put=clusters("vip/1")).with_(E, put=endpoints("vip/1"))
    client = connected(vips)
    assert client.hear() == "C +a +b"  # not vip/1
    client.ack(C)
    assert client.ask(C, "* vip/1") == set()
    assert client.hear() == "C +vip/1"  # at once, although the listener's turn has not come
    client.ack(C)
    assert client.ask(C, "vip/2") == {"vip/2"}
    assert client.hear() == "-"  # the owner may make it
    client.session.refuse(C, ["vip/2"])
    assert client.hear() == "C -vip/2"
    client.ack(C)
    client.session.publish(2, vips.with_(C, put=clusters("vip/2")).with_(E, put=endpoints("vip/2")))
    assert client.hear() == "C +vip/2"  # still subscribed


def test_a_name_that_nobody_makes_is_refused_in_the_end() -> None:
    client = connected(WEB, hold=5.0, patience=9.0)
    client.settle()
    client.ask(C, "* vip/2")
    client.session.tick(4.9)
    assert client.hear() == "-"
    assert client.session.waiting
    client.session.tick(5.0)
    assert client.hear() == "C -vip/2"


def test_endpoints_are_always_answered() -> None:
    client = settled()
    assert client.ask(E, "nobody") == {"nobody"}
    assert client.hear() == "E -nobody"
    client.ack(E)
    client.session.publish(2, WEB.with_(E, put=endpoints("nobody")))
    assert client.hear() == "E +nobody"


def test_a_repeated_subscription_is_answered_again() -> None:
    client = settled()
    client.ask(E, "a")
    assert client.hear() == "E +a"
    client.ack(E)
    client.ask(E, "nobody")
    client.settle()
    client.ask(E, "nobody")
    assert client.hear() == "E -nobody"


def test_unsubscribing_under_the_wildcard_is_answered() -> None:
    client = settled()
    client.ask(C, "* a vip/1")
    client.session.refuse(C, ["vip/1"])
    client.settle()
    client.ask(C, drop="a vip/1 phantom")
    assert client.hear() == "C +a -vip/1"
    client.ack(C)
    assert client.hear() == "-"


def test_an_empty_wildcard_is_answered_so_that_envoy_goes_on() -> None:
    client = connected(Snapshot())
    assert client.hear() == "C"
    client.ack(C)
    assert client.hear() == "L"
    client.ack(L)
    assert client.hear() == "-"
    assert client.session.acked == 1


def test_nothing_is_said_before_the_first_snapshot() -> None:
    client = connected()
    client.ask(E, "a")
    assert client.hear() == "-"
    client.session.publish(1, WEB)
    assert client.hear() == "C +a +b"
    assert client.hear() == "E +a"


def test_a_reconnect_is_a_difference_with_removals() -> None:
    client = Client(Session(on_demand=("vip/",)))
    client.ask(C, "* vip/1", had={"a": "1", "b": "old", "gone": "1", "vip/1": "1"})
    client.ask(L, had={"l": "1"})
    client.ask(E, "a b vip/1", had={"a": "1.1", "b": "1.old", "vip/1": "1.1"})
    client.ask(R, "r", had={"r": "1"})
    client.session.publish(1, WEB)
    assert client.hear() == "C +b"
    client.ack(C)
    assert client.hear() == "E +b"
    client.ack(E)
    assert client.hear() == "-"  # who knows what the client is still about to say that it has
    client.session.tick(0.5)
    assert client.hear() == "C -gone"  # vip/1 may still be made
    client.ack(C)
    assert client.hear() == "-"
    client.session.tick(10.0)
    assert client.hear() == "C -vip/1"
    client.ack(C)
    assert client.hear() == "E -vip/1"


def test_a_client_that_never_asks_for_what_it_needs_does_not_stop_the_rest() -> None:
    client = connected(WEB, patience=2.0)
    client.settle()
    assert client.session.acked == 0
    client.session.tick(2.0)
    assert client.settle() == ["L +l"]
    client.session.tick(2.0)
    assert client.session.acked == 1


def test_thousands_of_listeners_go_in_portions_the_process_own_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta, "MOST_LISTENERS", 2)
    names = ("egress/a", "egress/b", "egress/c", "inbound")
    client = connected(Snapshot.of({L: [res(L, name) for name in names]}))
    assert [client.hear(), client.hear()] == ["C", "L +egress/a +inbound"]
    client.ack(C)
    client.ack(L)
    assert client.session.acked == 0
    assert client.settle() == ["L +egress/b +egress/c"]
    assert client.session.acked == 1
