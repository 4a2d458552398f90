"""Keys and certificates of a local cluster: one root, the API server's certificate, users' and agents' certificates."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.trust.keys import PrivateKey, PublicKey, key_to_pem, new_key

LIFETIME = dt.timedelta(days=30)
"""Long enough for a cluster that somebody left running; nothing of it is worth more."""

_BACKDATED = dt.timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Authority:
    """The root of one cluster."""

    certificate: x509.Certificate
    key: PrivateKey

    @classmethod
    def create(cls, name: str, now: dt.datetime) -> Authority:
        """A new root with the common name `name`."""
        key = new_key()
        subject = _name(name)
        usage = _key_usage(key_cert_sign=True, crl_sign=True, digital_signature=True)
        certificate = (
            _builder(subject, subject, key.public_key(), now)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @property
    def pem(self) -> bytes:
        """The root certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def server(self, now: dt.datetime, *, names: Sequence[str], addresses: Sequence[str]) -> Pair:
        """A server certificate for DNS names and IP addresses."""
        return self._issue(_name("kube-apiserver"), now, [ExtendedKeyUsageOID.SERVER_AUTH], _san(names, addresses))

    def client(self, now: dt.datetime, user: str, groups: Sequence[str] = ()) -> Pair:
        """A certificate that the API server takes for `user`, a member of `groups`."""
        return self._issue(_name(user, groups), now, [ExtendedKeyUsageOID.CLIENT_AUTH], [])

    def peer(self, now: dt.datetime, user: str, *, names: Sequence[str], addresses: Sequence[str]) -> Pair:
        """A certificate for both ends of a connection, as the agents of a Consul datacenter have."""
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._issue(_name(user), now, purposes, _san(names, addresses))

    def _issue(
        self,
        subject: x509.Name,
        now: dt.datetime,
        purposes: Sequence[x509.ObjectIdentifier],
        names: Sequence[x509.GeneralName],
    ) -> Pair:
        key = new_key()
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            _builder(subject, self.certificate.subject, key.public_key(), now)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(issuer, critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return Pair(certificate=certificate.public_bytes(serialization.Encoding.PEM), key=key_to_pem(key))


def public_pem(key: PrivateKey) -> bytes:
    """The public half, as `--service-account-key-file` reads it."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def kubeconfig(name: str, server: str, root: bytes, credential: Pair | str) -> str:
    """A kubeconfig with one context `name`; the credential is a client certificate or a bearer token."""
    if isinstance(credential, str):
        user = {"token": credential}
    else:
        user = {
            "client-certificate-data": _base64(credential.certificate),
            "client-key-data": _base64(credential.key),
        }
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": _base64(root)}}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    return yaml.safe_dump(document, sort_keys=False)


def _builder(subject: x509.Name, issuer: x509.Name, key: PublicKey, now: dt.datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + LIFETIME)
    )


def _name(common: str, organizations: Sequence[str] = ()) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, one) for one in organizations]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _san(names: Sequence[str], addresses: Sequence[str]) -> list[x509.GeneralName]:
    dns = [x509.DNSName(name) for name in names]
    return [*dns, *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses)]


def _key_usage(*, digital_signature: bool, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
