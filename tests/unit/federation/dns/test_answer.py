from __future__ import annotations

import pytest

from federation.dns import answer, wire


@pytest.mark.parametrize(
    ("qname", "target", "expected"),
    [
        ("a.global", "global", b"\xc0\x0e"),
        ("global", "ns.dns.global", b"\x02ns\x03dns\xc0\x0c"),
        ("a.b", "c.d", wire.encode_name("c.d")),
        ("b", "b", b"\xc0\x0c"),
    ],
)
def test_names_are_compressed_to_the_question(qname: str, target: str, expected: bytes) -> None:
    assert answer.compressed(wire.encode_name(qname), wire.encode_name(target)) == expected


def test_an_end_that_is_no_label_is_not_shared() -> None:
    # the label "x\x01b" ends in the bytes that are the name "b"
    assert answer.compressed(b"\x03x\x01b\x00", wire.encode_name("b")) == wire.encode_name("b")
