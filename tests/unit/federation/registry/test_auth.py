"""Who calls, by SPIFFE ID."""

from __future__ import annotations

from typing import Any

import pytest

from federation.errors import Denied
from federation.model.ids import SpiffeId
from federation.registry.auth import ClusterCaller, OperatorCaller, identify, require_cluster, require_operator

AGENT = "/ns/isthmus-system/sa/agent"


@pytest.mark.parametrize(
    ("domain", "path", "caller"),
    [
        ("demo.test", "/operator/anna", OperatorCaller("anna")),
        ("east.demo.test", AGENT, ClusterCaller("east")),
        ("east.demo.test", "/ns/isthmus-system/sa/gateway", None),
        ("east.demo.test", AGENT + "/x", None),
        ("east.demo.test", "/operator/anna", None),
        ("demo.test", AGENT, None),
        ("demo.test", "/ns/isthmus-system/sa/registry", None),
        ("demo.test", "/operator/anna/b", None),
        ("demo.test", "/operator", None),
        ("west.demo.test", AGENT, None),
        ("east.other.test", AGENT, None),
        ("x.east.demo.test", AGENT, None),
        ("east", AGENT, None),
    ],
)
def test_identify(claims: Any, domain: str, path: str, caller: object) -> None:
    members = {"east": claims("east").member()}
    spiffe_id = SpiffeId(domain, path)
    if caller is not None:
        assert identify(spiffe_id, federation="demo.test", members=members) == caller
        return
    with pytest.raises(Denied) as caught:
        identify(spiffe_id, federation="demo.test", members=members)
    assert caught.value.error_code == "not_authorised"


def test_roles() -> None:
    assert require_cluster(ClusterCaller("east")) == "east"
    assert require_operator(OperatorCaller("anna")) == "anna"
    with pytest.raises(Denied):
        require_cluster(OperatorCaller("anna"))
    with pytest.raises(Denied):
        require_operator(ClusterCaller("east"))
