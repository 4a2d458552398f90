"""The joining cluster's side of Enrolment: find the registry's root by the token's fingerprint, prove the key, join."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from federation.errors import Denied, InvalidInput, TimedOut, Unavailable
from federation.model import wire
from federation.model.cluster import Bundle
from federation.model.ids import SpiffeId, trust_domain_of
from federation.model.service import Locality
from federation.proto.v1 import registry_pb2 as pb
from federation.proto.v1 import registry_pb2_grpc as rpc
from federation.registry.operator import channel_options
from federation.registry.possession import possession_message
from federation.registry.settings import split_address
from federation.registry.status import from_rpc_error
from federation.trust.authority import Authority
from federation.trust.token import JoinToken


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What a token leads to, before anything is sent: proved by the fingerprint in the token."""

    token: JoinToken
    cluster: str
    federation: str
    trust_domain: str
    root: bytes
    """The registry's root certificate, DER."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What the registry answers to a cluster that joined."""

    federation: str
    trust_domain: str
    registry_bundle: Bundle
    single_machine: bool
    registry_address: str


async def look_up(token: str, *, timeout: float = 10.0) -> Invitation:
    """Dial the registry that `token` names and learn its root and the federation's domain, nothing being sent yet.

    Raises InvalidInput (no token), Unavailable, Denied (`foreign_registry`: its root is not the one in the token).
    """
    parsed = JoinToken.parse(token)
    host, port = split_address(parsed.registry, what="the token's registry address")
    chain = await _presented_chain(host, port, timeout)
    for der in chain:
        certificate = x509.load_der_x509_certificate(der)
        if "sha256:" + certificate.fingerprint(hashes.SHA256()).hex() == parsed.ca_fingerprint:
            federation = _federation_of(x509.load_der_x509_certificate(chain[0]))
            return Invitation(
                token=parsed,
                cluster=parsed.cluster,
                federation=federation,
                trust_domain=trust_domain_of(parsed.cluster, federation),
                root=der,
            )
    raise Denied(
        f"the registry at {parsed.registry} is not the one that issued this token",
        hint="ask the federation's operator for a new token",
        code="foreign_registry",
    )


async def join(
    token: str, authority: Authority, *, locality: Locality | None = None, timeout: float = 10.0
) -> Joined:
    """Redeem `token` for the cluster whose root `authority` keeps; safe to repeat with the same root.

    Raises Denied (used, expired, revoked or foreign token), AlreadyExists (the name is taken), InvalidInput
    (`authority` is of another trust domain), Unavailable, TimedOut, StorageFailed (of the registry).
    """
    invitation = await look_up(token, timeout=timeout)
    if authority.bundle.trust_domain != invitation.trust_domain:
        raise InvalidInput(
            f"the cluster's keys are of {authority.bundle.trust_domain}, the token is for {invitation.trust_domain}"
        )
    message = possession_message(invitation.token.secret, invitation.cluster, invitation.root)
    request = pb.JoinRequest(
        token=token,
        cluster=invitation.cluster,
        bundle=wire.bundle_to_pb(authority.bundle),
        possession=authority.sign_possession(message),
        locality=wire.locality_to_pb(locality or Locality()),
    )
    pem = x509.load_der_x509_certificate(invitation.root).public_bytes(Encoding.PEM)
    async with grpc.aio.secure_channel(
        invitation.token.registry,
        grpc.ssl_channel_credentials(root_certificates=pem),
        options=channel_options(f"registry.{invitation.federation}"),
    ) as channel:
        try:
            reply = await rpc.EnrolmentStub(channel).Join(request, timeout=timeout)  # type: ignore[no-untyped-call]
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, what=f"the registry at {invitation.token.registry}") from error
    return Joined(
        federation=reply.federation,
        trust_domain=reply.trust_domain,
        registry_bundle=wire.bundle_from_pb(reply.registry_bundle),
        single_machine=reply.single_machine,
        registry_address=reply.registry_address,
    )


def _federation_of(leaf: x509.Certificate) -> str:
    """The trust domain of the registry's own SPIFFE ID; gRPC proves the leaf against the pinned root afterwards."""
    with contextlib.suppress(x509.ExtensionNotFound):
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
            return SpiffeId.parse(uri).trust_domain
    raise Denied("the registry's certificate has no SPIFFE ID", code="foreign_registry")


async def _presented_chain(host: str, port: int, timeout: float) -> list[bytes]:
    """The certificates that the server shows, DER, leaf first. Not verified: the caller compares the fingerprint."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except TimeoutError as error:
        raise TimedOut(f"the registry at {host}:{port} did not answer in {timeout:g} s") from error
    except OSError as error:
        raise Unavailable(
            f"the registry at {host}:{port} cannot be reached: {error.strerror or error}",
            hint="is it running, and may this machine reach its enrolment port?",
        ) from error
    try:
        session = writer.get_extra_info("ssl_object")
        if hasattr(session, "get_unverified_chain"):  # public since Python 3.13
            return list(session.get_unverified_chain())
        return [c.public_bytes(ssl._ssl.ENCODING_DER) for c in session._sslobj.get_unverified_chain()]  # type: ignore[attr-defined]
    finally:
        writer.transport.abort()
