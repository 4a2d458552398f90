"""What is applied and what goes."""

from __future__ import annotations

from typing import Any

import pytest

from discovery.kube.objects import Name
from federation.cli.chart.source import Release, chart
from federation.cli.installation.plan import check_owner, plan, removable
from federation.cli.installation.request import documents
from federation.errors import Conflict

ALL = {
    "cluster": "east",
    "federation": "example.isthmus",
    "namespace": {"create": True},
    **{key: {"enabled": True} for key in ("registry", "agent", "gateway", "injector")},
}


def names(values: dict[str, Any]) -> list[Name]:
    return [Name.of(one) for one in documents(chart(), values, Release())]


def held(*managers: str, **annotations: str) -> dict[str, Any]:
    fields = [{"manager": manager, "operation": "Apply"} for manager in managers]
    return {"metadata": {"name": "x", "managedFields": fields, "annotations": annotations or None}}


def test_components_come_in_the_order_of_an_upgrade_and_what_is_referred_to_comes_first() -> None:
    made = plan(documents(chart(), ALL, Release()), held=())
    assert [wave.title for wave in made.waves] == ["", "registry", "agent", "gateway", "webhook"]
    assert made.waves[0].documents[0]["kind"] == "Namespace"
    for wave in made.waves[1:]:
        kinds = [one["kind"] for one in wave.documents]
        assert kinds.index("ConfigMap") < kinds.index("Service")
        workload = "StatefulSet" if wave.title == "registry" else "Deployment"
        assert kinds.index("Service") < kinds.index(workload)
        assert [one.kind for one in wave.workloads] == [workload]
    assert made.waves[-1].documents[-1]["kind"] == "MutatingWebhookConfiguration"
    assert made.names == set(names(ALL))
    assert not made.gone


def test_what_is_no_longer_wanted_goes_the_other_way_round() -> None:
    before = names(ALL)
    rest = {**ALL, "injector": {"enabled": False}}
    made = plan(documents(chart(), rest, Release()), held=before)
    assert set(made.gone) == set(before) - set(names(rest))
    assert made.gone[0].kind == "MutatingWebhookConfiguration"
    assert made.gone[-1].kind == "ServiceAccount"


def test_what_is_to_be_kept_stays_if_it_was_there() -> None:
    join, other = Name("Secret", "isthmus-system", "isthmus-join"), Name("Secret", "isthmus-system", "other")
    made = plan((), held=[join, other], keep=[join, Name("Secret", "isthmus-system", "never")])
    assert (made.gone, made.kept) == ((other,), {join})


def test_nothing_goes_that_nobody_made() -> None:
    assert plan((), held=()).gone == ()


@pytest.mark.parametrize(
    ("there", "code"),
    [
        (held("isthmus-install"), ""),
        (held("kubectl-edit", "isthmus-install"), ""),
        (held("kubectl"), "not_ours"),
        (held(), "not_ours"),
        (held("helm", **{"meta.helm.sh/release-name": "mesh"}), "managed_by_helm"),
    ],
)
def test_what_others_have_made_is_not_written(there: dict[str, Any], code: str) -> None:
    name = Name("Service", "isthmus-system", "isthmus-agent")
    assert removable(there) == (not code)
    if not code:
        check_owner(name, there)
        return
    with pytest.raises(Conflict, match="Service isthmus-system/isthmus-agent") as it:
        check_owner(name, there)
    assert it.value.error_code == code
