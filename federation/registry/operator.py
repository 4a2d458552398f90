"""The operator's way to a registry: its RPCs with the credentials of an operator directory.

Arrives: `<registry directory>/operator/` as `federation.registry.init` wrote it (copied to where the operator sits, if
that is another machine). Leaves: replies of federation/proto/v1/registry.proto, or the registry's own errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import msgspec

from federation import settings as files
from federation.errors import InvalidSettings, NotFound
from federation.model import wire
from federation.model.cluster import Link, LinkGrant
from federation.proto.v1 import registry_pb2 as pb
from federation.proto.v1 import registry_pb2_grpc as rpc
from federation.registry.join import Invitation, Joined, join, look_up
from federation.registry.unaryclient import UnaryClient
from federation.trust.grpc_credentials import channel_options, registry_server_name

__all__ = ["Invitation", "IssuedToken", "Joined", "OperatorClient", "OperatorFile", "join", "look_up"]

_MAX_REPLY = 256 << 20

CREDENTIAL_FILES = ("operator.yaml", "operator.pem", "operator.key", "ca.pem")


class OperatorFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """operator.yaml: where the registry is."""

    registry: str
    federation: str


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A join token as it is handed to a cluster's operator; wall time in ns."""

    token: str
    expires_ns: int


class OperatorClient(UnaryClient):
    """What an operator asks of the registry. Methods raise the registry's IsthmusError, Unavailable, TimedOut."""

    def __init__(self, channel: grpc.aio.Channel, *, address: str, federation: str, timeout: float = 10.0) -> None:
        super().__init__(channel, what=f"the registry at {address}", timeout=timeout)
        self.address, self.federation = address, federation
        self._stub: Any = rpc.OperatorStub(channel)  # type: ignore[no-untyped-call]

    @classmethod
    def open(cls, directory: Path, *, timeout: float = 10.0, socket: Path | None = None) -> OperatorClient:
        """With the credentials below `directory`; raises NotFound, InvalidSettings. Needs a running event loop.

        `socket`: a UNIX socket that leads to the registry, where its own address cannot be dialled from here.
        """
        missing = [name for name in CREDENTIAL_FILES if not (directory / name).is_file()]
        if missing:
            raise NotFound(
                f"{directory} holds no operator credentials: {', '.join(missing)} missing",
                hint="`fedctl registry init` writes them to <directory>/operator",
                code="no_credentials",
            )
        where = files.load(directory / "operator.yaml", OperatorFile)
        try:
            chain, key, root = ((directory / name).read_bytes() for name in CREDENTIAL_FILES[1:])
        except OSError as error:
            raise InvalidSettings(f"cannot read the credentials in {directory}: {error.strerror}") from error
        channel = grpc.aio.secure_channel(
            f"unix:{socket.absolute()}" if socket is not None else where.registry,
            grpc.ssl_channel_credentials(root_certificates=root, private_key=key, certificate_chain=chain),
            options=[
                *channel_options(registry_server_name(where.federation)),
                ("grpc.max_receive_message_length", _MAX_REPLY),
            ],
        )
        return cls(channel, address=where.registry, federation=where.federation, timeout=timeout)

    async def issue_token(self, cluster: str, *, ttl_seconds: int = 900) -> IssuedToken:
        """A join token for `cluster`, valid once and for at most 900 s; replaces an unused one for the same name."""
        reply = await self._ask(self._stub.IssueToken, pb.IssueTokenRequest(cluster=cluster, ttl_seconds=ttl_seconds))
        return IssuedToken(reply.token, reply.expires_ns)

    async def revoke_token(self, cluster: str) -> None:
        """No token for `cluster` can be used any more; raises NotFound where there is none."""
        await self._ask(self._stub.RevokeToken, pb.RevokeTokenRequest(cluster=cluster))

    async def clusters(self) -> list[pb.ClusterInfo]:
        """All members, by name."""
        return list((await self._ask(self._stub.ListClusters, pb.Empty())).clusters)

    async def leave(self, cluster: str) -> None:
        """End the membership of `cluster`: its links go, its records are deleted everywhere."""
        await self._ask(self._stub.Leave, pb.LeaveRequest(cluster=cluster))

    async def link(
        self, a: str, b: str, *, fingerprint_a: str, fingerprint_b: str, grants: Sequence[LinkGrant] = ()
    ) -> Link:
        """Link two clusters; the fingerprints are those that the operator read from the clusters themselves.

        Linking again with other grants replaces them. Raises NotFound, InvalidInput (same cluster twice),
        Conflict (`fingerprint_mismatch`: the registry holds another root for that cluster).
        """
        request = pb.CreateLinkRequest(
            a=a,
            b=b,
            fingerprint_a=fingerprint_a,
            fingerprint_b=fingerprint_b,
            grants=[wire.link_grant_to_pb(g) for g in grants],
        )
        return wire.link_from_pb(await self._ask(self._stub.CreateLink, request))

    async def unlink(self, a: str, b: str) -> None:
        """Cut the link; raises NotFound where there is none."""
        await self._ask(self._stub.DeleteLink, pb.DeleteLinkRequest(a=a, b=b))

    async def links(self) -> list[pb.LinkInfo]:
        """All links, by name."""
        return list((await self._ask(self._stub.ListLinks, pb.Empty())).links)

    async def services(self) -> list[pb.ServiceInfo]:
        """What every cluster exports, by cluster, namespace and name."""
        return list((await self._ask(self._stub.ListServices, pb.Empty())).services)

    async def gateways(self) -> list[pb.GatewayInfo]:
        """Every cluster's gateways, by cluster and name."""
        return list((await self._ask(self._stub.ListGateways, pb.Empty())).gateways)

    async def status(self) -> pb.RegistryStatus:
        return await self._ask(self._stub.Status, pb.Empty())
