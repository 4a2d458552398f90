"""Proof, at enrolment, that who brings a bundle holds the key of its root.

The proof covers the token's hash, the cluster's name and the registry's root: it is worth nothing for another token,
another cluster or another registry, and the token itself works only once.
"""

from __future__ import annotations

from federation.errors import Denied
from federation.model.cluster import Bundle
from federation.trust import keys
from federation.trust.bundle import check_bundle
from federation.trust.keys import PrivateKey, certificate_from_der
from federation.trust.token import JoinToken

_PURPOSE = "possession 1"


def possession_message(token: JoinToken) -> bytes:
    """What the joining cluster signs and the registry checks."""
    return b"\0".join((token.hash(), token.cluster.encode(), token.ca_fingerprint.encode()))


def sign(key: PrivateKey, message: bytes) -> bytes:
    return keys.sign(key, _PURPOSE, [message])


def check_possession(bundle: Bundle, message: bytes, signature: bytes) -> None:
    """Raises Denied unless the key of the bundle's first root made `signature`.

    Codes: possession_unproven, and those of `check_bundle`.
    """
    check_bundle(bundle)
    if not keys.verify(certificate_from_der(bundle.roots[0]), _PURPOSE, [message], signature):
        raise Denied(
            f"the joining cluster did not prove that it holds the root key of {bundle.trust_domain}",
            code="possession_unproven",
        )
