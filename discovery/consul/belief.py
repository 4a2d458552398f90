"""Whether what was read may be believed. Pure.

Without doubt, a list is whole: what it lacks is gone, subject to discovery.sources.removals. A list that ACLs have
filtered is true in what it says, and says nothing of what it lacks. So is one that was streamed: Consul does not say of
it whether it was filtered. An answer of a server that has no leader, or has not heard of it for too long, is not used
at all: it may be of any age.
"""

from __future__ import annotations

from dataclasses import dataclass

from discovery.consul.client import Meta


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why an answer is not used: a stable code and one line."""

    code: str
    detail: str


def is_whole(meta: Meta) -> bool:
    """Whether what a list lacks is not there."""
    return not meta.filtered and not meta.streamed


def doubt(meta: Meta, *, stale: bool, max_stale: float) -> Doubt | None:
    """Why an answer with these headers is not used; None for one that is. `stale`: any server may answer."""
    if not meta.known_leader and not meta.streamed:
        return Doubt("consul_no_leader", "the server that answers knows no leader; what was known before counts")
    if stale and meta.last_contact > max_stale:
        return Doubt(
            "consul_stale",
            f"the server that answers has not heard of its leader for {meta.last_contact:.1f} s; "
            "what was known before counts",
        )
    return None
