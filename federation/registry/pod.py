"""A process in a Pod at the door of its cluster's agent: proves the agent, then shows its token, and gets an SVID.

Arrives: a PodJob of federation.registry.edge.pod. Leaves: a Grant. Run as a program it does so in a process that lives
only for that (federation.registry.door). The other end is discovery.pods.server.

The token and the anchors are read anew each time: the kubelet renews the one, the agent keeps the other. The token is
sent only over a connection that believes a root of the anchors alone.
"""

from __future__ import annotations

from pathlib import Path

import grpc

from federation.aio.clock import Clock
from federation.errors import InvalidInput
from federation.proto.v1 import pods_pb2 as pb
from federation.proto.v1 import pods_pb2_grpc as rpc
from federation.registry import door
from federation.registry.edge.pod import PodJob
from federation.registry.status import from_rpc_error
from federation.trust.bundle import root_fingerprint
from federation.trust.channels import anonymous_channel_credentials, channel_options
from federation.trust.enrolment import PinnedServer
from federation.trust.petition import Petition
from federation.trust.workload import Grant

_ANCHORS = "it is the ConfigMap isthmus-trust, which the agent writes; is it mounted?"
_TOKEN = "project it into the pod: serviceAccountToken with the audience isthmus"  # noqa: S105 - a hint
MAX_TOKEN = 32 * 1024


async def enrol(job: PodJob, *, clock: Clock, timeout: float = 10.0) -> Grant:
    """An SVID from the first agent of `job.enrolment` that gives one; `timeout` seconds for each step at each.

    Raises Denied (the agent's reason and code; pin_mismatch: it is not who the anchors say), InvalidInput
    (token_missing, anchors_invalid), Unavailable, TimedOut.
    """
    prints = tuple(dict.fromkeys(map(root_fingerprint, door.anchors(job.anchors, job.roots, hint=_ANCHORS))))
    token = _token(job.token)

    async def ask(address: str, server: PinnedServer) -> Grant:
        petition = Petition(job.namespace, job.account, clock=clock)
        request = pb.PodSignRequest(token=token, csr=petition.csr, version=job.version)
        credentials = anonymous_channel_credentials(server.bundle)
        async with grpc.aio.secure_channel(
            address, credentials, options=channel_options(server.server_name)
        ) as channel:
            stub = rpc.PodIdentityStub(channel)  # type: ignore[no-untyped-call]
            try:
                reply = await stub.Sign(request, timeout=timeout)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error, what=f"the agent at {address}") from error
        return petition.check(reply.SerializeToString())

    return await door.ask_in_turn(
        job.enrolment, prints, ask, trust_domain=job.trust_domain, clock=clock, timeout=timeout
    )


def _token(path: str) -> str:
    """Raises InvalidInput (token_missing)."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(MAX_TOKEN + 1).decode("ascii").strip()
    except OSError as error:
        raise InvalidInput(
            f"cannot read the service account token {path}: {error.strerror}", hint=_TOKEN, code="token_missing"
        ) from error
    except UnicodeDecodeError:
        text = ""
    if not text or len(text) > MAX_TOKEN:
        raise InvalidInput(f"{path} holds no service account token", hint=_TOKEN, code="token_missing")
    return text


def main() -> None:
    """See federation.registry.door.answer."""
    door.answer(PodJob, lambda job, clock: enrol(job, clock=clock))


if __name__ == "__main__":
    main()
