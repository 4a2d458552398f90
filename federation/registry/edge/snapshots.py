"""Turns what a builder changed into the next snapshot; only what changed is serialised and hashed."""

from __future__ import annotations

from federation.envoy.ledger import Changes
from federation.xds.snapshot import Resource, Snapshot, TypeUrl


def apply(snapshot: Snapshot, changes: Changes) -> Snapshot:
    """`snapshot` with `changes`; raises InvalidInput for a resource that names itself differently."""
    for kind in TypeUrl:
        put = changes.put.get(kind, {})
        removed = changes.removed.get(kind, frozenset())
        if put or removed:
            old = snapshot.table(kind)
            made = [Resource.of(name, message) for name, message in put.items()]
            snapshot = snapshot.with_(kind, put=made, remove=[name for name in removed if name in old])
    return snapshot
