"""Whether a snapshot hangs together: what one resource names, another one is.

Arrives: a snapshot that is about to be published. Leaves: nothing, or InconsistentSnapshot with the first few faults;
the server then keeps the last good one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from federation.xds.snapshot import InconsistentSnapshot, Snapshot, TypeUrl

ON_DEMAND = ("vip/", "in-tcp/")
_SHOWN = 5


def check(snapshot: Snapshot, *, on_demand: Sequence[str] = ON_DEMAND, static: frozenset[str] = frozenset()) -> None:
    """Raise InconsistentSnapshot when a reference leads nowhere.

    Clusters whose names start with one of `on_demand` may come later; those in `static` stand in the bootstrap.
    """
    faults = []
    for fault in _faults(snapshot, tuple(on_demand), static):
        faults.append(fault)
        if len(faults) > _SHOWN:
            faults[_SHOWN:] = ["…"]
            break
    if faults:
        raise InconsistentSnapshot("; ".join(faults), hint="the last good configuration stays in force")


def _faults(snapshot: Snapshot, on_demand: tuple[str, ...], static: frozenset[str]) -> Iterator[str]:
    for kind in TypeUrl:
        for name, resource in snapshot.table(kind).items():
            for reference in resource.references:
                wanted = TypeUrl(reference.kind)
                if reference.name in snapshot.table(wanted):
                    continue
                if wanted is TypeUrl.CLUSTER and (reference.name in static or reference.name.startswith(on_demand)):
                    continue
                yield f"the {kind.label} {name!r} needs the {wanted.label} {reference.name!r}, which is missing"
