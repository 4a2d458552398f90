"""A trust domain's certificate authority: a root that is kept on disk, and an intermediate that signs leaves.

The root's key signs intermediates, bundles and the proof of possession; nothing else. The intermediate lives in memory
only: a restart makes a new one, peers never see the difference (a chain brings its intermediate along), and the disk
holds a single secret. Intermediates carry no name constraints: see docs/adr/0002-trust.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.aio.clock import Clock
from federation.errors import Conflict, CorruptState, InvalidInput
from federation.model.cluster import Bundle
from federation.model.ids import SYSTEM_NAMESPACE, SpiffeId, parse_domain
from federation.trust import possession
from federation.trust.bundle import check_bundle
from federation.trust.keys import (
    PrivateKey,
    PublicKey,
    certificate_der,
    certificates_from_pem,
    check_public_key,
    key_from_pem,
    key_to_pem,
    new_key,
    public_der,
)
from federation.trust.keystore import private_directory, read_secret, write_secret
from federation.trust.svid import BACKDATE, Svid, utc
from federation.trust.verify import read_leaf

ROOT_LIFETIME = timedelta(days=3650)
INTERMEDIATE_LIFETIME = timedelta(days=30)
MAX_TTL = timedelta(hours=24)
DEFAULT_TTL = timedelta(hours=1)

ROOT_FILE = "root.pem"
"""Key and certificate of the root, in the directory of an authority."""
_SERVICES = f".{SYSTEM_NAMESPACE}.svc"
_CORRUPT_HINT = (
    "restore it from a backup; without one, move it away and let the cluster leave and join again with a new identity"
)


@dataclass(frozen=True, slots=True)
class _Signer:
    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)


class Authority:
    """Issues the SVIDs of one trust domain. Not for use from several threads."""

    def __init__(self, root: _Signer, *, trust_domain: str, clock: Clock) -> None:
        self.trust_domain = trust_domain
        self.bundle = Bundle(trust_domain=trust_domain, sequence=1, roots=(certificate_der(root.certificate),))
        self._root = root
        self._clock = clock
        self._intermediate: _Signer | None = None

    @classmethod
    def open(cls, directory: Path, *, trust_domain: str, clock: Clock) -> Authority:
        """Load the root from `directory`, or make one there (directory 0700, file 0600).

        Raises CorruptState (damaged file), Denied (others can read the key), StorageFailed, Conflict (the directory
        holds another trust domain's root), InvalidName.
        """
        parse_domain(trust_domain, what="trust domain")
        private_directory(directory)
        path = directory / ROOT_FILE
        pem = read_secret(path, hint=_CORRUPT_HINT)
        if pem is None:
            root = _make_root(trust_domain, utc(clock))
            write_secret(path, key_to_pem(root.key) + root.certificate.public_bytes(serialization.Encoding.PEM))
        else:
            root = _load_root(pem, path)
        names = root.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = names.get_values_for_type(x509.UniformResourceIdentifier)
        if found != [f"spiffe://{trust_domain}"]:
            raise Conflict(f"{path} is the root of {', '.join(found)}, not of spiffe://{trust_domain}")
        authority = cls(root, trust_domain=trust_domain, clock=clock)
        check_bundle(authority.bundle, trust_domain=trust_domain)
        return authority

    def issue(
        self,
        public_key: PublicKey,
        *,
        spiffe_id: SpiffeId,
        ttl: timedelta = DEFAULT_TTL,
        dns_names: Sequence[str] = (),
    ) -> Svid:
        """A leaf for `public_key`; `key_pem` of the result is empty.

        `ttl` is at most 24 h; the leaf never outlives its issuers. `dns_names` lie below the trust domain, or are those
        of a Service of ours. Raises InvalidInput (ttl, key, names), Conflict (root_expired).
        """
        if not timedelta(0) < ttl <= MAX_TTL:
            raise InvalidInput(f"a leaf lives at most {MAX_TTL} and more than nothing, not {ttl}", code="invalid_ttl")
        if spiffe_id.trust_domain != self.trust_domain:
            raise InvalidInput(f"{spiffe_id} is not in the trust domain {self.trust_domain}", code="invalid_name")
        for name in dns_names:
            if not parse_domain(name, what="DNS name").endswith((f".{self.trust_domain}", _SERVICES)):
                raise InvalidInput(f"the DNS name {name} is not below {self.trust_domain}", code="invalid_name")
        check_public_key(public_key)
        now = utc(self._clock).replace(microsecond=0)
        signer = self._current_intermediate(now)
        not_before, not_after = now - BACKDATE, min(now + ttl, signer.certificate.not_valid_after_utc)
        uri = SpiffeId.parse(str(spiffe_id))  # whoever made the value: nothing else is ever signed
        alternative = [x509.UniformResourceIdentifier(str(uri)), *map(x509.DNSName, dns_names)]
        leaf = (
            _builder(x509.Name([]), public_key, signer, not_before, not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            # Critical, because the subject is empty (RFC 5280, 4.2.1.6).
            .add_extension(x509.SubjectAlternativeName(alternative), critical=True)
            .sign(signer.key, hashes.SHA256())
        )
        read_leaf(leaf)
        return Svid(
            spiffe_id=uri,
            chain=(certificate_der(leaf), certificate_der(signer.certificate)),
            not_before=not_before,
            not_after=not_after,
        )

    def issue_with_key(
        self, *, spiffe_id: SpiffeId, ttl: timedelta = DEFAULT_TTL, dns_names: Sequence[str] = ()
    ) -> Svid:
        """As `issue`, with a new key that the result holds: for the process that owns the authority."""
        key = new_key()
        svid = self.issue(key.public_key(), spiffe_id=spiffe_id, ttl=ttl, dns_names=dns_names)
        return Svid(
            spiffe_id=svid.spiffe_id,
            chain=svid.chain,
            key_pem=key_to_pem(key),
            not_before=svid.not_before,
            not_after=svid.not_after,
        )

    def sign_possession(self, message: bytes) -> bytes:
        """A signature by the root's key that `possession.check_possession` verifies."""
        return possession.sign(self._root.key, message)

    def _current_intermediate(self, now: datetime) -> _Signer:
        """The intermediate, made anew at half of its life."""
        current = self._intermediate
        if current is not None and current.certificate.not_valid_after_utc - now > INTERMEDIATE_LIFETIME / 2:
            return current
        root = self._root.certificate
        not_after = min(now + INTERMEDIATE_LIFETIME, root.not_valid_after_utc)
        if not_after <= now:
            raise Conflict(
                f"the root of {self.trust_domain} expired on {root.not_valid_after_utc:%Y-%m-%d}", code="root_expired"
            )
        key = new_key()
        certificate = _sign_ca(
            self.trust_domain, key, self._root, path_length=0, not_before=now - BACKDATE, not_after=not_after
        )
        self._intermediate = _Signer(certificate, key)
        return self._intermediate


def _make_root(trust_domain: str, now: datetime) -> _Signer:
    key = new_key()
    now = now.replace(microsecond=0)
    certificate = _sign_ca(
        trust_domain, key, None, path_length=1, not_before=now - BACKDATE, not_after=now + ROOT_LIFETIME
    )
    return _Signer(certificate, key)


def _load_root(pem: bytes, path: Path) -> _Signer:
    try:
        certificate = certificates_from_pem(pem)[0]
        key = key_from_pem(pem)
    except InvalidInput as error:
        raise CorruptState(f"{path} holds no root: {error.message}", hint=_CORRUPT_HINT) from error
    if public_der(key.public_key()) != public_der(check_public_key(certificate.public_key())):
        raise CorruptState(f"the key and the certificate in {path} do not belong together", hint=_CORRUPT_HINT)
    return _Signer(certificate, key)


def _sign_ca(
    trust_domain: str,
    key: PrivateKey,
    issuer: _Signer | None,
    *,
    path_length: int,
    not_before: datetime,
    not_after: datetime,
) -> x509.Certificate:
    """A signing certificate (X.509-SVID, section 4.1): CA, path length, the trust domain as its URI."""
    subject = _ca_name(trust_domain, "root" if issuer is None else "intermediate", key)
    signer_key = key if issuer is None else issuer.key
    return (
        _builder(subject, key.public_key(), issuer, not_before, not_after, own_key=key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]), critical=False
        )
        .sign(signer_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    public_key: PublicKey,
    issuer: _Signer | None,
    not_before: datetime,
    not_after: datetime,
    *,
    own_key: PrivateKey | None = None,
) -> x509.CertificateBuilder:
    if issuer is not None:
        issuer_name, issuer_key = issuer.certificate.subject, issuer.key.public_key()
    else:
        assert own_key is not None  # noqa: S101 - only a root has no issuer, and it signs itself
        issuer_name, issuer_key = subject, own_key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _ca_name(trust_domain: str, role: str, key: PrivateKey) -> x509.Name:
    """DC=…,DC=…,CN=<role> <key id>: unique per key, so that TLS libraries find the issuer among many roots."""
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()[:16]
    labels = [x509.NameAttribute(NameOID.DOMAIN_COMPONENT, part) for part in reversed(trust_domain.split("."))]
    return x509.Name([*labels, x509.NameAttribute(NameOID.COMMON_NAME, f"{role} {key_id}")])


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
