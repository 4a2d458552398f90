"""Mutual TLS for gRPC, the client's half: credentials of a channel, and the names that servers are known by.

Light on purpose: the edge processes import it. The server's half is federation.trust.grpc_credentials.
"""

from __future__ import annotations

from typing import Any

import grpc

from federation.model.cluster import Bundle
from federation.trust.pem import armour
from federation.trust.svid import Svid


def registry_server_name(federation: str) -> str:
    """The DNS name in the registry's certificate, whatever address it is dialled at."""
    return f"registry.{federation}"


def agent_server_name(trust_domain: str) -> str:
    """The DNS name in an agent's certificate."""
    return f"agent.{trust_domain}"


def channel_credentials(svid: Svid, bundle: Bundle) -> grpc.ChannelCredentials:
    """For a client that shows `svid` and believes only `bundle`; use with `channel_options`."""
    return grpc.ssl_channel_credentials(
        root_certificates=armour(bundle.roots), private_key=svid.key_pem, certificate_chain=svid.chain_pem
    )


def anonymous_channel_credentials(bundle: Bundle) -> grpc.ChannelCredentials:
    """For a client that has no identity yet (enrolment): the server is proven, the client is not."""
    return grpc.ssl_channel_credentials(root_certificates=armour(bundle.roots))


def channel_options(server_name: str) -> list[tuple[str, Any]]:
    """The options that make a channel insist on `server_name` in the server's certificate."""
    return [("grpc.ssl_target_name_override", server_name), ("grpc.default_authority", server_name)]
