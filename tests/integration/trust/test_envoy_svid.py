"""Forged identities against a real Envoy: what its SPIFFE validator refuses, and what our configuration must not ask.

Envoy checks less than `verify_chain`: it reads the first URI name and ignores the others, where the specification
wants exactly one. So a member can add another domain's name behind its own. Two rules keep that harmless, and are
proven here: callers are admitted by the *beginning* of %DOWNSTREAM_PEER_URI_SAN% (all names, joined), which is the name
that was verified, never by a matcher that looks at any name; and a client verifies a server with a context of one
trust domain.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.aio.clock import SystemClock
from federation.errors import Denied
from federation.model.cluster import Bundle
from federation.trust.keys import certificate_der, chain_to_pem, key_to_pem
from federation.trust.svid import utc
from federation.trust.verify import verify_chain

pytestmark = pytest.mark.integration

EAST, WEST = "east.fed.test", "west.fed.test"
EAST_ID, WEST_ID = f"spiffe://{EAST}/ns/shop/sa/echo", f"spiffe://{WEST}/ns/shop/sa/echo"
NOW = utc(SystemClock()).replace(microsecond=0)
HOUR = timedelta(hours=1)
TYPES = "type.googleapis.com/envoy.extensions."


@dataclass(frozen=True)
class Signed:
    """A certificate with its key and its issuer's name."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return certificate_der(self.certificate)


def signed(
    name: str,
    uris: Sequence[str],
    issuer: Signed | None,
    *,
    ca: bool = False,
    cert_sign: bool | None = None,
    not_after: timedelta = HOUR,
) -> Signed:
    """Whatever is asked for; an authority of ours would refuse most of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = issuer.key if issuer else key
    cert_sign = ca if cert_sign is None else cert_sign
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - HOUR)
        .not_valid_after(NOW + not_after)
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(
            x509.KeyUsage(True, False, False, False, False, cert_sign, cert_sign, False, False), critical=True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if not ca:
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
    if uris:
        names = [x509.UniformResourceIdentifier._init_without_validation(u) for u in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Signed(builder.sign(signer, hashes.SHA256()), key)


@pytest.fixture(scope="module")
def roots() -> dict[str, Signed]:
    return {d: signed(f"root of {d}", [f"spiffe://{d}"], None, ca=True) for d in (EAST, WEST)}


def listener(name: str, path: Path, server: Signed, trusted: dict[str, Signed], matcher: Any = None) -> Any:
    """A listener that demands an SVID and answers with what Envoy knows of the caller, if it is one of East."""
    domains = [
        {"name": d, "trust_bundle": {"inline_string": chain_to_pem([r.der]).decode()}} for d, r in trusted.items()
    ]
    validation: dict[str, Any] = {
        "custom_validator_config": {
            "name": "envoy.tls.cert_validator.spiffe",
            "typed_config": {
                "@type": TYPES + "transport_sockets.tls.v3.SPIFFECertValidatorConfig",
                "trust_domains": domains,
            },
        }
    }
    if matcher:
        validation["match_typed_subject_alt_names"] = [{"san_type": "URI", "matcher": matcher}]
    tls = {
        "@type": TYPES + "transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [
                {
                    "certificate_chain": {"inline_string": chain_to_pem([server.der]).decode()},
                    "private_key": {"inline_string": key_to_pem(server.key).decode()},
                }
            ],
            "validation_context": validation,
        },
    }
    state = {
        "@type": TYPES + "filters.http.set_filter_state.v3.Config",
        "on_request_headers": [
            {
                "object_key": "peer",
                "factory_key": "envoy.string",
                "format_string": {"text_format_source": {"inline_string": "%DOWNSTREAM_PEER_URI_SAN%"}},
            }
        ],
    }
    rbac = {
        "@type": TYPES + "filters.http.rbac.v3.RBAC",
        "rules": {
            "action": "ALLOW",
            "policies": {
                "east": {
                    "permissions": [{"any": True}],
                    "principals": [{"filter_state": {"key": "peer", "string_match": {"prefix": f"spiffe://{EAST}/"}}}],
                }
            },
        },
    }
    routes = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    manager = {
        "@type": TYPES + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "http_filters": [
            {"name": "state", "typed_config": state},
            {"name": "rbac", "typed_config": rbac},
            {"name": "router", "typed_config": {"@type": TYPES + "filters.http.router.v3.Router"}},
        ],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [routes]}]},
    }
    return {
        "name": name,
        "address": {"pipe": {"path": str(path)}},
        "filter_chains": [
            {
                "transport_socket": {"name": "tls", "typed_config": tls},
                "filters": [{"name": "http", "typed_config": manager}],
            }
        ],
    }


@dataclass(frozen=True)
class Envoy:
    directory: Path

    async def call(self, listener: str, *chain: Signed) -> str:
        """ "refused" by TLS, or the status of the answer."""
        certificate, key = self.directory / "client.pem", self.directory / "client.key"
        context = _client_context(certificate, key, chain)
        try:
            reader, writer = await asyncio.open_unix_connection(
                str(self.directory / f"{listener}.sock"), ssl=context, server_hostname=""
            )
            try:
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                answer = await asyncio.wait_for(reader.readline(), 10)
            finally:
                writer.transport.abort()
        except (ssl.SSLError, ConnectionResetError, BrokenPipeError):
            return "refused"
        return answer.split()[1].decode() if answer else "refused"


def _client_context(certificate: Path, key: Path, chain: Sequence[Signed]) -> ssl.SSLContext:
    certificate.write_bytes(chain_to_pem([s.der for s in chain]))
    key.write_bytes(key_to_pem(chain[0].key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(certificate, key)
    return context


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory, roots: dict[str, Signed]) -> Iterator[Envoy]:
    directory = tmp_path_factory.mktemp("envoy")
    server = signed("gateway", [f"spiffe://{EAST}/ns/isthmus-system/sa/gateway"], roots[EAST])
    one_domain = {EAST: roots[EAST]}
    config = {
        "node": {"id": "test", "cluster": "test"},
        "static_resources": {
            "listeners": [
                listener("both", directory / "both.sock", server, roots),
                listener("any", directory / "any.sock", server, roots, {"exact": EAST_ID}),
                listener("one", directory / "one.sock", server, one_domain, {"exact": EAST_ID}),
            ]
        },
    }
    path = directory / "envoy.json"
    path.write_text(json.dumps(config))
    binary = Path(sys.executable).with_name("envoy")
    process = subprocess.Popen(
        [binary, "-c", path, "--use-dynamic-base-id", "--concurrency", "1", "-l", "off"], stdin=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 30
        while not all(_listens(directory / f"{name}.sock") for name in ("both", "any", "one")):
            assert process.poll() is None, "Envoy has ended"
            assert time.monotonic() < deadline, "Envoy does not listen"
            time.sleep(0.05)
        yield Envoy(directory)
    finally:
        process.terminate()
        process.wait(10)


FORGERIES: dict[str, tuple[Sequence[str], dict[str, Any]]] = {
    "a foreign name": ([EAST_ID], {}),
    "a foreign name before the own": ([EAST_ID, WEST_ID], {}),
    "NUL in the trust domain": ([f"spiffe://{WEST}\0.{EAST}/ns/shop/sa/echo"], {}),
    "NUL behind the foreign domain": ([f"spiffe://{EAST}\0.{WEST}/ns/shop/sa/echo"], {}),
    "a CA": ([WEST_ID], {"ca": True, "cert_sign": False}),
    "a signing CA": ([WEST_ID], {"ca": True}),
    "a signing leaf": ([WEST_ID], {"cert_sign": True}),
    "no name": ([], {}),
    "another scheme": ([f"https://{WEST}/ns/shop/sa/echo"], {}),
    "upper case": (["spiffe://WEST.fed.test/ns/shop/sa/echo"], {}),
    "expired": ([WEST_ID], {"not_after": -timedelta(seconds=1)}),
}


async def test_forgeries_are_refused_by_envoy_and_by_python(envoy: Envoy, roots: dict[str, Signed]) -> None:
    bundles = {d: Bundle(trust_domain=d, sequence=1, roots=(r.der,)) for d, r in roots.items()}
    assert await envoy.call("both", signed("leaf", [EAST_ID], roots[EAST])) == "200"
    assert await envoy.call("both", signed("leaf", [WEST_ID], roots[WEST])) == "403"  # believed, but not East
    for what, (uris, changes) in FORGERIES.items():
        forged = signed("leaf", uris, roots[WEST], **changes)
        assert await envoy.call("both", forged) == "refused", what
        with pytest.raises(Denied):
            verify_chain([forged.der], bundles, now=NOW)
    not_a_ca = signed("middle", [f"spiffe://{WEST}"], roots[WEST], cert_sign=True)
    leaf = signed("leaf", [WEST_ID], not_a_ca)
    assert await envoy.call("both", leaf, not_a_ca) == "refused"


async def test_a_second_name_wins_nothing(envoy: Envoy, roots: dict[str, Signed]) -> None:
    bundles = {d: Bundle(trust_domain=d, sequence=1, roots=(r.der,)) for d, r in roots.items()}
    double = signed("leaf", [WEST_ID, EAST_ID], roots[WEST])
    with pytest.raises(Denied) as caught:
        verify_chain([double.der], bundles, now=NOW)
    assert caught.value.error_code == "svid_invalid"
    # By the beginning of the joined names: it is West, whose root vouched.
    assert await envoy.call("both", double) == "403"
    # A matcher over a context of several domains looks at any name. This is why a client's context has one domain:
    # if Envoy ever refuses here, that rule has become superfluous.
    assert await envoy.call("any", double) != "refused"
    assert await envoy.call("one", double) == "refused"
    assert await envoy.call("one", signed("leaf", [EAST_ID], roots[EAST])) == "200"
