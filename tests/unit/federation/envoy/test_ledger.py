from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.wrappers_pb2 import StringValue

from federation.envoy import names
from federation.envoy.ledger import Changes, Ledger, Part, listed, settled
from federation.model.cluster import Bundle, Peer


@dataclass
class Proof:
    chain_pem: bytes = b"chain"
    key_pem: bytes = b"key"


def part(name: str, key: object = 0, kind: str = "k") -> Part:
    return Part(kind, name, key, lambda: StringValue(value=f"{name}={key}"))


def peer(name: str, *roots: bytes, sequence: int = 1) -> Peer:
    bundle = Bundle(trust_domain=f"{name}.test", sequence=sequence, roots=roots)
    return Peer(cluster=name, trust_domain=f"{name}.test", bundle=bundle)


def put(changes: Changes) -> dict[str, set[str]]:
    return {kind: set(made) for kind, made in changes.put.items()}


def test_a_part_is_made_again_only_when_its_key_differs() -> None:
    ledger = Ledger()
    ledger.write("a", [part("x", 1), part("y", 1)])
    assert put(ledger.take()) == {"k": {"x", "y"}}
    ledger.write("a", [part("x", 1), part("y", 2)])
    changes = ledger.take()
    assert put(changes) == {"k": {"y"}}
    assert changes.put["k"]["y"] == StringValue(value="y=2")
    assert not ledger.take()


def test_what_an_owner_no_longer_has_is_gone() -> None:
    ledger = Ledger()
    ledger.write("a", [part("x"), part("y")])
    ledger.take()
    ledger.write("a", [part("y")])
    assert ledger.take().removed == {"k": {"x"}}
    ledger.drop("a")
    ledger.drop("never there")
    assert ledger.take() == Changes({}, {"k": frozenset({"y"})})


def test_a_shared_part_goes_with_the_last_of_its_owners() -> None:
    ledger = Ledger()
    ledger.write("a", [part("x")])
    ledger.write("b", [part("x")])
    ledger.take()
    ledger.drop("a")
    assert not ledger.take()
    ledger.drop("b")
    assert ledger.take().removed == {"k": {"x"}}


def test_what_comes_and_goes_between_two_takes_leaves_no_trace_of_its_coming() -> None:
    ledger = Ledger()
    ledger.write("a", [part("x")])
    ledger.drop("a")
    assert not ledger.take().put
    ledger.write("a", [part("x", 1)])
    ledger.take()
    ledger.drop("a")
    ledger.write("a", [part("x", 1)])
    changes = ledger.take()
    assert put(changes) == {"k": {"x"}}
    assert not changes.removed


def test_finish_makes_of_messages_what_is_kept() -> None:
    ledger = Ledger(lambda name, message: (name, message.ByteSize()))
    ledger.write("a", [part("x")])
    assert ledger.take().put == {"k": {"x": ("x", 5)}}


def test_one_secret_of_trust_for_callers_and_one_for_each_domain_that_is_called() -> None:
    ledger = Ledger()
    peers = [peer("west", b"w"), peer("east", b"e"), peer("empty")]
    ledger.keep_secrets(Proof(), peers)
    assert put(ledger.take()) == {
        names.SECRET_TYPE: {
            "identity",
            "peers",
            "peers/east.test",
            "peers/west.test",
        }  # who has no roots is not believed
    }
    ledger.keep_secrets(Proof(), peers)
    assert not ledger.take()
    ledger.keep_secrets(Proof(chain_pem=b"renewed"), peers)
    assert put(ledger.take()) == {names.SECRET_TYPE: {"identity"}}
    ledger.keep_secrets(Proof(chain_pem=b"renewed"), [peer("west", b"w", b"w2", sequence=2), peer("east", b"e")])
    assert put(ledger.take()) == {names.SECRET_TYPE: {"peers", "peers/west.test"}}
    ledger.keep_secrets(Proof(chain_pem=b"renewed"), [peer("east", b"e")])
    changes = ledger.take()
    assert put(changes) == {names.SECRET_TYPE: {"peers"}}
    assert changes.removed == {names.SECRET_TYPE: {"peers/west.test"}}


def test_settled_is_what_two_updates_come_to() -> None:
    ledger = Ledger()
    asked: list[object] = []

    def updates() -> Iterator[Changes]:
        ledger.write("a", [part("x", 1, names.ENDPOINT_TYPE), part("y", 1)])
        first = ledger.take()
        yield Changes(first.put, first.removed, lambda known, limit: asked.append(sorted(known)) is None)  # type: ignore[call-overload]
        ledger.write("a", [part("x", 2, names.ENDPOINT_TYPE), part("y", 1)])
        yield ledger.take()

    made = updates()
    assert settled(lambda: next(made)) == {
        names.ENDPOINT_TYPE: [("x", StringValue(value="x=2"))],
        "k": [("y", StringValue(value="y=1"))],
    }
    assert asked == [["x"]]
    assert listed({"k": {}}) == {}
