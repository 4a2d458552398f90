from __future__ import annotations

import pytest

from federation.dns.resolvconf import parse_resolvers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("nameserver 10.0.0.1\n", (("10.0.0.1", 53),)),
        ("# nameserver 10.0.0.1\nsearch a b\nnameserver\t10.0.0.2 # here\n", (("10.0.0.2", 53),)),
        (
            "nameserver fd00::1\nnameserver fe80::1%eth0\nnameserver localhost\n",
            (("fd00::1", 53), ("fe80::1%eth0", 53)),
        ),
        ("".join(f"nameserver 10.0.0.{i}\n" for i in (1, 1, 2, 3, 4)), tuple((f"10.0.0.{i}", 53) for i in (1, 2, 3))),
        ("nameserver\nnameserver 10.0.0.1", (("10.0.0.1", 53),)),
    ],
)
def test_resolvers(text: str, expected: tuple[tuple[str, int], ...]) -> None:
    assert parse_resolvers(text) == expected
