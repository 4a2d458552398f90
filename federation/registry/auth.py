"""Who calls, decided from the proven SPIFFE ID of the stream alone: a member cluster's agent, or an operator.

Arrives: the ID that `federation.trust.grpc_credentials.peer_identity` has proved, with the bundle of the trust domain
that it names. Leaves: a Caller. Nothing in a payload is ever believed about who sent it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from federation.errors import Denied
from federation.model.ids import SYSTEM_NAMESPACE, SpiffeId
from federation.store.base import Member

AGENT_PATH = f"/ns/{SYSTEM_NAMESPACE}/sa/agent"
_OPERATOR_PATH = re.compile(r"/operator/([A-Za-z0-9._-]+)\Z")


@dataclass(frozen=True, slots=True)
class ClusterCaller:
    """The agent of a member."""

    cluster: str


@dataclass(frozen=True, slots=True)
class OperatorCaller:
    """A person with a certificate of the federation's own CA."""

    name: str


Caller = ClusterCaller | OperatorCaller


def identify(spiffe_id: SpiffeId, *, federation: str, members: Mapping[str, Member]) -> Caller:
    """The caller with this proven ID; raises Denied (not_authorised)."""
    if spiffe_id.trust_domain == federation:
        found = _OPERATOR_PATH.match(spiffe_id.path)
        if found:
            return OperatorCaller(found[1])
        raise _denied(spiffe_id, "is no operator")
    cluster = spiffe_id.trust_domain.removesuffix(f".{federation}")
    member = members.get(cluster)
    if member is None or member.trust_domain != spiffe_id.trust_domain:
        raise _denied(spiffe_id, "belongs to no member of this federation")
    if spiffe_id.path != AGENT_PATH:
        raise _denied(spiffe_id, f"is not its cluster's agent ({AGENT_PATH})")
    return ClusterCaller(cluster)


def require_cluster(caller: Caller) -> str:
    """The cluster's name; raises Denied (not_authorised) for operators, who have no records."""
    if isinstance(caller, ClusterCaller):
        return caller.cluster
    raise Denied("the catalog is for clusters; operators have none", code="not_authorised")


def require_operator(caller: Caller) -> str:
    """The operator's name; raises Denied (not_authorised)."""
    if isinstance(caller, OperatorCaller):
        return caller.name
    raise Denied(
        f"cluster {caller.cluster} may not do what operators do",
        hint="use the operator's credentials of the registry",
        code="not_authorised",
    )


def _denied(spiffe_id: SpiffeId, why: str) -> Denied:
    return Denied(f"{spiffe_id} {why}", code="not_authorised")
