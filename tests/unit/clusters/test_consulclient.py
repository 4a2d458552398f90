"""What Consul's refusals are to us, and how many operations go together."""

from __future__ import annotations

from typing import Any

import pytest

from clusters.consulclient import MOST_OPERATIONS, Answer, ConsulClient, check, node, refused, service
from federation.errors import Conflict, Denied, InvalidInput, NotFound, Unavailable


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, InvalidInput), (403, Denied), (404, NotFound), (409, Conflict), (429, Unavailable), (500, Unavailable)],
)
def test_refusals_by_their_status(status: int, kind: type) -> None:
    error = refused(status, "GET /v1/x", b"why it is\n")
    assert type(error) is kind
    assert error.message == f"GET /v1/x: {status} why it is"


def test_the_index_is_where_a_query_goes_on() -> None:
    assert Answer([], {"Index": "17"}).index == 17
    assert Answer([], {}).index == 0


async def test_a_transaction_has_no_more_operations_than_consul_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[list[Any]] = []

    async def put(self: ConsulClient, path: str, body: Any = None, **query: object) -> None:
        assert path == "/v1/txn"
        sent.append(body)

    monkeypatch.setattr(ConsulClient, "put", put)
    operations = [node(f"n{number}", "10.0.0.1") for number in range(MOST_OPERATIONS + 1)]
    await ConsulClient(None, "").transact(operations)  # type: ignore[arg-type]
    assert [len(one) for one in sent] == [MOST_OPERATIONS, 1]
    assert [one for part in sent for one in part] == operations


def test_an_instance_and_its_check_belong_together() -> None:
    made = service("n1", "web", port=80, ID="web-1", Tags=["a"])["Service"]
    assert made == {
        "Verb": "set",
        "Node": "n1",
        "Service": {"ID": "web-1", "Service": "web", "Port": 80, "Tags": ["a"]},
    }
    checked = check("n1", "web-1", "critical")["Check"]["Check"]
    assert (checked["Node"], checked["ServiceID"], checked["Status"]) == ("n1", "web-1", "critical")
