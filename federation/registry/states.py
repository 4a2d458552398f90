"""How members and links fare, for people: pure, from leases, streams and revisions, never from what somebody wished.

A cluster is pending until its first report, live while its lease holds, stale afterwards. A link is down when an end is
not live, degraded when an end does not follow or cannot be reached, and says why.
"""

from __future__ import annotations

from dataclasses import dataclass

from federation.model.address import overlaps

PENDING, LIVE, STALE = "pending", "live", "stale"
DEGRADED, DOWN = "degraded", "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """One end of a link, as the registry knows it now. `applied` is None where no stream of it has acknowledged."""

    name: str
    state: str
    watching: bool
    applied: int | None
    gateways: int
    draining: int
    outbound_only: bool
    """None of its gateways is one that others reach; `gateways` counts none of them."""
    services: int
    problem: str
    """What this end's agent says is wrong about the other end; empty: nothing."""
    network: str = ""
    pods: tuple[str, ...] = ()
    """Ranges of its pods, where it is on a `network`."""


def cluster_state(*, reported: bool, leased: bool) -> str:
    """`reported`: it has ever published, in this or an earlier life of the registry."""
    if leased:
        return LIVE
    return STALE if reported else PENDING


def link_state(ends: tuple[End, End], *, linked_at: int, settled: int) -> tuple[str, str]:
    """(state, why it is not live). `linked_at`: the revision of the link; `settled`: what every follower has by now."""
    for end in ends:
        if end.state == PENDING:
            return DOWN, f"{end.name} has not reported yet"
        if end.state == STALE:
            return DOWN, f"{end.name} has not been heard of for longer than its lease"
    for end in ends:
        reason = _degraded(end, linked_at=linked_at, settled=settled)
        if reason:
            return DEGRADED, reason
    reason = _same_addresses(*ends)
    return (DEGRADED, reason) if reason else (LIVE, "")


def _same_addresses(a: End, b: End) -> str:
    """Clusters that reach each other's pods directly need ranges that are apart; behind gateways they need not."""
    clashes = overlaps(a.pods, b.pods) if a.network and a.network == b.network else []
    if not clashes:
        return ""
    x, y = clashes[0]
    return f"pods of {a.name} ({x}) and of {b.name} ({y}) have the same addresses on the network {a.network}"


def _degraded(end: End, *, linked_at: int, settled: int) -> str:
    if not end.watching:
        return f"{end.name} reports, but does not follow the catalog"
    if end.applied is None or end.applied < linked_at:
        return f"{end.name} has not applied the link yet"
    if end.applied < settled:
        return f"{end.name} is behind: it has applied revision {end.applied} of {settled}"
    if end.problem:
        return f"{end.name}: {end.problem}"
    if not end.gateways and end.outbound_only:  # it calls, which is all that it is asked to do, unless it exports
        return f"no gateway of {end.name} can be reached from outside" if end.services else ""
    if not end.gateways:
        return f"{end.name} has no gateway"
    if end.draining == end.gateways:
        return f"every gateway of {end.name} is draining"
    return ""
