"""What a catalog's changes come to, played against a catalog that only remembers."""

from __future__ import annotations

import random
from typing import Any

from clusters.consulchurn import Churn, Seen, imported
from clusters.consulclient import ConsulClient
from federation.model.ids import ServiceName
from federation.model.service import Backend, Endpoint, Import

Key = tuple[str, str]


class Remembering(ConsulClient):
    """A catalog: services by node and ID, and the status of their checks."""

    def __init__(self) -> None:
        self.services: dict[Key, dict[str, Any]] = {}
        self.checks: dict[Key, str] = {}

    async def put(self, path: str, body: Any = None, **query: object) -> Any:
        for operation in body:
            ((kind, told),) = operation.items()
            if kind == "Service":
                key = (told["Node"], told["Service"]["ID"])
                if told["Verb"] == "delete":
                    del self.services[key], self.checks[key]
                else:
                    self.services[key] = told["Service"]
            elif kind == "Check":
                key = (told["Check"]["Node"], told["Check"]["ServiceID"])
                assert key in self.services, "a check without its service"
                self.checks[key] = told["Check"]["Status"]

    def seen(self) -> Seen:
        found: Seen = {}
        for key, told in self.services.items():
            weight = told["Weights"]["Passing"] if self.checks[key] == "passing" else 0
            one = (told["Address"], told["Port"], weight)
            found.setdefault(told["Service"], set()).add(one)
        return found


async def test_what_is_expected_is_what_the_operations_come_to() -> None:
    churn, catalog = (
        Churn(random.Random(1), services=5, instances=20, nodes=3, away=0.1, meta={"a": "b"}),
        Remembering(),
    )
    await churn.fill(catalog)
    assert len(catalog.services) == 20
    first = catalog.seen()
    assert first == churn.expected()
    assert {len(copies) for copies in first.values()} == {4}
    assert all(told["Meta"] == {"a": "b"} for told in catalog.services.values())
    counts = set()
    for _ in range(500):
        await catalog.transact(churn.change())
        assert catalog.seen() == churn.expected()
        failing = sum(status == "critical" for status in catalog.checks.values())
        counts.add((20 - len(catalog.services), failing))
    # Of 20, a tenth may be gone and a tenth may fail.
    assert [max(column) for column in zip(*counts, strict=True)] == [2, 2]
    assert {one.weight for one in churn.instances} > {1, 2}


def test_imports_are_compared_by_what_can_be_called() -> None:
    copies = (
        Endpoint(address="10.0.0.1", ports={80: 20001}, weight=3),
        Endpoint(address="10.0.0.2", ports={80: 20002}, ready=False),
    )
    mine = Backend(cluster="dc1", local=True, endpoints=copies)
    other = Backend(cluster="east", readiness=())
    found = imported([Import(name=ServiceName("shop", "s1"), backends=(mine, other))], "dc1")
    assert found == {"s1": {("10.0.0.1", 20001, 3), ("10.0.0.2", 20002, 0)}}


async def test_changes_are_counted() -> None:
    churn, catalog = Churn(random.Random(1), services=5, instances=20), Remembering()
    await churn.fill(catalog)
    made = await churn.run(catalog, rate=1000, seconds=0.05)
    assert 0 < made <= 51
