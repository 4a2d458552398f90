"""Whether a snapshot hangs together: what one resource names, another one is.

Arrives: a snapshot that is about to be published. Leaves: nothing, or InconsistentSnapshot with the first few faults;
the server then keeps the last good one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from federation.xds.snapshot import InconsistentSnapshot, Snapshot, TypeUrl

ON_DEMAND = ("vip/", "egress/", "in-http/", "in-tcp/", "in-health/")
_SHOWN = 5


def check(
    snapshot: Snapshot,
    *,
    on_demand: Sequence[str] = ON_DEMAND,
    static: frozenset[str] = frozenset(),
    previous: Snapshot | None = None,
) -> None:
    """Raise InconsistentSnapshot when a reference leads nowhere.

    Clusters whose names start with one of `on_demand` may come later; those in `static` stand in the bootstrap.
    `previous` was found good under the same rules: then only what differs is looked at.
    """
    faults = []
    for fault in _faults(snapshot, previous or Snapshot(), tuple(on_demand), static):
        faults.append(fault)
        if len(faults) > _SHOWN:
            faults[_SHOWN:] = ["…"]
            break
    if faults:
        raise InconsistentSnapshot("; ".join(faults), hint="the last good configuration stays in force")


def _faults(
    snapshot: Snapshot, previous: Snapshot, on_demand: tuple[str, ...], static: frozenset[str]
) -> Iterator[str]:
    # A reference that was good goes bad only when its target leaves.
    touched = snapshot.touched_since(previous)
    if touched is None:
        lost = any(previous.table(kind).keys() - snapshot.table(kind).keys() for kind in TypeUrl)
    else:
        lost = any(
            name in previous.table(kind) and name not in snapshot.table(kind)
            for kind, names in touched.items()
            for name in names
        )
    for kind in TypeUrl:
        before, now = previous.table(kind), snapshot.table(kind)
        looked_at = now.keys() if lost or touched is None else touched.get(kind, frozenset())
        for name in looked_at:
            resource = now.get(name)
            if resource is None or (not lost and before.get(name) is resource):
                continue
            for reference in resource.references:
                if reference.name in snapshot.tables.get(TypeUrl(reference.kind), ()):
                    continue
                wanted = TypeUrl(reference.kind)
                if wanted is TypeUrl.CLUSTER and (reference.name in static or reference.name.startswith(on_demand)):
                    continue
                yield f"the {kind.label} {name!r} needs the {wanted.label} {reference.name!r}, which is missing"
