"""Whether this cluster is a member of its federation, as far as its agent knows.

What the registry says counts until it says something else: it may have been restored from an old backup. What the
operator has done with `fedctl cluster leave` is for good: the agent writes nothing in its cluster any more, and not
after a restart either.
"""

from __future__ import annotations

from pathlib import Path

from discovery.state import read_or_none
from federation.aio.files import write_state
from federation.aio.latest import Latest
from federation.errors import StorageFailed
from federation.log import Logger
from federation.model.cluster import Problem

LEFT = "left.state"
"""File in the state directory: the fingerprint of the root with which the cluster has left."""


class Membership:
    """`root`: the fingerprint of the cluster's root, with which it is a member once: who joins again has another."""

    def __init__(self, path: Path, *, root: str, log: Logger) -> None:
        self.root = root
        self._path, self._log = path, log
        self._refused = False
        self.left: Latest[bool] = Latest(read_or_none(path, log) == root.encode())
        """The operator has taken the cluster out."""

    @property
    def lasts(self) -> bool:
        """Nobody has said that it is no member."""
        return not self._refused and not self.left.value

    def refused(self) -> None:
        """The registry says that the cluster is no member."""
        self._refused = True

    def accepted(self) -> None:
        """The registry serves it."""
        self._refused = False

    def end(self, root: str) -> None:
        """The cluster with this root was taken out; what is said of another one is not about us."""
        if root != self.root or self.left.value:
            return
        self._log.warning("this cluster has left the federation: nothing is written in it any more")
        keep(self._path, root, self._log)
        self.left.set(True)

    def problems(self) -> list[Problem]:
        """What an operator is shown of it."""
        if not self.left.value:
            return []
        detail = "it was taken out with `fedctl cluster leave`: nothing is written in it any more; end this agent"
        return [Problem("cluster_left", "", detail)]


def keep(path: Path, root: str, log: Logger) -> None:
    """Note for the next start that the cluster with this root has left."""
    try:
        write_state(path, root.encode())
    except StorageFailed as error:
        log.error("that the cluster has left is not on disk", error=str(error))
