"""A connection to a gateway by mutual TLS, as a gateway of this cluster would make it; errors say what was in the way.

What is at the other end is proven as everywhere (federation.trust.verify): by the roots of exactly the trust domain
that is expected, and it has to be a gateway. The identity shown is the agent's own, of this cluster's trust domain.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

from federation.aio.clock import Clock
from federation.envoy.tls import gateway_identity
from federation.errors import Denied, IsthmusError, Unavailable
from federation.model.cluster import Bundle, Gateway
from federation.trust.enrolment import unverified_chain
from federation.trust.keys import certificate_from_der
from federation.trust.svid import Svid, utc
from federation.trust.verify import verify_chain

NO_ROUTE, NOBODY_LISTENS, NO_TLS = "no_route", "nobody_listens", "tls_failed"
REFUSED, UNTRUSTED = "tls_refused", "gateway_untrusted"

_ANSWERED_BYTES = 64 * 1024
"""More of an answer is not read."""


@dataclass(frozen=True, slots=True)
class Line:
    """A connection whose other end was proven; wall time in ns."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    not_after_ns: int


def tls_context(svid: Svid, alpn: str) -> ssl.SSLContext:
    """Shows `svid`; what the other end shows is judged afterwards, by `verify_chain`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    # ssl reads keys from files only: this one never touches a disk.
    held = os.memfd_create("svid", os.MFD_CLOEXEC)
    try:
        with os.fdopen(held, "wb", closefd=False) as file:
            file.write(svid.key_pem + svid.chain_pem)
        context.load_cert_chain(f"/proc/self/fd/{held}")
    finally:
        os.close(held)
    return context


async def connect(
    host: str, port: int, *, patience: float, tls: ssl.SSLContext | None = None, server_name: str = ""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection within `patience` (s). Raises Unavailable (no_route, nobody_listens, tls_failed, tls_refused)."""
    where = f"{host} port {port}"
    try:
        async with asyncio.timeout(patience):
            if tls is None:
                return await asyncio.open_connection(host, port)
            return await asyncio.open_connection(host, port, ssl=tls, server_hostname=server_name)
    except TimeoutError as error:
        raise Unavailable(f"no connection to {where} within {patience:g} s", code=NO_ROUTE) from error
    except ConnectionRefusedError as error:
        raise Unavailable(f"nobody listens at {where}", code=NOBODY_LISTENS) from error
    except (ssl.SSLError, ConnectionResetError, ConnectionAbortedError) as error:
        raise refused(error, where) from error
    except OSError as error:
        raise Unavailable(f"no route to {where}: {error.strerror or error}", code=NO_ROUTE) from error


def refused(error: Exception, where: str) -> Unavailable:
    """What a broken TLS connection means: an alert is an answer of the other end, all else is none."""
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        reason = str(error.reason).replace("_", " ").lower()
        return Unavailable(
            f"{where} refuses this cluster's certificate: {reason}",
            hint="is the link known there, and this cluster's root pinned?",
            code=REFUSED,
        )
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error) or "it was cut"
    return Unavailable(f"what answers at {where} does not complete TLS: {reason}", code=NO_TLS)


@contextlib.asynccontextmanager
async def line(
    gateway: Gateway, *, bundle: Bundle, svid: Svid, alpn: str, server_name: str, patience: float, clock: Clock
) -> AsyncIterator[Line]:
    """A proven connection to `gateway`, which is of the trust domain of `bundle`.

    Raises Unavailable as `connect`, Denied (gateway_untrusted).
    """
    context = tls_context(svid, alpn)
    reader, writer = await connect(
        gateway.address, gateway.port, patience=patience, tls=context, server_name=server_name
    )
    try:
        chain = unverified_chain(writer.get_extra_info("ssl_object"))
        yield Line(reader, writer, check_gateway(chain, bundle, clock=clock))
    finally:
        writer.transport.abort()


def check_gateway(chain: tuple[bytes, ...], bundle: Bundle, *, clock: Clock) -> int:
    """When the certificate of a gateway of `bundle`'s trust domain ends (wall ns). Raises Denied."""
    try:
        found = verify_chain(chain, {bundle.trust_domain: bundle}, now=utc(clock))
    except IsthmusError as error:
        raise Denied(f"what answers proves nothing: {error.message}", hint=error.hint, code=UNTRUSTED) from error
    if str(found) != gateway_identity(bundle.trust_domain):
        raise Denied(f"what answers is {found}, and no gateway of {bundle.trust_domain}", code=UNTRUSTED)
    return int(certificate_from_der(chain[0]).not_valid_after_utc.timestamp()) * 1_000_000_000


async def read_some(reader: asyncio.StreamReader, where: str) -> bytes:
    """The next bytes, none at the end; raises Unavailable when TLS is refused: 1.3 says so after the handshake."""
    try:
        return await reader.read(_ANSWERED_BYTES)
    except (ssl.SSLError, OSError) as error:
        raise refused(error, where) from error
