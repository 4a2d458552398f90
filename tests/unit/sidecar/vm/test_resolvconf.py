from __future__ import annotations

import pytest

from sidecar.vm.resolvconf import HEADER, ResolvConf, parse, with_sidecar


@pytest.mark.parametrize(
    ("text", "nameservers", "others"),
    [
        ("", (), ()),
        ("nameserver 192.0.2.1\n", ("192.0.2.1",), ()),
        ("# nameserver 192.0.2.9\n; x\n\nnameserver\t192.0.2.1 # trailing\nnameserver 192.0.2.1", ("192.0.2.1",), ()),
        ("search a.example b.example\noptions ndots:2\n", (), ("search a.example b.example", "options ndots:2")),
        ("nameserver fe80::1%eth0\nnameserver 2001:db8::1\n", ("fe80::1%eth0", "2001:db8::1"), ()),
        ("nameserver\nnameserver dns.example\nnameserver 192.0.2.1\n", ("192.0.2.1",), ()),
    ],
)
def test_parse(text: str, nameservers: tuple[str, ...], others: tuple[str, ...]):
    assert parse(text) == ResolvConf(nameservers=nameservers, others=others)


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("nameserver 192.0.2.1\n", "nameserver 127.0.0.55\nnameserver 192.0.2.1\n"),
        (
            "domain a.example\noptions ndots:2 rotate timeout:1\nnameserver 192.0.2.1",
            "nameserver 127.0.0.55\nnameserver 192.0.2.1\ndomain a.example\noptions ndots:2 timeout:1\n",
        ),
        ("options rotate\nnameserver 192.0.2.1\n", "nameserver 127.0.0.55\nnameserver 192.0.2.1\n"),
        (
            "".join(f"nameserver 192.0.2.{n}\n" for n in (1, 2, 3)),
            "nameserver 127.0.0.55\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n",
        ),
        ("nameserver 127.0.0.55\nnameserver 192.0.2.1\n", "nameserver 127.0.0.55\nnameserver 192.0.2.1\n"),
    ],
)
def test_the_sidecar_goes_first(text: str, body: str):
    assert with_sidecar(text, "127.0.0.55") == HEADER + body
    assert with_sidecar(HEADER + body, "127.0.0.55") == HEADER + body, "again changes nothing"
