"""Worlds of trust domains, and certificates that no honest authority would sign."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.aio.clock import FakeClock
from federation.trust.authority import Authority
from federation.trust.keys import certificate_der, key_to_pem

NOW = datetime.fromtimestamp(1_750_000_000, tz=UTC)
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@dataclass(kw_only=True)
class Forge:
    """Signs anything: every rule can be broken by a field. `sign` gives the certificate."""

    name: str = "root"
    uris: Sequence[str] = ()
    dns: Sequence[str] = ()
    ca: bool = False
    path_length: int | None = None
    digital_signature: bool = True
    cert_sign: bool = False
    usage_critical: bool = True
    with_usage: bool = True
    extended: Sequence[x509.ObjectIdentifier] | None = BOTH
    not_before: datetime = NOW - timedelta(minutes=5)
    not_after: datetime = NOW + timedelta(hours=1)
    extra: Sequence[tuple[x509.ExtensionType, bool]] = ()
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    certificate: x509.Certificate | None = None

    @property
    def der(self) -> bytes:
        assert self.certificate is not None
        return certificate_der(self.certificate)

    @property
    def key_pem(self) -> bytes:
        return key_to_pem(self.key)

    def sign(self, issuer: Forge | None = None) -> Forge:
        issuer = issuer or self
        names = [x509.UniformResourceIdentifier._init_without_validation(u) for u in self.uris]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, self.name)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer.name)]))
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.not_before)
            .not_valid_after(self.not_after)
            .add_extension(x509.BasicConstraints(self.ca, self.path_length if self.ca else None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
        )
        if self.with_usage:
            usage = x509.KeyUsage(
                self.digital_signature, False, False, False, False, self.cert_sign, self.cert_sign, False, False
            )
            builder = builder.add_extension(usage, critical=self.usage_critical)
        if self.extended and not self.ca:
            builder = builder.add_extension(x509.ExtendedKeyUsage(self.extended), critical=False)
        if names or self.dns:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([*names, *map(x509.DNSName, self.dns)]), critical=False
            )
        for extension, critical in self.extra:
            builder = builder.add_extension(extension, critical=critical)
        self.certificate = builder.sign(issuer.key, hashes.SHA256())
        return self


def ca(name: str, trust_domain: str, **changes: object) -> Forge:
    """A CA certificate as an honest authority would have it, but for `changes`."""
    fields: dict[str, object] = {
        "name": name,
        "uris": [f"spiffe://{trust_domain}"] if trust_domain else [],
        "ca": True,
        "digital_signature": False,
        "cert_sign": True,
        "not_after": NOW + timedelta(days=30),
    }
    return Forge(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(wall_ns=int(NOW.timestamp()) * 10**9)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def authority(tmp_path: Path, clock: FakeClock) -> Callable[[str], Authority]:
    """Opens (and makes) the authority of a trust domain."""
    return lambda domain: Authority.open(tmp_path / domain, trust_domain=domain, clock=clock)


@pytest.fixture
def forge() -> Callable[..., Forge]:
    """A leaf's forge: `forge(uris=[…]).sign(issuer)`."""
    return lambda **changes: Forge(**({"name": "leaf"} | changes))


@pytest.fixture
def forge_ca() -> Callable[..., Forge]:
    return ca
