"""What a certificate says of the virtual machine that holds it: `<vm>.vm.<trust domain>`, beside its SPIFFE ID.

A second name, `<key>.<vm>.vm.<trust domain>`, tells for which enrolled key it was issued: a machine that was removed
and another one that was later invited under its name are told apart. Only the agent signs, so nobody else makes these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from cryptography import x509

from federation.errors import Denied
from federation.model.ids import parse_domain
from federation.trust.keys import certificate_from_der

_KEY_LABEL = 32
"""Hexadecimal digits: 128 bits."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """The machine at the other end of a stream, and the label of the key that its certificate was issued for."""

    vm: str
    key: str


def key_label(fingerprint: str) -> str:
    """The label of an enrolled key, from its fingerprint."""
    return hashlib.sha256(f"isthmus vm key 1\0{fingerprint}".encode()).hexdigest()[:_KEY_LABEL]


def vm_names(vm: str, key: str, trust_domain: str) -> tuple[str, str]:
    """The DNS names of a certificate; `key` is a key's label. Raises InvalidName where the trust domain is too long."""
    name = f"{vm}.vm.{trust_domain}"
    return name, parse_domain(f"{key}.{name}", what=f"the name of VM {vm}")


def vm_of(chain: Sequence[bytes], trust_domain: str) -> str | None:
    """Which machine holds the leaf of `chain` (DER, verified before); None: it is no machine's."""
    speaker = speaker_of(chain, trust_domain)
    return speaker.vm if speaker is not None else None


def speaker_of(chain: Sequence[bytes], trust_domain: str) -> Speaker | None:
    """As `vm_of`, with the key. Raises Denied (svid_invalid) for names that this agent never signs together."""
    names = certificate_from_der(chain[0]).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    suffix = f".vm.{trust_domain}"
    ours = [n.removesuffix(suffix).split(".") for n in names.get_values_for_type(x509.DNSName) if n.endswith(suffix)]
    if not ours:
        return None
    vms = [labels[0] for labels in ours if len(labels) == 1]
    keys = [labels for labels in ours if len(labels) == 2]
    if len(ours) != 2 or len(vms) != 1 or len(keys) != 1 or keys[0][1] != vms[0]:
        raise Denied("the certificate names a VM in a way that no agent does", code="svid_invalid")
    return Speaker(vms[0], keys[0][0])


def peer_host(peer: str) -> str:
    """The address in what gRPC says of a peer ("ipv4:192.0.2.1:4711", "ipv6:%5B::1%5D:4711"), without the port."""
    return unquote(peer.partition(":")[2]).rpartition(":")[0].strip("[]")
