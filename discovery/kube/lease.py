"""The Lease of an agent's replicas, and what one of them does about it: pure.

Times of other machines are never compared: a Lease has run out when *this* replica has seen no change of it for its
whole duration. discovery.kube.elector acts on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from discovery.kube.resources import LEASES
from discovery.kube.types import MANAGER, LeaseObject
from discovery.mcs.held import EPOCH
from discovery.sources.manifests import MANAGED_BY

NAME = "isthmus-agent"
"""Of the Lease."""
REPORT_EPOCH = "isthmus.io/report-epoch"
"""Annotation of the Lease: the newest epoch of the cluster's report to the registry."""
LEFT = "isthmus.io/left"
"""Annotation of the Lease: the fingerprint of the root of a cluster that was taken out of the federation. Replicas with
that root write nothing any more; whoever takes the Lease with another root takes the annotation away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A Lease as it was read, or as it is to be written.

    `epoch` rises whenever another replica becomes the holder, `report_epoch` whenever any becomes it: also the same
    one after a restart, for its report begins anew then. `duration` is in seconds. `acquired` is for people: when the
    holder became it, by its own clock, as a meta/v1 MicroTime; empty for one that is only about to. `left`: see LEFT.
    """

    holder: str
    epoch: int
    report_epoch: int
    duration: float
    transitions: int = 0
    acquired: str = ""
    left: str = ""
    resource_version: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """`duration`: without a renewal for so many seconds it is anybody's. `renew`: seconds between two renewals."""

    duration: float
    renew: float

    @property
    def own(self) -> float:
        """Seconds after a renewal for which the holder believes in it: requests of its last moment are still to
        arrive, and clocks do not run alike."""
        return self.duration * 2 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is to be done: `write` (unless None) now; look again at `at` (monotonic seconds) at the latest."""

    write: State | None
    at: float


def decide(
    seen: State | None,
    changed: float,
    *,
    me: str,
    reporting: int | None,
    rules: Rules,
    now: float,
    least: int,
    wanted: int = 0,
) -> Step:
    """What the replica `me` does about the Lease `seen` (None: there is none), which last changed at `changed`.

    `reporting`: the epoch that it reports with. No new epoch is below `least` (the time of day in seconds), so that
    they rise even when the Lease was deleted. `wanted`: a report epoch that is needed to be heard.
    """
    epoch = max(seen.epoch + 1 if seen else 0, least)
    report = max(seen.report_epoch + 1 if seen else 0, least, wanted)
    if seen is None:
        taken = State(holder=me, epoch=epoch, report_epoch=report, duration=rules.duration)
        return Step(write=taken, at=now + rules.renew)
    if seen.holder == me:
        kept = reporting == seen.report_epoch and wanted <= seen.report_epoch
        if kept and now < changed + rules.renew:
            return Step(write=None, at=changed + rules.renew)
        mine = replace(seen, report_epoch=seen.report_epoch if kept else report, duration=rules.duration)
        return Step(write=mine, at=now + rules.renew)
    expires = changed + seen.duration
    if seen.holder and now < expires:
        return Step(write=None, at=expires)
    taken = replace(
        seen,
        holder=me,
        epoch=epoch,
        report_epoch=report,
        duration=rules.duration,
        transitions=seen.transitions + 1,
        acquired="",
        left="",
    )
    return Step(write=taken, at=now + rules.renew)


# --- the object -------------------------------------------------------------------------------------------------------


def read(found: LeaseObject) -> State:
    """What a Lease says; one that somebody else has edited is as good as free."""
    spec, notes = found.spec, found.metadata.annotations or {}
    return State(
        holder=spec.holder_identity or "",
        epoch=_number(notes.get(EPOCH, "")),
        report_epoch=_number(notes.get(REPORT_EPOCH, "")),
        duration=float(spec.lease_duration_seconds or 0),
        transitions=spec.lease_transitions or 0,
        acquired=spec.acquire_time or "",
        left=notes.get(LEFT, ""),
        resource_version=found.metadata.resource_version,
        uid=found.metadata.uid,
    )


def render(state: State, *, namespace: str, wall_ns: int) -> dict[str, Any]:
    """The Lease as the API has it; its times are for people."""
    metadata: dict[str, Any] = {
        "name": NAME,
        "namespace": namespace,
        "labels": {MANAGED_BY: MANAGER},
        "annotations": {
            EPOCH: str(state.epoch),
            REPORT_EPOCH: str(state.report_epoch),
            **({LEFT: state.left} if state.left else {}),
        },
    }
    if state.resource_version:
        metadata |= {"resourceVersion": state.resource_version, "uid": state.uid}
    return {
        "apiVersion": LEASES.api_version,
        "kind": LEASES.kind,
        "metadata": metadata,
        "spec": {
            "holderIdentity": state.holder,
            "leaseDurationSeconds": math.ceil(state.duration),
            "leaseTransitions": state.transitions,
            "acquireTime": state.acquired or micro_time(wall_ns),
            "renewTime": micro_time(wall_ns),
        },
    }


def micro_time(wall_ns: int) -> str:
    """A meta/v1 MicroTime."""
    return datetime.fromtimestamp(wall_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
