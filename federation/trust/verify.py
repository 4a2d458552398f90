"""Who is at the other end: verifies a certificate chain as an X.509-SVID (SPIFFE X.509-SVID, sections 2 to 5).

A chain arrives as the peer presented it; a SPIFFE ID leaves, proven by the roots of exactly the trust domain that the
ID names. A union of roots is never used: a cluster that signs a foreign name is found out here, whatever TLS accepted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from federation.errors import Denied, InvalidInput, InvalidName
from federation.model.cluster import Bundle
from federation.model.ids import SpiffeId
from federation.trust.bundle import check_pin, fingerprint
from federation.trust.keys import certificate_from_der, strong_enough

__all__ = ["check_pin", "fingerprint", "read_leaf", "verify_chain"]

MAX_CERTIFICATES = 6
MAX_CERTIFICATE_BYTES = 16 * 1024
_MAX_INTERMEDIATES = 3


def verify_chain(chain: Sequence[bytes], bundles: Mapping[str, Bundle], *, now: datetime) -> SpiffeId:
    """The SPIFFE ID that `chain` (DER, the leaf first) proves. `bundles` is keyed by trust domain.

    Raises Denied with a code: svid_missing (no certificate), svid_malformed (no certificates, or too many),
    svid_invalid (breaks a rule of the X.509-SVID specification), trust_domain_unknown (no bundle of that name),
    svid_expired (or not yet valid), svid_untrusted (its own domain's roots do not vouch for it).
    """
    if not chain:
        raise Denied("the peer has shown no certificate", code="svid_missing")
    if len(chain) > MAX_CERTIFICATES or any(len(der) > MAX_CERTIFICATE_BYTES for der in chain):
        raise Denied("the peer's certificate chain is too long", code="svid_malformed")
    try:
        leaf, *others = (certificate_from_der(der) for der in chain)
    except InvalidInput as error:
        raise Denied("the peer has shown something that is no certificate", code="svid_malformed") from error
    spiffe_id = read_leaf(leaf)
    bundle = bundles.get(spiffe_id.trust_domain)
    if bundle is None or bundle.trust_domain != spiffe_id.trust_domain or not bundle.roots:
        raise Denied(
            f"{spiffe_id} belongs to a trust domain that is not known here",
            hint="is there a link between the two clusters?",
            code="trust_domain_unknown",
        )
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        raise Denied(
            f"the certificate of {spiffe_id} is valid from {leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ} to "
            f"{leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}; now is {now:%Y-%m-%dT%H:%M:%SZ}",
            hint="compare the clocks of the two machines",
            code="svid_expired",
        )
    _check_path(leaf, others, bundle, spiffe_id, now)
    return spiffe_id


def _check_path(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], bundle: Bundle, spiffe_id: SpiffeId, now: datetime
) -> None:
    untrusted = Denied(f"the roots of {spiffe_id.trust_domain} do not vouch for {spiffe_id}", code="svid_untrusted")
    for certificate in others:
        if _foreign_authority(certificate, spiffe_id.trust_domain):
            raise untrusted
    try:
        roots = [certificate_from_der(der) for der in bundle.roots]
        verifier = (
            PolicyBuilder().store(Store(roots)).time(now).max_chain_depth(_MAX_INTERMEDIATES).build_client_verifier()
        )
        verifier.verify(leaf, list(others))
    except (VerificationError, InvalidInput, ValueError, x509.UnsupportedGeneralNameType) as error:
        raise untrusted from error


def _foreign_authority(certificate: x509.Certificate, trust_domain: str) -> bool:
    """Whether a signing certificate names, by its URI, something else than its trust domain (X.509-SVID, 2)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    except (ValueError, x509.UnsupportedGeneralNameType, x509.DuplicateExtension):
        return True
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris not in ([], [f"spiffe://{trust_domain}"])


def read_leaf(leaf: x509.Certificate) -> SpiffeId:
    """The SPIFFE ID of a leaf that keeps every rule of X.509-SVID, sections 2 to 4, believed or not.

    Raises Denied (svid_invalid). Used on what we verify and on what we issue.
    """
    try:
        extensions = leaf.extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        usage = extensions.get_extension_for_class(x509.KeyUsage)
        extended = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as error:
        raise _invalid(f"it has no {error.oid._name}") from error
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise _invalid("an extension of it cannot be read") from error
    try:
        if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise _invalid("it is a CA certificate")
    except x509.ExtensionNotFound:
        pass  # absent means: no CA (RFC 5280, 4.2.1.9)
    if not usage.critical or not usage.value.digital_signature:
        raise _invalid("its key usage is not critical with digitalSignature")
    if usage.value.key_cert_sign or usage.value.crl_sign:
        raise _invalid("its key may sign certificates")
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(extended):
        raise _invalid("its extended key usage is not both serverAuth and clientAuth")
    if not strong_enough(leaf.public_key()):
        raise _invalid("its key is too weak")
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise _invalid(f"it has {len(uris)} URI names, not exactly one")
    try:
        return SpiffeId.parse(uris[0])
    except InvalidName as error:
        raise _invalid(error.message) from error


def _invalid(reason: str) -> Denied:
    return Denied(f"the certificate is no X.509-SVID: {reason}", code="svid_invalid")
