"""What the registry knows of one member since it started: its streams, its report, how far it has followed.

In memory only: after a restart the members bring it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from federation.aio.latest import Latest
from federation.catalog.replica import Visible
from federation.model.cluster import Cluster, Problem
from federation.proto.v1 import catalog_pb2 as pb
from federation.registry.intake import Publishing
from federation.registry.quota import TokenBucket
from federation.registry.sight import Sight

End = Callable[..., None]


@dataclass(slots=True, eq=False)
class Watching:
    """One Watch stream of a member (an agent renewing its certificate has two for a moment)."""

    end: End | None = None
    applied: int = 0
    acked: bool = False


@dataclass(slots=True, eq=False)
class Session:
    """One member. `refilter` feeds its Watch streams, `report` is its newest Publish stream's state."""

    name: str
    refilter: Latest[Visible]
    bucket: TokenBucket
    report: Publishing | None = None
    publishing: dict[Publishing, End] = field(default_factory=dict)
    watching: list[Watching] = field(default_factory=list)
    agent_version: str = ""
    agent_problems: tuple[Problem, ...] = ()
    last_seen_ns: int = 0
    cluster: Cluster | None = None  # its own CLUSTER record
    cluster_payload: bytes = b""

    @property
    def sight(self) -> Visible:
        return self.refilter.value

    def see(self, sight: Sight) -> None:
        """From now on the member sees what `sight` admits."""
        if self.refilter.value is not sight:
            self.refilter.set(sight)

    @property
    def applied(self) -> int | None:
        """The newest revision that an open stream has acknowledged; None without one."""
        return max((w.applied for w in self.watching if w.acked), default=None)

    def close(self, code: str, detail: str) -> None:
        """End all of its streams."""
        ends = [w.end for w in self.watching] + list(self.publishing.values())
        for end in ends:
            if end is not None:
                end(code, detail)

    def on_presence(self, presence: pb.Presence, problems: tuple[Problem, ...]) -> None:
        self.agent_version = presence.version[:64]
        self.agent_problems = tuple(
            replace(p, code=p.code[:64], subject=p.subject[:256], detail=p.detail[:1024]) for p in problems
        )
