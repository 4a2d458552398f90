"""Mutual TLS for gRPC: a server's credentials, which follow renewals and joins, and the proven identity of a peer.

A server accepts, in TLS, clients of any root it knows, because gRPC has one set of roots per port; so TLS only proves
possession of a key and some known root. Who the peer is, is decided by `peer_identity`, with the bundle of exactly the
trust domain that the peer's SPIFFE ID names. Every servicer calls it for every stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import grpc

from federation.errors import Denied, InvalidInput
from federation.model.cluster import Bundle
from federation.model.ids import SpiffeId
from federation.trust.channels import (
    agent_server_name,
    anonymous_channel_credentials,
    channel_credentials,
    channel_options,
    registry_server_name,
)
from federation.trust.keys import chain_from_pem, chain_to_pem
from federation.trust.svid import Svid
from federation.trust.verify import verify_chain

__all__ = [
    "Current",
    "agent_server_name",
    "anonymous_channel_credentials",
    "channel_credentials",
    "channel_options",
    "peer_chain",
    "peer_identity",
    "registry_server_name",
    "server_credentials",
]

Current = Callable[[], tuple[Svid, Sequence[Bundle]]]


def server_credentials(current: Current, *, require_client: bool = True) -> grpc.ServerCredentials:
    """Credentials that ask `current` at each handshake for the leaf and the bundles whose clients may connect.

    `current` is called on threads of gRPC: it only reads. With `require_client=False` (enrolment) no client certificate
    is asked for, and the presented chain ends with the server's own root, for clients that know only its fingerprint;
    `current` must then return the bundle of the server's own trust domain.
    """
    config = _Configuration(current, present_root=not require_client)
    return grpc.dynamic_ssl_server_credentials(config.make(), config.changed, require_client)


class _Configuration:
    """Turns `current` into gRPC's configuration, again only when it has changed."""

    def __init__(self, current: Current, *, present_root: bool) -> None:
        self._current, self._present_root = current, present_root
        self._seen: tuple[Svid, tuple[Bundle, ...]] | None = None

    def make(self) -> grpc.ServerCertificateConfiguration:
        svid, bundles = self._current()
        seen = (svid, tuple(bundles))
        chain = svid.chain
        if self._present_root:
            own = next((b for b in bundles if b.trust_domain == svid.spiffe_id.trust_domain and b.roots), None)
            if own is None:
                raise InvalidInput(f"the bundle of {svid.spiffe_id.trust_domain} is needed to present its root")
            chain = (*chain, own.roots[0])
        roots = b"".join(map(_root_pem, dict.fromkeys(der for bundle in bundles for der in bundle.roots)))
        configuration = grpc.ssl_server_certificate_configuration(
            [(svid.key_pem, chain_to_pem(chain))], root_certificates=roots or None
        )
        self._seen = seen
        return configuration

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What gRPC calls before each handshake; None: nothing has changed."""
        svid, bundles = self._current()
        return None if self._seen == (svid, tuple(bundles)) else self.make()


def _root_pem(der: bytes) -> bytes:
    """A root that is none is left out: it locks out its own cluster, not all the others."""
    try:
        return chain_to_pem([der])
    except InvalidInput:
        return b""


def peer_identity(context: Any, bundles: Mapping[str, Bundle], *, now: datetime) -> SpiffeId:
    """Who calls, proven; `context` is a ServicerContext of a server with `server_credentials`.

    Raises Denied as `verify_chain`.
    """
    return verify_chain(peer_chain(context.auth_context()), bundles, now=now)


def peer_chain(auth_context: Mapping[str, Iterable[bytes]]) -> tuple[bytes, ...]:
    """The chain (DER, the leaf first) that the peer showed; empty without one.

    On a server gRPC gives the leaf in `x509_pem_cert` and only what follows it in `x509_pem_cert_chain`; on a client
    the latter begins with the leaf. Both are understood.
    """
    try:
        leaf = [der for pem in auth_context.get("x509_pem_cert", ()) for der in chain_from_pem(pem)]
        rest = [der for pem in auth_context.get("x509_pem_cert_chain", ()) for der in chain_from_pem(pem)]
    except InvalidInput as error:
        raise Denied("the peer has shown something that is no certificate", code="svid_malformed") from error
    return tuple(dict.fromkeys([*leaf[:1], *rest]))
