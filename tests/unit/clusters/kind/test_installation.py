"""What is missing of isthmus in the clusters of a topology: a table from what was found to stages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clusters.command import Done
from clusters.kind.installation import REGISTRY, Installed, Step, plan, refusal
from clusters.topology import EAST, EDGE, WEST, Topology

TWO = Topology.full_mesh("t.isthmus", EAST, WEST, name="t")
ALL = frozenset(("agent", "gateway", "injector"))
WHOLE = {"east": ALL | {"registry"}, "west": ALL}
KNOWN = frozenset((REGISTRY, "east", "west"))
LINKED = frozenset((frozenset(("west", "east")),))


def found(**changes: Any) -> Installed:
    return Installed(**{"ready": WHOLE, "known": KNOWN, "links": LINKED, **changes})


@pytest.mark.parametrize(
    ("seen", "stages"),
    [
        pytest.param(found(), [], id="whole"),
        pytest.param(
            Installed(),
            [
                [Step("registry", ("east",))],
                [Step("operator", ("east",))],
                [Step("agent", ("east",)), Step("agent", ("west",))],
                [Step("context", ("east",)), Step("context", ("west",))],
                [
                    *(Step("gateway", (name,)) for name in ("east", "west")),
                    Step("link", ("east", "west")),
                ],
                [Step("webhook", (name,)) for name in ("east", "west")],
            ],
            id="nothing",
        ),
        pytest.param(
            found(ready={**WHOLE, "west": ALL - {"agent"}}),
            [[Step("agent", ("west",))], [Step("context", ("west",))]],
            id="an agent is gone",
        ),
        pytest.param(
            found(ready={**WHOLE, "west": ALL - {"injector"}}), [[Step("webhook", ("west",))]], id="a webhook"
        ),
        pytest.param(found(links=frozenset()), [[Step("link", ("east", "west"))]], id="not linked"),
        pytest.param(
            found(known=frozenset()),
            [[Step("operator", ("east",))], [Step("context", ("east",)), Step("context", ("west",))]],
            id="contexts are lost",
        ),
    ],
)
def test_stages(seen: Installed, stages: list[list[Step]]) -> None:
    assert plan(TWO, seen) == stages


def test_the_registry_is_where_the_topology_says() -> None:
    topology = Topology(federation="t.isthmus", clusters=(EDGE, EAST), links=(), name="t", registry="east")
    assert plan(topology, Installed())[0] == [Step("registry", ("east",))]


def test_what_fedctl_says_keeps_its_code() -> None:
    error = {"error": {"code": "token_spent", "message": "the token was used", "hint": "issue another"}}
    words = ("fedctl", "--home", "/h", "install", "agent")
    found = refusal(Done(words, 5, b"", f"note\n{json.dumps(error)}\n"))
    assert (found.error_code, found.hint) == ("token_spent", "issue another")
    assert found.message == "fedctl install agent: the token was used"
    assert refusal(Done(words, 1, b"", "killed")).error_code == "fedctl_failed"
