"""What a catalog's changes come to, played against a catalog that only remembers."""

from __future__ import annotations

import random
from typing import Any

from clusters.consulchurn import Churn
from clusters.consulclient import ConsulClient

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

    def seen(self) -> dict[str, set[tuple[str, int, bool, int]]]:
        found: dict[str, set[tuple[str, int, bool, int]]] = {}
        for key, told in self.services.items():
            one = (told["Address"], told["Port"], self.checks[key] == "passing", told["Weights"]["Passing"])
            found.setdefault(told["Service"], set()).add(one)
        return found


async def test_what_is_expected_is_what_the_operations_come_to() -> None:
    churn, catalog = Churn(random.Random(1), services=5, instances=20, nodes=3, meta={"a": "b"}), Remembering()
    await churn.fill(catalog)
    assert len(catalog.services) == 20
    first = catalog.seen()
    assert first == churn.expected()
    assert {len(copies) for copies in first.values()} == {4}
    assert all(told["Meta"] == {"a": "b"} for told in catalog.services.values())
    for _ in range(500):
        await catalog.transact(churn.change())
        assert catalog.seen() == churn.expected()
    assert churn.expected() != first


async def test_changes_are_counted() -> None:
    churn, catalog = Churn(random.Random(1), services=5, instances=20), Remembering()
    await churn.fill(catalog)
    made = await churn.run(catalog, rate=1000, seconds=0.05)
    assert 0 < made <= 51
