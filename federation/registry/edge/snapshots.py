"""Turns what a builder changed into the next snapshot; what did not change is shared."""

from __future__ import annotations

from federation.envoy.ledger import Changes
from federation.xds.snapshot import Snapshot, TypeUrl


def apply(snapshot: Snapshot, changes: Changes) -> Snapshot:
    """`snapshot` with `changes` of a builder that finishes its messages with `Resource.of`."""
    for kind in TypeUrl:
        put = changes.put.get(kind, {})
        removed = changes.removed.get(kind, frozenset())
        if put or removed:
            old = snapshot.table(kind)
            snapshot = snapshot.with_(kind, put=put.values(), remove=[name for name in removed if name in old])
    return snapshot
