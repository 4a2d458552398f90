"""TLS between clusters: version 1.3 only, SPIFFE identities on both sides, secrets over SDS.

Whom a gateway lets call: one SPIFFE validator with a bundle for each trust domain; Envoy chooses the bundle by the
domain of the peer's first URI, so that no root can vouch for another one (SPIFFE X.509-SVID, 5). Whom a caller takes
for an answer: the bundle of one trust domain and one exact URI. Never a union there: Envoy ignores all URIs but the
first when it verifies, and looks at every one when it matches, so that a member could add another's name. For the same
reason a sidecar that lets only some identities call its workload has the bundle of its own trust domain alone.
"""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Iterable, Sequence
from typing import Protocol

from envoy.config.core.v3.base_pb2 import DataSource, TransportSocket
from envoy.config.core.v3.config_source_pb2 import AggregatedConfigSource, ApiVersion, ConfigSource
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer_pb2 import RawBuffer
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    SubjectAltNameMatcher,
    TlsCertificate,
    TlsParameters,
)
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig, Secret
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext
from envoy.extensions.transport_sockets.tls.v3.tls_spiffe_validator_config_pb2 import SPIFFECertValidatorConfig
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from federation.envoy import names
from federation.envoy.message import flag, number, pack
from federation.model.cluster import Bundle
from federation.model.ids import SYSTEM_NAMESPACE, SpiffeId


class Identity(Protocol):
    """What a process proves itself with: certificates (leaf first) and the leaf's key, both PEM."""

    @property
    def chain_pem(self) -> bytes: ...
    @property
    def key_pem(self) -> bytes: ...


def ads() -> ConfigSource:
    """Resources come over the one aggregated stream."""
    return ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


def identity_secret(identity: Identity) -> Secret:
    """The secret `identity`."""
    return Secret(
        name=names.IDENTITY,
        tls_certificate=TlsCertificate(
            certificate_chain=DataSource(inline_bytes=identity.chain_pem),
            private_key=DataSource(inline_bytes=identity.key_pem),
        ),
    )


def peers_secret(bundles: Iterable[Bundle]) -> Secret:
    """The secret `peers`. A bundle without roots is left out: its domain is trusted with nothing."""
    return _spiffe(names.PEERS, bundles)


def peer_secret(bundle: Bundle) -> Secret:
    """The secret `peers/<trust domain>`; `bundle` has roots."""
    return _spiffe(names.peer_secret(bundle.trust_domain), [bundle])


def _spiffe(name: str, bundles: Iterable[Bundle]) -> Secret:
    domains = [
        SPIFFECertValidatorConfig.TrustDomain(
            name=bundle.trust_domain,
            trust_bundle=DataSource(inline_string="".join(map(_pem, bundle.roots))),
        )
        for bundle in sorted(bundles, key=lambda b: b.trust_domain)
        if bundle.roots
    ]
    return Secret(
        name=name,
        validation_context=CertificateValidationContext(
            custom_validator_config=TypedExtensionConfig(
                name="envoy.tls.cert_validator.spiffe",
                typed_config=pack(SPIFFECertValidatorConfig(trust_domains=domains)),
            )
        ),
    )


def gateway_identity(trust_domain: str) -> str:
    """The only identity that a caller accepts from the gateways of `trust_domain`."""
    return str(SpiffeId.workload(trust_domain, SYSTEM_NAMESPACE, "gateway"))


def downstream(
    alpn: Sequence[str], *, trust_domain: str | None = None, accept: Iterable[StringMatcher] = ()
) -> TransportSocket:
    """What a gateway speaks to its callers, or a sidecar to those of its workload, who are all of `trust_domain`.

    `accept`: what one of them has to have as its URI; empty: any. No resumption: a ticket would outlive a link that was
    cut.
    """
    context = DownstreamTlsContext(
        common_tls_context=_common(alpn, trust_domain=trust_domain, accept=accept),
        require_client_certificate=flag(True),
        require_sni=flag(True),
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
    )
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def upstream(*, sni: str, alpn: Sequence[str], trust_domain: str, identity: str = "") -> TransportSocket:
    """What a caller speaks to a workload of `trust_domain` that proves `identity`; empty: to a gateway of it, whose
    `gateway_identity` alone it takes for an answer."""
    accept = StringMatcher(exact=identity or gateway_identity(trust_domain))
    context = UpstreamTlsContext(
        common_tls_context=_common(alpn, trust_domain=trust_domain, accept=[accept]),
        sni=sni,
        max_session_keys=number(0),
    )
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def plain() -> TransportSocket:
    """No TLS: to endpoints of the own cluster that have no identity."""
    return TransportSocket(name="envoy.transport_sockets.raw_buffer", typed_config=pack(RawBuffer()))


def _common(alpn: Sequence[str], *, trust_domain: str | None, accept: Iterable[StringMatcher]) -> CommonTlsContext:
    context = CommonTlsContext(
        tls_params=TlsParameters(
            tls_minimum_protocol_version=TlsParameters.TLSv1_3, tls_maximum_protocol_version=TlsParameters.TLSv1_3
        ),
        tls_certificate_sds_secret_configs=[SdsSecretConfig(name=names.IDENTITY, sds_config=ads())],
        alpn_protocols=alpn,
    )
    roots = names.PEERS if trust_domain is None else names.peer_secret(trust_domain)
    secret = SdsSecretConfig(name=roots, sds_config=ads())
    matchers = [SubjectAltNameMatcher(san_type=SubjectAltNameMatcher.URI, matcher=text) for text in accept]
    if matchers:
        combined = CommonTlsContext.CombinedCertificateValidationContext(
            default_validation_context=CertificateValidationContext(match_typed_subject_alt_names=matchers),
            validation_context_sds_secret_config=secret,
        )
        context.combined_validation_context.CopyFrom(combined)
    else:
        context.validation_context_sds_secret_config.CopyFrom(secret)
    return context


def _pem(der: bytes) -> str:
    body = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64))
    return f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"
