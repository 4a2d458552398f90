"""The identity of an edge process: from disk if it still lives, else from the agent; renewed for ever."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import grpc

from federation.aio.clock import Clock
from federation.errors import CorruptState, Denied, IsthmusError, StorageFailed
from federation.log import Logger
from federation.registry.client import CHANNEL_OPTIONS
from federation.registry.edge.problems import Problems
from federation.trust.channels import agent_server_name, channel_credentials, channel_options
from federation.trust.renewal import Renewer, obtain
from federation.trust.svid import utc
from federation.trust.workload import Grant, WorkloadIdentity


class Giver(Protocol):
    """Who gives grants: an agent, however it is reached."""

    def ours(self, grant: Grant) -> bool:
        """Whether a grant that was kept can be of this agent."""

    async def fetch(self, held: Grant | None) -> Grant:
        """A new one; `held` is the last. Raises IsthmusError."""


class BesideIdentity:
    """Grants of the agent on this machine, over its identity socket."""

    def __init__(self, socket: Path, namespace: str, account: str, *, clock: Clock) -> None:
        self._socket, self._namespace, self._account = socket, namespace, account
        self._identity = WorkloadIdentity(clock=clock, apart=True)

    def ours(self, grant: Grant) -> bool:
        return True  # whoever owns the directory says which agent is in it

    async def fetch(self, held: Grant | None) -> Grant:
        """Raises as WorkloadIdentity.fetch."""
        return await self._identity.fetch(self._socket, self._namespace, self._account)


class Keys:
    """Gets, keeps and renews one process's Grant."""

    def __init__(
        self,
        giver: Giver,
        *,
        path: Path,
        namespace: str,
        account: str,
        clock: Clock,
        log: Logger,
        problems: Problems,
    ) -> None:
        """`path`: where the grant is kept (mode 0600)."""
        self._giver, self._path = giver, path
        self._namespace, self._account = namespace, account
        self._clock, self._log, self._problems = clock, log, problems
        self._held: Grant | None = None

    async def open(self) -> Renewer[Grant]:
        """The grant on disk, if it is this identity's; else the agent's, waited for without end.

        An expired grant is better than none when the agent is away: names and local endpoints work without it.
        """
        kept = self._held = self._load()
        if kept is not None and kept.not_after <= utc(self._clock):
            self._log.warning("kept identity has expired", expired=kept.not_after.isoformat())
            try:
                kept = await self.fetch()
            except (IsthmusError, OSError) as error:
                self._log.warning("no new identity yet", error=str(error))
        if kept is None:
            kept = await obtain(self.fetch, clock=self._clock, log=self._log)
        return Renewer(kept, self.fetch, clock=self._clock, log=self._log)

    def _load(self) -> Grant | None:
        try:
            grant = Grant.load(self._path)
        except (CorruptState, Denied) as error:
            self._log.warning("kept identity cannot be used", error=str(error))
            return None
        if grant is None or grant.svid.spiffe_id.path != f"/ns/{self._namespace}/sa/{self._account}":
            return None
        return grant if self._giver.ours(grant) else None

    async def fetch(self) -> Grant:
        """A new grant from the agent, kept on disk. Raises as the giver."""
        grant = self._held = await self._giver.fetch(self._held)
        try:
            grant.save(self._path)
        except StorageFailed as error:  # it serves all the same; only a restart without the agent would miss it
            self._problems.set("storage_failed", str(self._path), str(error))
        else:
            self._problems.clear("storage_failed", str(self._path))
        return grant


class Addresses:
    """Where the agent is dialled: what it told last and what the settings say, in turn until it answers."""

    def __init__(self, configured: Sequence[str] = ()) -> None:
        self._configured = tuple(configured)
        self._dialled = ""
        self._heard: float | None = None

    def next(self, grant: Grant, heard: float | None) -> str:
        """The address to dial. `heard`: when the agent was heard last, whatever the clock; as before: it was not."""
        known = tuple(dict.fromkeys((*grant.addresses, *self._configured)))
        if self._dialled not in known:
            self._dialled = known[0]
        elif heard == self._heard:
            self._dialled = known[(known.index(self._dialled) + 1) % len(known)]
        self._heard = heard
        return self._dialled


def agent_channel(grant: Grant, address: str) -> grpc.aio.Channel:
    """A channel to the agent that shows the grant's identity and believes only its own cluster's roots."""
    trust_domain = grant.bundle.trust_domain
    return grpc.aio.secure_channel(
        address,
        channel_credentials(grant.svid, grant.bundle),
        options=[*channel_options(agent_server_name(trust_domain)), *CHANNEL_OPTIONS],
    )
