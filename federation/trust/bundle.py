"""Trust bundles: what one may hold, what identifies it, and which bundle may follow which.

A bundle holds the roots of exactly one trust domain and is never merged with another (SPIFFE Trust Domain and Bundle,
section 4). It reaches its peers through a registry that nobody has to trust: the first one is pinned by a fingerprint
that an operator carried, every later one is signed by a root of the one before.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from federation.errors import Denied, InvalidInput
from federation.model.cluster import Bundle
from federation.trust import keys
from federation.trust.keys import PrivateKey, certificate_from_der, strong_enough

MAX_ROOTS = 8
"""More roots than an overlap of rotations needs are a mistake, or an attempt to fill our memory."""
MAX_ROOT_BYTES = 16 * 1024

_PURPOSE = "bundle successor 1"


def root_fingerprint(der: bytes) -> str:
    """ "sha256:<64 hex digits>" over a root's DER."""
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def fingerprint(bundle: Bundle) -> str:
    """The fingerprint of the bundle's first root: what an operator carries from one cluster to the other."""
    if not bundle.roots:
        raise Denied(f"the trust bundle of {bundle.trust_domain} is empty", code="bundle_empty")
    return root_fingerprint(bundle.roots[0])


def parse_fingerprint(text: str) -> bytes:
    """The 32 bytes of "sha256:<64 hex digits>"; raises InvalidInput."""
    algorithm, colon, digits = text.partition(":")
    if algorithm == "sha256" and colon and len(digits) == 64 and digits == digits.lower():
        try:
            return bytes.fromhex(digits)
        except ValueError:
            pass
    raise InvalidInput(
        f"{text[:80]!r} is no fingerprint", hint="expected sha256: and 64 hex digits", code="malformed_fingerprint"
    )


def check_bundle(bundle: Bundle, *, trust_domain: str | None = None) -> None:
    """Raises Denied unless `bundle` can be what a trust domain is verified with.

    Codes: bundle_empty; bundle_invalid (another trust domain than `trust_domain`, too many roots, a root that is no
    self-signed CA certificate with a usual key, or does not name the trust domain).
    """
    name = bundle.trust_domain
    if trust_domain is not None and name != trust_domain:
        raise Denied(f"a trust bundle of {name[:80]!r} was given for {trust_domain}", code="bundle_invalid")
    if not bundle.roots:
        raise Denied(f"the trust bundle of {name[:80]!r} is empty", code="bundle_empty")
    if len(bundle.roots) > MAX_ROOTS:
        raise Denied(f"the trust bundle of {name} has more than {MAX_ROOTS} roots", code="bundle_invalid")
    if len(set(bundle.roots)) != len(bundle.roots):
        raise Denied(f"the trust bundle of {name} has a root twice", code="bundle_invalid")
    for der in bundle.roots:
        problem = _root_problem(der, name)
        if problem:
            raise Denied(f"a root of the trust bundle of {name} {problem}", code="bundle_invalid")


def _root_problem(der: bytes, trust_domain: str) -> str:
    if len(der) > MAX_ROOT_BYTES:
        return f"is larger than {MAX_ROOT_BYTES} bytes"
    try:
        certificate = certificate_from_der(der)
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        # A key that one TLS library refuses would spoil the roots of all the others, which share its configuration.
        strong = strong_enough(certificate.public_key())
        certificate.verify_directly_issued_by(certificate)
    except (InvalidInput, ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        return f"is no self-signed CA certificate ({type(error).__name__})"
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return "lacks basicConstraints, keyUsage or a URI name, or has one that cannot be read"
    if not constraints.ca or not usage.key_cert_sign:
        return "is no CA certificate"
    if not strong:
        return "has a key that is too weak, or of a kind that not every TLS library takes"
    if names.get_values_for_type(x509.UniformResourceIdentifier) != [f"spiffe://{trust_domain}"]:
        return "does not name this trust domain"
    return ""


def sign_successor(bundle: Bundle, key: PrivateKey) -> Bundle:
    """`bundle` signed by `key`, the key of a root of the bundle before it."""
    return replace(bundle, signature=keys.sign(key, _PURPOSE, _parts(bundle)))


def signed_by(bundle: Bundle, roots: tuple[bytes, ...]) -> bool:
    """Whether one of `roots` signed `bundle`."""
    return any(keys.verify(certificate_from_der(der), _PURPOSE, _parts(bundle), bundle.signature) for der in roots)


def _parts(bundle: Bundle) -> list[bytes]:
    return [bundle.trust_domain.encode(), bundle.sequence.to_bytes(8, "big"), *bundle.roots]


def check_pin(bundle: Bundle, pin: str, previous: Bundle | None) -> None:
    """Raises Denied unless `bundle` is the one that `pin` names, or a lawful successor of `previous`.

    `previous` is the bundle accepted last. It counts while it holds the pinned root: then the new one must be the same,
    or have a higher sequence and be signed by a root of `previous`. Where `previous` does not hold the pinned root, an
    operator has pinned anew (the cluster was made again), and only the pin counts: the pinned root comes first, and
    anything but that single root with sequence 1 must be signed by it (else who carries the bundle could add a root,
    or a sequence that no successor reaches). So a rotation signs each bundle with the first root in it, which is
    already in the bundle before. After accepting, store the bundle and `fingerprint(bundle)` as the pin, together.

    Codes: those of `check_bundle`; pin_mismatch; bundle_rollback; bundle_unsigned.
    """
    check_bundle(bundle, trust_domain=previous.trust_domain if previous else None)
    if previous is not None and pin in map(root_fingerprint, previous.roots):
        _check_successor(bundle, previous)
        return
    if fingerprint(bundle) != pin:
        raise Denied(
            f"the trust bundle of {bundle.trust_domain} is {fingerprint(bundle)}, but {pin[:80]} is pinned",
            hint="compare with `fedctl status` of that cluster; if it was made anew, link it again",
            code="pin_mismatch",
        )
    if (len(bundle.roots) > 1 or bundle.sequence != 1) and not signed_by(bundle, bundle.roots[:1]):
        raise Denied(
            f"the pinned root of {bundle.trust_domain} did not sign sequence {bundle.sequence} of its trust bundle",
            code="bundle_unsigned",
        )


def _check_successor(bundle: Bundle, previous: Bundle) -> None:
    if bundle.sequence < previous.sequence:
        raise Denied(
            f"the trust bundle of {bundle.trust_domain} has sequence {bundle.sequence}; {previous.sequence} was seen",
            code="bundle_rollback",
        )
    if bundle.sequence == previous.sequence:
        if bundle.roots != previous.roots:
            raise Denied(
                f"the trust bundle of {bundle.trust_domain} has changed without a new sequence", code="bundle_rollback"
            )
        return
    if not signed_by(bundle, previous.roots):
        raise Denied(
            f"sequence {bundle.sequence} of the trust bundle of {bundle.trust_domain} is not signed by the one before",
            code="bundle_unsigned",
        )
