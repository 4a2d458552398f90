"""Key pairs and certificates as bytes: P-256 keys, PEM and DER, detached signatures with a purpose."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from federation.errors import InvalidInput

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

_CURVES = (ec.SECP256R1, ec.SECP384R1)
_MIN_RSA_BITS = 2048


def new_key() -> PrivateKey:
    """A new P-256 key: the curve that Envoy, gRPC and every TLS 1.3 peer accept."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: PrivateKey) -> bytes:
    """PKCS#8, not encrypted: the file's mode (0600) is what protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def key_from_pem(pem: bytes) -> PrivateKey:
    """Raises InvalidInput for anything but an unencrypted EC key on a curve that we accept."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInput("no private key in PEM", code="malformed_key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, _CURVES):
        raise InvalidInput("the private key is not on the curve P-256 or P-384", code="malformed_key")
    return key


def public_der(key: PublicKey) -> bytes:
    """SubjectPublicKeyInfo, the form in which keys are compared."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_from_der(der: bytes) -> PublicKey:
    """What `public_der` wrote; raises InvalidInput (malformed_key, unsupported_key)."""
    try:
        key = serialization.load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInput("no public key", code="malformed_key") from error
    return check_public_key(key)


def public_fingerprint(key: PublicKey) -> str:
    """ "sha256:<64 hex digits>" over `public_der`."""
    return f"sha256:{hashlib.sha256(public_der(key)).hexdigest()}"


def check_public_key(key: object) -> PublicKey:
    """`key` if we issue certificates for its kind (P-256, P-384); raises InvalidInput."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVES):
        raise InvalidInput("only P-256 and P-384 keys are certified", code="unsupported_key")
    return key


def certificate_der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def certificate_from_der(der: bytes) -> x509.Certificate:
    """Raises InvalidInput for bytes that are no certificate (trailing bytes included)."""
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise InvalidInput("no X.509 certificate", code="malformed_certificate") from error


def certificates_from_pem(pem: bytes) -> tuple[x509.Certificate, ...]:
    """All certificates of a PEM text, in their order; raises InvalidInput where there is none."""
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError as error:
        raise InvalidInput("no X.509 certificate in PEM", code="malformed_certificate") from error


def chain_to_pem(chain: Iterable[bytes]) -> bytes:
    """DER certificates as one PEM text."""
    return b"".join(certificate_from_der(der).public_bytes(serialization.Encoding.PEM) for der in chain)


def chain_from_pem(pem: bytes) -> tuple[bytes, ...]:
    return tuple(certificate_der(c) for c in certificates_from_pem(pem))


def sign(key: PrivateKey, purpose: str, parts: Sequence[bytes]) -> bytes:
    """ECDSA over SHA-256 of `purpose` and `parts`.

    `purpose` separates the uses of one key: a signature made for one purpose never passes for another.
    """
    return key.sign(_message(purpose, parts), ec.ECDSA(hashes.SHA256()))


def verify(certificate: x509.Certificate, purpose: str, parts: Sequence[bytes], signature: bytes) -> bool:
    """Whether `sign` made `signature` with the key that `certificate` certifies."""
    key = certificate.public_key()
    return isinstance(key, ec.EllipticCurvePublicKey) and verify_by_key(key, purpose, parts, signature)


def verify_by_key(key: PublicKey, purpose: str, parts: Sequence[bytes], signature: bytes) -> bool:
    """As `verify`, with the key itself."""
    try:
        key.verify(signature, _message(purpose, parts), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _message(purpose: str, parts: Sequence[bytes]) -> bytes:
    # Each part is preceded by its length, so that no two lists of parts give the same bytes.
    digest = hashlib.sha256(f"isthmus {purpose}\0".encode())
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def strong_enough(key: object) -> bool:
    """Whether a foreign certificate's key may vouch for somebody: P-256 and up, RSA from 2048 bits."""
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= _MIN_RSA_BITS
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, (*_CURVES, ec.SECP521R1))
