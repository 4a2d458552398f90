from __future__ import annotations

from typing import Any

from envoy.extensions.transport_sockets.tls.v3.common_pb2 import SubjectAltNameMatcher, TlsParameters
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext, UpstreamTlsContext
from envoy.extensions.transport_sockets.tls.v3.tls_spiffe_validator_config_pb2 import SPIFFECertValidatorConfig
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from federation.envoy import tls
from federation.model.cluster import Bundle


def bundle(domain: str, *roots: bytes) -> Bundle:
    return Bundle(trust_domain=domain, sequence=1, roots=roots)


def domains(secret: Any) -> list[str]:
    config = SPIFFECertValidatorConfig()
    secret.validation_context.custom_validator_config.typed_config.Unpack(config)
    return [d.name for d in config.trust_domains]


def test_callers_may_be_of_any_linked_domain_and_a_gateway_of_one() -> None:
    bundles = [bundle("west.test", b"w"), bundle("east.test", b"e"), bundle("empty.test")]
    everyone = tls.peers_secret(bundles)
    assert (everyone.name, domains(everyone)) == ("peers", ["east.test", "west.test"])
    one = tls.peer_secret(bundles[0])
    assert (one.name, domains(one)) == ("peers/west.test", ["west.test"])


def test_roots_are_written_as_pem() -> None:
    config = SPIFFECertValidatorConfig()
    secret = tls.peer_secret(bundle("west.test", b"x" * 60, b"y"))
    secret.validation_context.custom_validator_config.typed_config.Unpack(config)
    text = config.trust_domains[0].trust_bundle.inline_string
    assert text.count("-----BEGIN CERTIFICATE-----\n") == text.count("\n-----END CERTIFICATE-----\n") == 2
    assert max(map(len, text.splitlines())) == 64


def test_a_gateway_demands_a_certificate_and_a_server_name_and_resumes_nothing() -> None:
    context = DownstreamTlsContext()
    tls.downstream(["h2"]).typed_config.Unpack(context)
    assert context.require_client_certificate.value
    assert context.require_sni.value
    assert context.disable_stateless_session_resumption
    assert context.disable_stateful_session_resumption
    assert context.common_tls_context.validation_context_sds_secret_config.name == "peers"
    only_13(context.common_tls_context)


def test_a_workload_is_called_by_its_own_trust_domain_alone() -> None:
    context = DownstreamTlsContext()
    tls.downstream(["h2"], trust_domain="east.test").typed_config.Unpack(context)
    assert context.require_client_certificate.value
    assert context.require_sni.value
    assert context.common_tls_context.validation_context_sds_secret_config.name == "peers/east.test"
    only_13(context.common_tls_context)


def test_or_by_those_that_are_named() -> None:
    context = DownstreamTlsContext()
    accept = [StringMatcher(exact="spiffe://east.test/ns/a/sa/b"), StringMatcher(prefix="spiffe://east.test/ns/c/sa/")]
    tls.downstream(["h2"], trust_domain="east.test", accept=accept).typed_config.Unpack(context)
    combined = context.common_tls_context.combined_validation_context
    assert combined.validation_context_sds_secret_config.name == "peers/east.test"
    sans = combined.default_validation_context.match_typed_subject_alt_names
    assert [s.matcher for s in sans] == accept
    assert {s.san_type for s in sans} == {SubjectAltNameMatcher.URI}


def test_a_caller_believes_the_identity_that_an_endpoint_has() -> None:
    context = UpstreamTlsContext()
    db = "spiffe://east.test/ns/shop/sa/db"
    tls.upstream(sni="p80.a", alpn=["h2"], trust_domain="east.test", identity=db).typed_config.Unpack(context)
    (san,) = (
        context.common_tls_context.combined_validation_context.default_validation_context.match_typed_subject_alt_names
    )
    assert san.matcher.exact == db


def test_a_caller_believes_one_identity_with_the_roots_of_its_domain() -> None:
    context = UpstreamTlsContext()
    tls.upstream(sni="p80.a", alpn=["h2"], trust_domain="west.test").typed_config.Unpack(context)
    combined = context.common_tls_context.combined_validation_context
    assert combined.validation_context_sds_secret_config.name == "peers/west.test"
    (san,) = combined.default_validation_context.match_typed_subject_alt_names
    assert san.matcher.WhichOneof("match_pattern") == "exact"
    assert san.matcher.exact == tls.gateway_identity("west.test")
    assert (context.sni, context.max_session_keys.value) == ("p80.a", 0)
    assert context.HasField("max_session_keys")
    only_13(context.common_tls_context)


def only_13(common: Any) -> None:
    parameters = common.tls_params
    assert parameters.tls_minimum_protocol_version == parameters.tls_maximum_protocol_version == TlsParameters.TLSv1_3
    assert [s.name for s in common.tls_certificate_sds_secret_configs] == ["identity"]
