"""What an answer means: the service's own, or a gateway's refusal, which its words tell apart. Pure.

The words are those of gateway.inbound and federation.envoy.outbound; tests hold both ends together.
"""

from __future__ import annotations

from dataclasses import dataclass

from discovery.probe.http import Answer

NO_LINK, NOT_PINNED, UNHEARD, NO_GATEWAY = "no_link", "not_pinned", "not_heard_of", "no_gateway"
NO_GRANT, NOT_EXPORTED = "no_grant", "not_exported"
NO_READY_COPY, COPY_UNREACHABLE = "no_ready_copy", "copy_unreachable"
NOT_IMPORTED, NO_EGRESS, EGRESS_UNREACHABLE = "not_imported", "no_egress", "egress_unreachable"
TIMED_OUT, CLOSED, BROKEN = "timed_out", "closed", "broken_answer"
OUTBOUND_ONLY = "outbound_only"
"""Of a gateway that was not dialled, because nobody dials it."""

_WORDS = (
    ("403: your cluster has no grant", NO_GRANT),
    ("421:", NOT_EXPORTED),
    ("has no ready endpoint", NO_READY_COPY),
    ("no cluster has a ready endpoint", NO_READY_COPY),
    ("could be connected to", COPY_UNREACHABLE),
    ("not any more, imported", NOT_IMPORTED),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`code` is empty where the service answered."""

    code: str
    detail: str
    status: int = 0


def judge(answer: Answer) -> Outcome:
    """What an answer to a GET says."""
    if not answer.own_words:
        return Outcome("", f"the service answers {answer.status}", answer.status)
    line = answer.text.strip().removeprefix("isthmus: ")
    code = next((code for words, code in _WORDS if words in line), BROKEN)
    return Outcome(code, f"the gateway answers {line}", answer.status)


def judge_check(answer: Answer) -> Outcome:
    """What a gateway says to a health check of an exported port: whether it is exported to this cluster."""
    if answer.status == 200:
        return Outcome("", "the gateway admits this cluster", 200)
    found = judge(answer)
    if found.code:
        return found
    return Outcome(BROKEN, f"the gateway answers {answer.status} to a health check", answer.status)
