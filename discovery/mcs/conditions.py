"""The conditions of ServiceExports and ServiceImports (KEP-1645, multicluster.x-k8s.io/v1beta1): pure decisions.

Arrives: what is known of an export or an import. Leaves: the conditions as they should stand in its status.
discovery.mcs.plan compares them with those that are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from msgspec.structs import replace

from discovery.kube.types import Condition
from federation.model.cluster import Problem
from federation.model.service import FieldConflict, Port

MAX_MESSAGE = 4_000
"""Characters; the API takes 32768, and nobody reads so many."""


class State(NamedTuple):
    """What a condition says, whenever that came to be so."""

    type: str
    status: str
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFacts:
    """What decides the conditions of a ServiceExport.

    `refused`: why the source does not offer the service; `rejected`: why the registry does not take it; `published`:
    the registry has it as it is now; `uncallable`: why nobody could call it even so; `uncarried`: its ports that are
    shown and not carried. `conflicts` are those of the merged import, the same at every exporter.
    """

    refused: Problem | None = None
    rejected: Problem | None = None
    published: bool = False
    uncallable: str = ""
    uncarried: tuple[Port, ...] = ()
    conflicts: tuple[FieldConflict, ...] = ()


def export_states(facts: ExportFacts, held: Mapping[str, Condition], *, generation: int) -> tuple[State, ...]:
    """Valid, Ready and, for an export that is valid, Conflict."""
    if facts.refused is not None:
        valid = State("Valid", "False", _reason(facts.refused.code), _cut(facts.refused.detail))
        return valid, State("Ready", "False", "Failed", "the export is not valid")
    return (
        State("Valid", "True", "Valid", _uncarried(facts.uncarried)),
        _ready(facts, held, generation),
        conflict(facts.conflicts),
    )


def _ready(facts: ExportFacts, held: Mapping[str, Condition], generation: int) -> State:
    if facts.rejected is not None:
        return State("Ready", "False", "Failed", _cut(f"{facts.rejected.code}: {facts.rejected.detail}"))
    if facts.uncallable:
        return State("Ready", "False", "NoGateway", facts.uncallable)
    exported = State("Ready", "True", "Exported")
    if facts.published:
        return exported
    known = held.get("Ready")
    if known is not None and known.status == "True" and known.observed_generation == generation:
        return exported  # an agent that has just begun, or whose registry is away, has not taken it back
    return State("Ready", "False", "Pending", "the registry has not confirmed it yet")


def _uncarried(ports: Sequence[Port]) -> str:
    """Nothing where all are carried: such an export is valid, and yet not all of it can be called."""
    if not ports:
        return ""
    named = ", ".join(f"{port.port}/{port.protocol.value}" for port in ports)
    return _cut(f"{named}: imports show it, gateways and sidecars carry TCP only")


def conflict(conflicts: Sequence[FieldConflict]) -> State:
    """Every reason once, joined by commas; the message says who disagrees on what, and with whom."""
    if not conflicts:
        return State("Conflict", "False", "NoConflicts")
    reasons = ",".join(sorted({c.reason for c in conflicts}))
    return State(
        "Conflict", "True", reasons, _cut("the oldest export counts; " + "; ".join(c.detail for c in conflicts))
    )


def settle(
    states: Iterable[State], held: Mapping[str, Condition], *, now: str, generation: int = 0
) -> tuple[Condition, ...]:
    """Conditions by type; the time of a transition stays where the status does."""
    made = []
    for state in sorted(states):
        known = held.get(state.type)
        since = known.last_transition_time if known is not None and known.status == state.status else ""
        made.append(Condition(*state, since or now, generation))
    return tuple(made)


def same(wanted: Iterable[Condition], held: Mapping[str, Condition]) -> bool:
    """Whether `held` says all that is wanted, and nothing else of what is ours to say."""
    there = {kind: _at(c) for kind, c in held.items() if kind in OURS}
    return there == {c.type: _at(c) for c in wanted}


def _at(condition: Condition) -> Condition:
    return replace(condition, last_transition_time="")


OURS = frozenset({"Valid", "Ready", "Conflict"})
"""Types that we write; others are other controllers'."""

_REASONS = {"no_service": "NoService", "invalid_service_type": "InvalidServiceType"}


def _reason(code: str) -> str:
    """The reason of the MCS API where it has one; otherwise our code as Kubernetes spells reasons."""
    return _REASONS.get(code) or "".join(part.capitalize() for part in code.split("_")) or "Invalid"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 2] + " …"
