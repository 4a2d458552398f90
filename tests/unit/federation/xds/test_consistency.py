from __future__ import annotations

import pytest

from federation.xds.consistency import check
from federation.xds.references import Reference
from federation.xds.snapshot import InconsistentSnapshot, Resource, Snapshot, TypeUrl


def resource(kind: TypeUrl, name: str, *references: tuple[TypeUrl, str]) -> Resource:
    found = frozenset(Reference(k.value, n) for k, n in references)
    return Resource(kind=kind, name=name, version="1", body=b"", references=found)


def snapshot(*resources: Resource) -> Snapshot:
    return Snapshot.of({kind: [r for r in resources if r.kind is kind] for kind in TypeUrl})


CLUSTER = resource(TypeUrl.CLUSTER, "a", (TypeUrl.ENDPOINT, "a"), (TypeUrl.SECRET, "identity"))
ENDPOINT = resource(TypeUrl.ENDPOINT, "a")
SECRET = resource(TypeUrl.SECRET, "identity")
ROUTE = resource(TypeUrl.ROUTE, "r", (TypeUrl.CLUSTER, "a"))
LISTENER = resource(TypeUrl.LISTENER, "l", (TypeUrl.ROUTE, "r"))
WHOLE = (CLUSTER, ENDPOINT, SECRET, ROUTE, LISTENER)


def test_a_whole_snapshot_is_good() -> None:
    check(snapshot(*WHOLE))
    check(Snapshot())


@pytest.mark.parametrize("missing", [CLUSTER, ENDPOINT, SECRET, ROUTE])
def test_each_reference_must_lead_somewhere(missing: Resource) -> None:
    with pytest.raises(InconsistentSnapshot, match=f"needs the {missing.kind.label} '{missing.name}'"):
        check(snapshot(*(r for r in WHOLE if r is not missing)))


def test_some_clusters_come_later_or_stand_elsewhere() -> None:
    lone = snapshot(resource(TypeUrl.ROUTE, "r", (TypeUrl.CLUSTER, "vip/1"), (TypeUrl.CLUSTER, "isthmus-ads")))
    check(lone, static=frozenset({"isthmus-ads"}))
    with pytest.raises(InconsistentSnapshot, match="isthmus-ads"):
        check(lone)
    with pytest.raises(InconsistentSnapshot, match="vip/1"):
        check(lone, on_demand=(), static=frozenset({"isthmus-ads"}))


@pytest.mark.parametrize("missing", [CLUSTER, ENDPOINT, SECRET, ROUTE])
def test_what_was_good_before_is_looked_at_again_when_something_leaves(missing: Resource) -> None:
    before = snapshot(*WHOLE)
    check(before, previous=before)
    with pytest.raises(InconsistentSnapshot, match=missing.name):
        check(before.with_(missing.kind, remove=[missing.name]), previous=before)
    with pytest.raises(InconsistentSnapshot, match="nowhere"):
        check(
            before.with_(TypeUrl.ROUTE, put=[resource(TypeUrl.ROUTE, "s", (TypeUrl.CLUSTER, "nowhere"))]),
            previous=before,
        )


def test_the_report_stays_short() -> None:
    many = [resource(TypeUrl.LISTENER, f"l{n}", (TypeUrl.ROUTE, "r")) for n in range(100)]
    with pytest.raises(InconsistentSnapshot) as caught:
        check(snapshot(*many))
    assert caught.value.message.count("missing") == 5
    assert caught.value.message.endswith("…")
