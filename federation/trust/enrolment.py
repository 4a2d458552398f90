"""The first contact with a registry, or with an agent from afar: nothing is known of it but its root's fingerprint.

`fetch_pinned` asks the enrolment port for its certificate chain without believing it, accepts it only when the chain
ends in the root that the fingerprint names and that root really vouches for the leaf, and returns that root as the
bundle to build the gRPC channel with. Nothing, the token least of all, is sent before; the channel then verifies again,
against that one root.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509

from federation.aio.clock import Clock
from federation.errors import Denied, TimedOut, Unavailable
from federation.model.address import split_address
from federation.model.cluster import Bundle
from federation.model.ids import SpiffeId
from federation.trust.bundle import check_bundle, root_fingerprint
from federation.trust.channels import agent_server_name, registry_server_name
from federation.trust.keys import certificate_from_der
from federation.trust.svid import utc
from federation.trust.verify import read_leaf, verify_chain


@dataclass(frozen=True, slots=True)
class Party:
    """Who is expected at the other end: what it is called in errors, and by its certificate.

    `mismatch` and `hint` say what is wrong when its root is none that was expected.
    """

    what: str
    server_name: Callable[[str], str]
    mismatch: str
    hint: str


REGISTRY = Party(
    "registry",
    registry_server_name,
    "the registry does not show the root certificate that the join token names",
    "the token is of another registry, or somebody stands between; do not send it again",
)
AGENT = Party(
    "agent",
    agent_server_name,
    "what answers does not show the root certificate of this machine's cluster",
    "it is the agent of another cluster, or of one that was made anew, or somebody stands between: nothing was sent",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedServer:
    """A server whose root is the pinned one. `bundle` has sequence 0: the server's reply brings the real one."""

    spiffe_id: SpiffeId
    bundle: Bundle
    server_name: str

    @property
    def federation(self) -> str:
        """The federation's domain, which is the registry's trust domain."""
        return self.spiffe_id.trust_domain


async def fetch_pinned(
    address: str, *fingerprints: str, clock: Clock, timeout: float = 10.0, party: Party = REGISTRY
) -> PinnedServer:
    """Connect to `address` ("host:port") and prove that its root is one with one of the `fingerprints`.

    Raises Unavailable (nobody there, no TLS), TimedOut, Denied (pin_mismatch, or as `verify_chain`), InvalidInput.
    """
    chain = await reach(address, timeout=timeout, party=party)
    return check_pinned(chain, fingerprints, now=utc(clock), party=party)


async def reach(address: str, *, timeout: float = 10.0, party: Party = REGISTRY) -> tuple[bytes, ...]:
    """The chain that is shown at `address`, not believed: TCP and TLS work. Raises as `fetch_pinned`, but Denied."""
    host, port = split_address(address, what=f"the {party.what}'s address", zero=False)
    try:
        async with asyncio.timeout(timeout):
            return await _presented_chain(host, port)
    except TimeoutError as error:
        raise TimedOut(f"the {party.what} at {address} did not answer within {timeout:g} s") from error
    except ssl.SSLError as error:
        raise Unavailable(f"what answers at {address} is no {party.what}: {error.reason or error}") from error
    except OSError as error:
        raise Unavailable(
            f"the {party.what} cannot be reached at {address}: {error.strerror or error}",
            hint="is it running, and is its enrolment port reachable from here?",
        ) from error


def check_pinned(
    chain: tuple[bytes, ...], fingerprints: Collection[str], *, now: datetime, party: Party = REGISTRY
) -> PinnedServer:
    """The decision on a presented chain (DER, the leaf first, the root last); raises Denied."""
    if len(chain) < 2 or root_fingerprint(chain[-1]) not in fingerprints:
        raise Denied(party.mismatch, hint=party.hint, code="pin_mismatch")
    spiffe_id = read_leaf(certificate_from_der(chain[0]))
    bundle = Bundle(trust_domain=spiffe_id.trust_domain, sequence=0, roots=chain[-1:])
    check_bundle(bundle)
    verify_chain(chain[:-1], {bundle.trust_domain: bundle}, now=now)
    name = party.server_name(spiffe_id.trust_domain)
    names = certificate_from_der(chain[0]).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if name not in names.get_values_for_type(x509.DNSName):
        raise Denied(f"{spiffe_id} is no {party.what}: its certificate lacks the name {name}", code="svid_invalid")
    return PinnedServer(spiffe_id=spiffe_id, bundle=bundle, server_name=name)


async def _presented_chain(host: str, port: int) -> tuple[bytes, ...]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # believed by its fingerprint only, in check_pinned
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        return unverified_chain(writer.get_extra_info("ssl_object"))
    finally:
        writer.transport.abort()  # a shutdown handshake with somebody whom we do not know is no use


def unverified_chain(connection: Any) -> tuple[bytes, ...]:
    """The chain as presented: public from Python 3.13 on (DER), before that a method of the wrapped object."""
    public = getattr(connection, "get_unverified_chain", None)
    if public is not None:
        return tuple(public() or ())
    certificates = connection._sslobj.get_unverified_chain() or ()
    return tuple(ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in certificates)
