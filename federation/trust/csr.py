"""Certificate requests (PKCS#10): they prove possession of a key, and say nothing else that we would believe."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization

from federation.errors import Denied, InvalidInput
from federation.trust.keys import PrivateKey, PublicKey, check_public_key

MAX_BYTES = 16 * 1024


def make_csr(key: PrivateKey) -> bytes:
    """A request (DER) for `key` with an empty subject: the CA decides the names."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def read_csr(der: bytes) -> PublicKey:
    """The public key of a request whose signature proves possession of the private one.

    Subject, requested extensions and attributes are ignored. Raises InvalidInput (csr_malformed, unsupported_key) and
    Denied (csr_unproven).
    """
    if len(der) > MAX_BYTES:
        raise InvalidInput(f"the certificate request is larger than {MAX_BYTES} bytes", code="csr_malformed")
    try:
        request = x509.load_der_x509_csr(der)
        key = check_public_key(request.public_key())
        proven = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInput("no certificate request", code="csr_malformed") from error
    if not proven:
        raise Denied("the certificate request does not prove possession of its key", code="csr_unproven")
    return key
