"""What the keys under the prefix say."""

from __future__ import annotations

import msgspec
import pytest

from discovery.consul.lock import Holder, Seen, read_keys

KEY = "isthmus/dc1/leader"


def key(name: str, value: bytes, session: str = "s") -> dict[str, object]:
    return {"Key": name, "Value": value, "Session": session}


def said(cluster: str, agent: str = "h/1") -> bytes:
    return msgspec.json.encode(Holder(cluster=cluster, agent=agent, epoch=3))


@pytest.mark.parametrize(
    ("found", "seen"),
    [
        (None, Seen()),
        ([key(KEY, said("dc1"))], Seen(holder=Holder(cluster="dc1", agent="h/1", epoch=3))),
        ([key(KEY, said("dc1"), session="")], Seen()),  # nobody holds it any more
        ([key("isthmus/east/leader", said("east")), key("isthmus/b/leader", said("b"))], Seen(others=("b", "east"))),
        ([key("isthmus/east/leader", b"garbage"), key("isthmus/other", said("x"))], Seen()),
    ],
)
def test_read_keys(found: list[dict[str, object]] | None, seen: Seen) -> None:
    assert read_keys(found, key=KEY) == seen
