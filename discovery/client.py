"""The operator's way to an agent: its admin service on the UNIX socket in its state directory.

Arrives: the state directory. Leaves: replies of federation/proto/v1/agent.proto, or the agent's own errors.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc

from federation.errors import InvalidInput, NotFound, Unavailable
from federation.model.ids import ServiceName
from federation.model.service import Grant
from federation.model.wire import grants_to_pb
from federation.proto.v1 import agent_pb2 as pb
from federation.proto.v1 import agent_pb2_grpc as rpc
from federation.proto.v1 import records_pb2, registry_pb2
from federation.registry.unaryclient import UnaryClient

SOCKET = "agent.sock"


class AgentClient(UnaryClient):
    """What an operator asks of one agent. Methods raise the agent's IsthmusError, Unavailable, TimedOut."""

    def __init__(self, channel: grpc.aio.Channel, *, what: str, timeout: float = 10.0) -> None:
        super().__init__(channel, what=what, timeout=timeout)
        self._stub: Any = rpc.AgentStub(channel)  # type: ignore[no-untyped-call]

    @classmethod
    def open(cls, directory: Path, *, timeout: float = 10.0, what: str = "") -> AgentClient:
        """The agent whose state is in `directory`; raises NotFound (no such directory), Unavailable (not running).

        `what` names it in errors. Needs a running event loop.
        """
        if not directory.is_dir():
            raise NotFound(
                f"there is no state directory {directory}",
                hint="`fedctl cluster use CLUSTER DIR` tells where the agent keeps it",
                code="unknown_cluster",
            )
        path = directory / SOCKET
        if not path.exists():
            raise Unavailable(
                f"no agent is running in {directory}",
                hint=f"start it with: isthmus-agent --settings {directory / 'settings.yaml'}",
                code="agent_down",
            )
        channel = grpc.aio.insecure_channel(
            f"unix:{path.absolute()}",
            options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)],
        )
        return cls(channel, what=what or f"the agent in {directory}", timeout=timeout)

    async def identity(self) -> pb.AgentIdentity:
        """The cluster, its trust domain, bundle and fingerprint."""
        return await self._ask(self._stub.Identity, registry_pb2.Empty())

    async def pin(self, cluster: str, trust_domain: str, fingerprint: str) -> None:
        """Believe that `cluster` has the root with this fingerprint."""
        request = pb.PinRequest(cluster=cluster, trust_domain=trust_domain, fingerprint=fingerprint)
        await self._ask(self._stub.Pin, request)

    async def unpin(self, cluster: str) -> None:
        """Forget the root of `cluster`; no error where there is no pin."""
        await self._ask(self._stub.Unpin, pb.UnpinRequest(cluster=cluster))

    async def export(self, name: ServiceName | str, grants: Iterable[Grant] = ()) -> pb.ExportReply:
        """Export a service ("<namespace>/<service>"); raises NotFound for one that does not exist, Conflict."""
        return await self._ask(self._stub.Export, _request(name, grants))

    async def unexport(self, name: ServiceName | str) -> pb.ExportReply:
        """Take an export back."""
        return await self._ask(self._stub.Unexport, _request(name, ()))

    async def preview(self, name: ServiceName | str, grants: Iterable[Grant] | None) -> pb.PreviewReply:
        """What `export` with these grants would do, or `unexport` (None); raises as they do."""
        request = pb.PreviewRequest(export=_request(name, grants or ()), withdraw=grants is None)
        return await self._ask(self._stub.Preview, request)

    async def namespace(self, name: str) -> str:
        """Whether imports of this namespace have a place: "exists", "missing", "created" (on import) or "unknown"."""
        reply: pb.NamespaceReply = await self._ask(self._stub.Namespace, pb.NamespaceRequest(name=name))
        return reply.state

    async def listed(self) -> pb.ListImportsReply:
        """Every import, and where its local endpoints were read."""
        return await self._ask(self._stub.ListImports, registry_pb2.Empty())

    async def imports(self) -> list[records_pb2.Import]:
        """What this cluster sees, by name."""
        return list((await self._ask(self._stub.ListImports, registry_pb2.Empty())).imports)

    async def resolve(self, name: str) -> pb.ResolveReply:
        """What a global name means here; raises InvalidName, NotFound."""
        return await self._ask(self._stub.Resolve, pb.ResolveRequest(name=name))

    async def invite_vm(
        self, name: str, namespace: str, account: str, *, services: Iterable[str] = (), ttl_seconds: int = 0
    ) -> pb.InviteVmReply:
        """A token for one virtual machine; 0 seconds: as long as tokens live.

        Raises AlreadyExists (vm_exists), Conflict (vms_not_listening), InvalidInput, InvalidName, StorageFailed.
        """
        request = pb.InviteVmRequest(
            name=name, namespace=namespace, account=account, services=services, ttl_seconds=ttl_seconds
        )
        return await self._ask(self._stub.InviteVm, request)

    async def vms(self) -> list[pb.VmStatus]:
        """The virtual machines of this cluster, by name."""
        return list((await self._ask(self._stub.ListVms, registry_pb2.Empty())).vms)

    async def remove_vm(self, name: str) -> None:
        """Let a virtual machine in no more, and end its streams. Raises NotFound (vm_unknown), StorageFailed."""
        await self._ask(self._stub.RemoveVm, pb.RemoveVmRequest(name=name))

    async def examine(self, *, timeout_ms: int = 0) -> pb.ExamineReply:
        """What only this agent can see; it dials gateways for it. `timeout_ms` for each; 0: as the agent sees fit."""
        return await self._ask(self._stub.Examine, pb.ExamineRequest(timeout_ms=timeout_ms))

    async def probe(
        self,
        name: ServiceName | str,
        *,
        cluster: str = "",
        timeout_ms: int = 0,
        ports: Iterable[records_pb2.Port] = (),
    ) -> list[pb.Attempt]:
        """Real requests to a service: to the copies of `cluster`, or, "", as a workload without a sidecar calls.

        `ports`: those that are asked for where the agent's cluster is shown no such service.

        Raises InvalidName, QuotaExceeded (probe_busy).
        """
        parsed = name if isinstance(name, ServiceName) else ServiceName.parse(name)
        request = pb.ProbeRequest(
            namespace=parsed.namespace, name=parsed.name, cluster=cluster, timeout_ms=timeout_ms, ports=ports
        )
        reply: pb.ProbeReply = await self._ask(self._stub.Probe, request)
        return list(reply.attempts)

    async def status(self) -> pb.AgentStatus:
        return await self._ask(self._stub.Status, registry_pb2.Empty())


def _request(name: ServiceName | str, grants: Iterable[Grant]) -> pb.ExportRequest:
    parsed = name if isinstance(name, ServiceName) else ServiceName.parse(name)
    try:
        return pb.ExportRequest(namespace=parsed.namespace, name=parsed.name, grants=grants_to_pb(grants))
    except ValueError as error:
        raise InvalidInput(f"a grant cannot be sent: {error}") from error
