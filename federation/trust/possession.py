"""Proof, at enrolment, that who brings a bundle holds the key of its root; or that a machine holds the key it names.

A cluster's proof covers the token's hash, the cluster's name and the registry's root: it is worth nothing for another
token, another cluster or another registry, and the token itself works only once. A machine's proof covers a number that
the agent drew for this one stream, the root that the machine has verified the agent by, and the certificate request: it
is worth nothing on another stream, at another agent, or for another key.
"""

from __future__ import annotations

from federation.errors import Denied
from federation.model.cluster import Bundle
from federation.trust import keys
from federation.trust.bundle import check_bundle
from federation.trust.keys import PrivateKey, PublicKey, certificate_from_der
from federation.trust.token import JoinToken

_PURPOSE = "possession 1"
_VM_PURPOSE = "vm possession 1"
NONCE_BYTES = 32


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


def sign_vm(key: PrivateKey, *, nonce: bytes, root: str, vm: str, token: bytes, csr: bytes) -> bytes:
    """A machine's proof. `root`: the fingerprint of the agent's root; `token`: the hash of the token, or nothing."""
    return keys.sign(key, _VM_PURPOSE, [nonce, root.encode(), vm.encode(), token, csr])


def check_vm(key: PublicKey, proof: bytes, *, nonce: bytes, root: str, vm: str, token: bytes, csr: bytes) -> None:
    """Raises Denied (possession_unproven) unless `sign_vm` made `proof` with the other half of `key`."""
    if not keys.verify_by_key(key, _VM_PURPOSE, [nonce, root.encode(), vm.encode(), token, csr], proof):
        raise Denied(f"VM {vm} did not prove that it holds the key that it shows", code="possession_unproven")
