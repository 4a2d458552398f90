"""What can be done to clusters, in the same words wherever they run, and taken back.

Each ground has its own way: `clusters.kind.faults` for containers, `clusters.processfaults` for processes and API
servers of this machine. What a ground cannot do it refuses with the reason, so a scenario can say what it left out.
"""

from __future__ import annotations

from typing import Protocol

from federation.errors import IsthmusError


class NotSupported(IsthmusError):
    """It makes no sense on this ground, or this machine cannot do it; the message says which."""

    code = "not_supported"
    exit_status = 2


class Faults(Protocol):
    """Every fault returns the monotonic time (s) at which it had begun, and lasts until `heal`.

    `part`: a component of the cluster ("agent", "gateway" …); empty: all of the cluster. Raises NotFound for a cluster
    or a part that is not there, and NotSupported.
    """

    async def partition(self, a: str, b: str, *, one_way: bool = False) -> float:
        """Lose what cluster `a` sends to `b`, and unless `one_way` what `b` sends to `a`. Nobody is told."""
        ...

    async def kill(self, cluster: str, part: str = "") -> float:
        """End it without a word (SIGKILL). What supervises it may start it again before `heal` does."""
        ...

    async def pause(self, cluster: str, part: str = "") -> float:
        """Stop it where it stands: connections stay open, and nothing answers."""
        ...

    async def slow(self, cluster: str, *, delay: float = 0.0, rate: int = 0) -> float:
        """Let what it sends to others be late by `delay` (s), or pass at no more than `rate` (bytes/s)."""
        ...

    async def drop(self, cluster: str, share: float) -> float:
        """Lose this share (0 to 1) of the packets that others send to it."""
        ...

    async def disk_full(self, cluster: str, part: str = "") -> float:
        """Leave no byte free where it keeps its state."""
        ...

    async def clock(self, cluster: str, seconds: float) -> float:
        """Let its clocks be ahead by so much, behind where that is negative."""
        ...

    async def heal(self) -> None:
        """Undo everything, also what another process of the harness did and did not live to undo.

        Returns when all is ready again; raises TimedOut.
        """
        ...


def check_share(share: float) -> float:
    """`share` if it is one; raises NotSupported."""
    if not 0 < share <= 1:
        raise NotSupported(f"a share of {share:g} packets cannot be lost", hint="give more than 0 and at most 1")
    return share


def check_slow(delay: float, rate: int) -> None:
    """Raises NotSupported unless exactly one of them is given."""
    if (delay > 0) == (rate > 0) or delay < 0 or rate < 0:
        raise NotSupported("slow by what?", hint="give a delay in seconds or a rate in bytes per second, not both")
