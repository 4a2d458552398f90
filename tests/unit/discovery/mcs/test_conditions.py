"""Conditions of exports, as a table of facts and what they come to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.kube.types import Condition
from discovery.mcs.conditions import ExportFacts, State, conflict, export_states, same, settle
from federation.model.cluster import Problem
from federation.model.service import FieldConflict, Port, Protocol

THEN, NOW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
EXPORTED = Condition("Ready", "True", "Exported", "", THEN, 3)

BOTH = (FieldConflict("TypeConflict", "b"), FieldConflict("PortConflict", "a"))
REASONS = (
    "PortConflict",
    "TypeConflict",
    "SessionAffinityConflict",
    "SessionAffinityConfigConflict",
    "LabelsConflict",
    "AnnotationsConflict",
    "InternalTrafficPolicyConflict",
    "TrafficDistributionConflict",
    "IPFamilyConflict",
)


def test_a_valid_export_says_what_of_it_is_not_carried() -> None:
    ports = (Port(name="dns", port=53, protocol=Protocol.UDP), Port(name="sig", port=7, protocol=Protocol.SCTP))
    valid, *_ = export_states(ExportFacts(published=True, uncarried=ports), {}, generation=1)
    assert valid == ("Valid", "True", "Valid", "53/UDP, 7/SCTP: imports show it, gateways and sidecars carry TCP only")


@pytest.mark.parametrize(
    ("facts", "held", "expected"),
    [
        (
            ExportFacts(published=True),
            {},
            {"Valid": ("True", "Valid"), "Ready": ("True", "Exported"), "Conflict": ("False", "NoConflicts")},
        ),
        (
            ExportFacts(),
            {},
            {"Valid": ("True", "Valid"), "Ready": ("False", "Pending"), "Conflict": ("False", "NoConflicts")},
        ),
        # an agent that has just begun does not take back what is known of this generation …
        (
            ExportFacts(),
            {"Ready": EXPORTED},
            {"Valid": ("True", "Valid"), "Ready": ("True", "Exported"), "Conflict": ("False", "NoConflicts")},
        ),
        # … but of another one it does
        (
            ExportFacts(),
            {"Ready": Condition("Ready", "True", "Exported", "", THEN, 2)},
            {"Valid": ("True", "Valid"), "Ready": ("False", "Pending"), "Conflict": ("False", "NoConflicts")},
        ),
        (
            ExportFacts(refused=Problem("no_service", "x", "there is no such Service")),
            {"Ready": EXPORTED},
            {"Valid": ("False", "NoService"), "Ready": ("False", "Failed")},
        ),
        (
            ExportFacts(refused=Problem("invalid_service_type", "x", "ExternalName")),
            {},
            {"Valid": ("False", "InvalidServiceType"), "Ready": ("False", "Failed")},
        ),
        (
            ExportFacts(refused=Problem("unsupported_protocol", "x", "SCTP")),
            {},
            {"Valid": ("False", "UnsupportedProtocol"), "Ready": ("False", "Failed")},
        ),
        (
            ExportFacts(rejected=Problem("quota_exceeded", "x", "too many")),
            {"Ready": EXPORTED},
            {"Valid": ("True", "Valid"), "Ready": ("False", "Failed"), "Conflict": ("False", "NoConflicts")},
        ),
        (
            ExportFacts(
                published=True, conflicts=(FieldConflict("TypeConflict", "b"), FieldConflict("PortConflict", "a"))
            ),
            {},
            {
                "Valid": ("True", "Valid"),
                "Ready": ("True", "Exported"),
                "Conflict": ("True", "PortConflict,TypeConflict"),
            },
        ),
    ],
)
def test_states(facts: ExportFacts, held: dict[str, Condition], expected: dict[str, tuple[str, str]]) -> None:
    states = export_states(facts, held, generation=3)
    assert {s.type: (s.status, s.reason) for s in states} == expected


@given(st.lists(st.builds(FieldConflict, st.sampled_from(REASONS), st.text(max_size=400)), min_size=1, max_size=40))
def test_a_conflict_names_every_reason_once_and_fits_the_api(conflicts: list[FieldConflict]) -> None:
    state = conflict(conflicts)
    assert state.status == "True"
    assert state.reason.split(",") == sorted({c.reason for c in conflicts})
    assert len(state.reason) <= 1024
    assert len(state.message) <= 32768


def test_the_time_of_a_transition_stays_where_the_status_does() -> None:
    held = {"Ready": EXPORTED, "Valid": Condition("Valid", "False", "NoService", "x", THEN, 3)}
    made = settle([State("Ready", "True", "Exported", "again"), State("Valid", "True", "Valid")], held, now=NOW)
    assert {c.type: c.last_transition_time for c in made} == {"Ready": THEN, "Valid": NOW}


def test_same() -> None:
    wanted = settle([State("Ready", "True", "Exported")], {}, now=NOW, generation=3)
    assert same(wanted, {"Ready": EXPORTED})
    assert same(wanted, {"Ready": EXPORTED, "Programmed": Condition("Programmed", "True", "Foreign")})
    assert not same(wanted, {"Ready": EXPORTED, "Conflict": Condition("Conflict", "False", "NoConflicts")})
    assert not same(wanted, {})
