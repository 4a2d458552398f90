"""The certificates of a local cluster, as verifiers see them."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from clusters.kubepki import Authority, kubeconfig, public_pem
from federation.trust.keys import new_key

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("east root", NOW)


def policy(authority: Authority) -> PolicyBuilder:
    return PolicyBuilder().store(Store([authority.certificate])).time(NOW)


def test_the_server_is_who_its_names_and_addresses_say(authority: Authority) -> None:
    pair = authority.server(NOW, names=("kubernetes.default.svc",), addresses=("127.20.0.1", "::1"))
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    for subject in (
        x509.DNSName("kubernetes.default.svc"),
        x509.IPAddress(ipaddress.ip_address("127.20.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ):
        policy(authority).build_server_verifier(subject).verify(certificate, [])
    with pytest.raises(VerificationError):
        policy(authority).build_server_verifier(x509.DNSName("other")).verify(certificate, [])
    key = load_pem_private_key(pair.key, None)
    assert key.public_key() == certificate.public_key()


def test_a_user_is_the_common_name_and_groups_are_organizations(authority: Authority) -> None:
    pair = authority.client(NOW, "jane", ("readers", "writers"))
    subject = x509.load_pem_x509_certificate(pair.certificate).subject
    assert [a.value for a in subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)] == ["jane"]
    assert [a.value for a in subject.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)] == ["readers", "writers"]


def test_a_client_certificate_is_none_of_a_server(authority: Authority) -> None:
    certificate = x509.load_pem_x509_certificate(authority.client(NOW, "jane").certificate)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(VerificationError):
        policy(authority).build_server_verifier(x509.DNSName("jane")).verify(certificate, [])


def test_another_root_is_not_trusted(authority: Authority) -> None:
    other = Authority.create("east root", NOW)
    pair = other.server(NOW, names=("kubernetes",), addresses=())
    with pytest.raises(VerificationError):
        policy(authority).build_server_verifier(x509.DNSName("kubernetes")).verify(
            x509.load_pem_x509_certificate(pair.certificate), []
        )


def test_kubeconfigs_carry_a_certificate_or_a_token(authority: Authority) -> None:
    pair = authority.client(NOW, "jane")
    made = yaml.safe_load(kubeconfig("east", "https://127.20.0.1:6443", authority.pem, pair))
    assert made["current-context"] == "east"
    assert base64.b64decode(made["users"][0]["user"]["client-key-data"]) == pair.key
    assert base64.b64decode(made["clusters"][0]["cluster"]["certificate-authority-data"]) == authority.pem
    assert yaml.safe_load(kubeconfig("east", "https://x", b"", "secret"))["users"][0]["user"] == {"token": "secret"}


def test_the_public_half_alone_verifies_tokens() -> None:
    key = new_key()
    assert load_pem_public_key(public_pem(key)) == key.public_key()


def test_a_peer_is_a_server_and_a_client(authority: Authority) -> None:
    pair = authority.peer(NOW, "s1", names=("server.dc1.consul",), addresses=("127.20.0.1",))
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    policy(authority).build_server_verifier(x509.DNSName("server.dc1.consul")).verify(certificate, [])
    verified = policy(authority).build_client_verifier().verify(certificate, [])
    assert x509.IPAddress(ipaddress.ip_address("127.20.0.1")) in (verified.subjects or [])
