"""Asks the API server whose token it is that a Pod shows: TokenReview, authentication.k8s.io/v1."""

from __future__ import annotations

import msgspec

from discovery.kube.client import KubeClient
from discovery.kube.errors import Invalid, ServerFailed
from discovery.kube.resources import TOKEN_REVIEWS
from discovery.pods.identity import AUDIENCE, ReviewStatus


class _Review(msgspec.Struct):
    status: ReviewStatus = ReviewStatus()


_decoder = msgspec.json.Decoder(_Review)


class TokenReviews:
    """discovery.pods.server.Reviewer over one API server. Nothing is remembered."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def review(self, token: str) -> ReviewStatus:
        """Raises the errors of KubeClient, which say nothing of the token. What the API server does not even take for
        one is none."""
        spec = {"token": token, "audiences": [AUDIENCE]}
        body = {"apiVersion": TOKEN_REVIEWS.api_version, "kind": TOKEN_REVIEWS.kind, "spec": spec}
        try:
            data = await self._client.create(TOKEN_REVIEWS, None, msgspec.json.encode(body))
        except Invalid as error:
            return ReviewStatus(error=error.message)
        try:
            return _decoder.decode(data).status
        except msgspec.MsgspecError as error:
            raise ServerFailed(f"no TokenReview: {error}") from error
