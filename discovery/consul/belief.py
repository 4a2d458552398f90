"""Whether what was read may be believed. Pure.

Without doubt, a list is whole: what it lacks is gone, subject to discovery.sources.removals. A list that ACLs have
filtered is true in what it says, and says nothing of what it lacks. So is one that was streamed: Consul does not say of
it whether it was filtered. So is what Consul tells somebody without a token where it denies by default: it does not say
of that either (seen in 1.22). An answer of a server that has no leader, or has not heard of it for too long, is not
used at all: it may be of any age.
"""

from __future__ import annotations

from dataclasses import dataclass

from discovery.consul.client import Meta


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why an answer is not used: a stable code and one line."""

    code: str
    detail: str


def is_filtered(meta: Meta, *, anonymous: bool) -> bool:
    """Whether a list may lack what we may not see. `anonymous`: it was read without a token."""
    return meta.filtered or (anonymous and meta.default_deny)


def is_whole(meta: Meta, *, anonymous: bool) -> bool:
    """Whether what a list lacks is not there."""
    return not is_filtered(meta, anonymous=anonymous) and not meta.streamed


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
