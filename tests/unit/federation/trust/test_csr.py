"""Requests prove a key and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from federation.errors import Denied, InvalidInput
from federation.model.ids import SpiffeId
from federation.trust.authority import Authority
from federation.trust.csr import make_csr, read_csr
from federation.trust.keys import certificate_from_der, new_key, public_der


def test_the_key_comes_through() -> None:
    key = new_key()
    assert public_der(read_csr(make_csr(key))) == public_der(key.public_key())


def test_requested_names_are_ignored(authority: Callable[[str], Authority]) -> None:
    key = new_key()
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "agent.east.fed.test")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.UniformResourceIdentifier("spiffe://east.fed.test/ns/isthmus-system/sa/agent"),
                    x509.DNSName("agent.east.fed.test"),
                ]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    public = read_csr(request.public_bytes(serialization.Encoding.DER))
    svid = authority("east.fed.test").issue(public, spiffe_id=SpiffeId.workload("east.fed.test", "shop", "echo"))
    leaf = certificate_from_der(svid.chain[0])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [n.value for n in names] == ["spiffe://east.fed.test/ns/shop/sa/echo"]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert leaf.subject == x509.Name([])


def test_a_request_that_another_key_signed_is_refused() -> None:
    # The signature of one request under the public key of another.
    mine, theirs = bytearray(make_csr(new_key())), make_csr(ec.generate_private_key(ec.SECP256R1()))
    point = mine.index(b"\x03\x42\x00\x04")
    mine[point : point + 68] = theirs[theirs.index(b"\x03\x42\x00\x04") :][:68]
    with pytest.raises(Denied) as caught:
        read_csr(bytes(mine))
    assert caught.value.error_code == "csr_unproven"


def test_what_is_no_request() -> None:
    good = make_csr(new_key())
    for wrong in (b"", b"garbage", good[:-1], good + b"\0", b"0" * 20_000):
        with pytest.raises(InvalidInput):
            read_csr(wrong)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256K1()),
        ec.generate_private_key(ec.SECP224R1()),
        rsa.generate_private_key(65537, 2048),
    ],
)
def test_other_keys_are_refused(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    with pytest.raises(InvalidInput) as caught:
        read_csr(request.public_bytes(serialization.Encoding.DER))
    assert caught.value.error_code == "unsupported_key"
