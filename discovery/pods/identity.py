"""Whose certificate a Pod gets, by what the API server says of its token (TokenReview, authentication.k8s.io/v1). Pure.

A token counts when the API server vouches for it, for our audience, as that of a service account, and bound to a Pod
that is there: such a token ends with its Pod. The namespace and the account are the token's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from federation.errors import Denied
from federation.model.ids import SYSTEM_NAMESPACE, SpiffeId

AUDIENCE = "isthmus"
INJECTOR = "injector"
_USER = "system:serviceaccount:"
_GROUP = "system:serviceaccounts"
_POD_NAME, _POD_UID = "authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/pod-uid"


class User(msgspec.Struct, frozen=True):
    username: str = ""
    groups: list[str] | None = None
    extra: dict[str, list[str]] | None = None


class ReviewStatus(msgspec.Struct, frozen=True):
    """The `status` of a TokenReview."""

    authenticated: bool = False
    user: User = User()
    audiences: list[str] | None = None
    error: str = ""


class Pod(NamedTuple):
    """Who holds a token."""

    namespace: str
    account: str
    name: str
    uid: str


def holder(review: ReviewStatus) -> Pod:
    """The Pod that a token was made for.

    Raises Denied: token_refused (unknown, expired, of another cluster, or of a Pod that is gone), token_audience,
    token_foreign (no service account's), token_unbound.
    """
    if not review.authenticated:
        why = f": {' '.join(review.error.split())[:200]}" if review.error else ""
        raise Denied(
            f"the API server does not accept the token{why}",
            hint="it may have expired, be of another cluster, or of a pod that is gone; the kubelet renews it",
            code="token_refused",
        )
    if AUDIENCE not in (review.audiences or ()):
        raise Denied(
            f"the token is for {', '.join(review.audiences or ()) or 'no audience'}, not for {AUDIENCE}",
            hint=f"project it with `serviceAccountToken: {{audience: {AUDIENCE}}}`",
            code="token_audience",
        )
    namespace, colon, account = review.user.username.removeprefix(_USER).partition(":")
    if not review.user.username.startswith(_USER) or not colon or _GROUP not in (review.user.groups or ()):
        raise Denied(f"the token is of {review.user.username[:80]!r}, no service account", code="token_foreign")
    name, uid = (_one(review.user.extra or {}, key) for key in (_POD_NAME, _POD_UID))
    if not name or not uid:
        raise Denied(
            f"the token of {namespace}/{account} is not bound to a pod",
            hint="it must be a projected one: other tokens outlive the pods that use them",
            code="token_unbound",
        )
    return Pod(namespace, account, name, uid)


def identity(pod: Pod, trust_domain: str, *, accounts: Collection[str]) -> SpiffeId:
    """What it is in the federation; of our own namespace only `accounts` are anything.

    Raises Denied (identity_denied), InvalidName.
    """
    if pod.namespace == SYSTEM_NAMESPACE and pod.account not in accounts:
        raise Denied(
            f"pods of {pod.namespace}/{pod.account} get no identity",
            hint=f"in {SYSTEM_NAMESPACE} only {', '.join(sorted(accounts)) or 'nobody'} does: `pods.accounts` in the "
            "agent's settings",
            code="identity_denied",
        )
    return SpiffeId.workload(trust_domain, pod.namespace, pod.account)


def dns_names(pod: Pod) -> tuple[str, ...]:
    """What its certificate is good for besides: an API server knows the injector by the name of its Service."""
    ours = pod.namespace == SYSTEM_NAMESPACE and pod.account == INJECTOR
    return (f"isthmus-injector.{SYSTEM_NAMESPACE}.svc",) if ours else ()


def _one(extra: Mapping[str, Sequence[str]], key: str) -> str:
    found = extra.get(key, ())
    return found[0] if len(found) == 1 else ""
