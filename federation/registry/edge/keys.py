"""The identity of an edge process: from disk if it still lives, else from the agent; renewed for ever."""

from __future__ import annotations

from pathlib import Path

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


class Keys:
    """Gets, keeps and renews one process's Grant."""

    def __init__(
        self,
        *,
        socket: Path,
        path: Path,
        namespace: str,
        account: str,
        clock: Clock,
        log: Logger,
        problems: Problems,
        identity: WorkloadIdentity | None = None,
    ) -> None:
        """`socket`: the agent's identity socket; `path`: where the grant is kept (mode 0600)."""
        self._socket, self._path = socket, path
        self._namespace, self._account = namespace, account
        self._clock, self._log, self._problems = clock, log, problems
        self._identity = identity or WorkloadIdentity(clock=clock, apart=True)

    async def open(self) -> Renewer[Grant]:
        """The grant on disk, if it is this identity's; else the agent's, waited for without end.

        An expired grant is better than none when the agent is away: names and local endpoints work without it.
        """
        kept = self._load()
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
        return grant

    async def fetch(self) -> Grant:
        """A new grant from the agent, kept on disk. Raises as WorkloadIdentity.fetch."""
        grant = await self._identity.fetch(self._socket, self._namespace, self._account)
        try:
            grant.save(self._path)
        except StorageFailed as error:  # it serves all the same; only a restart without the agent would miss it
            self._problems.set("storage_failed", str(self._path), str(error))
        else:
            self._problems.clear("storage_failed", str(self._path))
        return grant


def agent_channel(grant: Grant) -> grpc.aio.Channel:
    """A channel to the agent that shows the grant's identity and believes only its own cluster's roots."""
    trust_domain = grant.bundle.trust_domain
    return grpc.aio.secure_channel(
        grant.agent_address,
        channel_credentials(grant.svid, grant.bundle),
        options=[*channel_options(agent_server_name(trust_domain)), *CHANNEL_OPTIONS],
    )
