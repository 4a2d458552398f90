"""Bundles under Hypothesis: who carries them offers what it likes, and never gets in what their owner did not say."""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from federation.errors import Denied
from federation.model.cluster import Bundle
from federation.trust.bundle import check_pin, fingerprint, sign_successor

EAST = "east.fed.test"


@functools.cache
def root(number: int) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """Roots 0 to 4 are the cluster's own, 5 and up the adversary's."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"root {number}")])
    start = datetime(2025, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(number + 1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(True, 1), critical=True)
        .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{EAST}")]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    return key, certificate.public_bytes(Encoding.DER)


OWN, FOREIGN = range(5), range(5, 8)


class Pinning(RuleBasedStateMachine):
    """The cluster rotates; its peer takes what check_pin lets through; the adversary replays, mixes and signs."""

    def __init__(self) -> None:
        super().__init__()
        first = Bundle(trust_domain=EAST, sequence=1, roots=(root(0)[1],))
        self.published = [first]
        self.signers = [0]
        self.pin = fingerprint(first)
        self.held: Bundle | None = None
        self.highest = 0

    def offer(self, bundle: Bundle) -> None:
        try:
            check_pin(bundle, self.pin, self.held)
        except Denied:
            return
        assert bundle.sequence >= self.highest
        self.held, self.pin, self.highest = bundle, fingerprint(bundle), bundle.sequence

    @rule(new=st.sampled_from(OWN), keep=st.booleans())
    def rotate(self, new: int, keep: bool) -> None:
        current, last = self.signers[-1], self.published[-1]
        numbers = dict.fromkeys([new, current] if keep else [new])
        successor = Bundle(trust_domain=EAST, sequence=last.sequence + 1, roots=tuple(root(n)[1] for n in numbers))
        self.published.append(sign_successor(successor, root(current)[0]))
        self.signers.append(new)

    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        self.offer(data.draw(st.sampled_from(self.published)))

    @rule(
        numbers=st.lists(st.sampled_from([*OWN, *FOREIGN]), min_size=0, max_size=3),
        sequence=st.integers(0, 20),
        signer=st.sampled_from(FOREIGN),
        data=st.data(),
    )
    def forge(self, numbers: list[int], sequence: int, signer: int, data: st.DataObject) -> None:
        bundle = Bundle(trust_domain=EAST, sequence=sequence, roots=tuple(root(n)[1] for n in numbers))
        signatures = [b"", *(b.signature for b in self.published)]
        if data.draw(st.booleans()):
            bundle = sign_successor(bundle, root(signer)[0])
        else:
            signature = data.draw(st.sampled_from(signatures))
            bundle = Bundle(trust_domain=EAST, sequence=sequence, roots=bundle.roots, signature=signature)
        self.offer(bundle)

    @rule()
    def follow_in_order(self) -> None:
        """An honest registry brings a peer up to date, from where it is."""
        for bundle in self.published:
            if self.held is None or bundle.sequence > self.held.sequence:
                self.offer(bundle)
        assert self.held is not None
        assert self.held.roots == self.published[-1].roots

    @invariant()
    def only_what_was_published_is_held(self) -> None:
        if self.held is not None:
            assert (self.held.sequence, self.held.roots) in [(b.sequence, b.roots) for b in self.published]


Pinning.TestCase.settings = settings(max_examples=60, stateful_step_count=20)
TestPinning = Pinning.TestCase
