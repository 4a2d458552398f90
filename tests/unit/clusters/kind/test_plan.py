"""What `up` does to a cluster: a table from what was found to steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from clusters.kind.config import Wanted, wanted
from clusters.kind.engine import Node, State
from clusters.kind.plan import Found, Step, plan
from clusters.topology import ClusterSpec, NodeSpec, Topology
from federation.errors import AlreadyExists, Conflict
from federation.model.service import Locality

MARK = "isthmus.t"


def want(**nodes: Any) -> Wanted:
    spec = ClusterSpec(name="east", locality=Locality("eu", "eu-1"), nodes=NodeSpec(**nodes))
    return wanted(Topology.full_mesh("test.isthmus", spec, name="t"))["east"]


def node(name: str, state: State = "running", *, mark: str = MARK) -> Node:
    return Node(name=name, cluster="isthmus-t-east", role="", state=state, marks=(mark,), address="172.18.0.2")


CONTROL, WORKER = "isthmus-t-east-control-plane", "isthmus-t-east-worker"
ONE, TWO, NAT = want(), want(workers=1), want(nat=True)
CREATE = [Step("create", (CONTROL,)), Step("wait")]


def whole(one: Wanted, *states: State, **changes: Any) -> Found:
    nodes = tuple(node(n, s) for n, s in zip(one.nodes, states or ("running",) * 9, strict=False))
    return replace(Found(nodes=nodes, made=one.digest, config=True, ready=True, guarded=True, flat=True), **changes)


@pytest.mark.parametrize(
    ("one", "found", "flat", "steps"),
    [
        pytest.param(ONE, Found(), False, CREATE, id="nothing there"),
        pytest.param(
            NAT, Found(), False, [Step("create", (CONTROL,)), Step("wait"), Step("guard")], id="new behind NAT"
        ),
        pytest.param(ONE, Found(), True, [*CREATE, Step("flatten")], id="new and flat"),
        pytest.param(ONE, whole(ONE), False, [], id="as it should be"),
        pytest.param(NAT, whole(NAT), True, [], id="behind NAT and flat, as it should be"),
        pytest.param(
            ONE,
            whole(ONE, made=None),
            False,
            [Step("delete", (CONTROL,), "its making was interrupted"), *CREATE],
            id="interrupted",
        ),
        pytest.param(
            TWO,
            whole(TWO, nodes=(node(CONTROL),)),
            False,
            [Step("delete", (CONTROL,), f"{WORKER} is gone"), Step("create", (CONTROL, WORKER)), Step("wait")],
            id="a worker was removed",
        ),
        pytest.param(
            ONE,
            whole(ONE, "exited", ready=False),
            False,
            [Step("start", (CONTROL,)), Step("export"), Step("wait")],
            id="stopped: its kubeconfig is written anew, too",
        ),
        pytest.param(
            NAT,
            whole(NAT, "exited", ready=False, guarded=False),
            False,
            [Step("start", (CONTROL,)), Step("export"), Step("wait"), Step("guard")],
            id="stopped behind NAT: its rules went with its network",
        ),
        pytest.param(
            TWO,
            whole(TWO, "paused", "exited", ready=False),
            False,
            [Step("unpause", (CONTROL,)), Step("start", (WORKER,)), Step("export"), Step("wait")],
            id="one paused, one stopped",
        ),
        pytest.param(
            ONE, whole(ONE, config=False, ready=False), False, [Step("export"), Step("wait")], id="files lost"
        ),
        pytest.param(ONE, whole(ONE, ready=False), False, [Step("wait")], id="not ready"),
        pytest.param(NAT, whole(NAT, guarded=False), False, [Step("guard")], id="its rules are gone"),
        pytest.param(ONE, whole(ONE, flat=False), True, [Step("flatten")], id="its routes are gone"),
        pytest.param(ONE, whole(ONE, guarded=False, flat=False), False, [], id="rules that nobody wants"),
    ],
)
def test_steps(one: Wanted, found: Found, flat: bool, steps: list[Step]) -> None:
    assert plan(one, found, mark=MARK, flat=flat) == steps


def test_what_is_foreign_is_left_alone() -> None:
    found = whole(ONE, nodes=(node(CONTROL, mark="isthmus.other"),))
    with pytest.raises(AlreadyExists, match="isthmus-t-east that is not of this topology") as caught:
        plan(ONE, found, mark=MARK)
    assert caught.value.error_code == "foreign_cluster"


def test_a_whole_cluster_is_not_made_anew_for_other_settings() -> None:
    with pytest.raises(Conflict, match="east was made with other settings") as caught:
        plan(want(pods="10.7.0.0/16"), whole(ONE), mark=MARK)
    assert caught.value.error_code == "other_settings"


@pytest.mark.parametrize("change", [{"workers": 1}, {"pods": "10.7.0.0/16"}, {"services": "10.8.0.0/16"}])
def test_the_digest_is_of_what_cannot_be_changed(change: dict[str, Any]) -> None:
    assert want(**change).digest != ONE.digest


def test_rules_can_be_changed() -> None:
    assert NAT.digest == ONE.digest
