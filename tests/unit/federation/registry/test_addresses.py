"""Which gateway addresses are accepted, by example; tests/property has all special forms."""

from __future__ import annotations

import pytest

from federation.errors import InvalidInput
from federation.registry.addresses import check_gateway_address


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("192.168.1.1", "192.168.1.1"),
        ("203.0.113.9", "203.0.113.9"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("fd12:3456::1", "fd12:3456::1"),
        ("64:ff9b::203.0.113.9", "64:ff9b::cb00:7109"),
    ],
)
def test_accepted(text: str, canonical: str) -> None:
    assert check_gateway_address(text, single_machine=False) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "0.1.2.3",
        "169.254.169.254",
        "169.254.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "224.0.0.1",
        "239.255.255.250",
        "240.64.0.1",
        "242.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "2001:db8::1%eth0",
        "fec0::1",
        "ff02::1",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0:127.0.0.1",
        "::127.0.0.1",
        "::169.254.169.254",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::169.254.169.254",
        "64:ff9b:1:a9fe:a9:fe00::",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001:0:a9fe:a9fe::",
        "2001:0:cb00:7109:0:0:8000:fffe",
        "fd12::5efe:127.0.0.1",
        "2001:db8::200:5efe:a9fe:a9fe",
    ],
)
def test_forbidden(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_gateway_address(text, single_machine=False)
    assert caught.value.error_code == "forbidden_address"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "2130706433",
        "0x7f.1",
        "0x7f000001",
        "127.1",
        "127.0.0.1.",
        "0177.0.0.1",
        "1.2.3.4.5",
        "a..b",
        "-a.b",
        "a_b.c",
        "a b",
        "a\x00b",
        "a\nb",
        "*.example.com",
        "bücher.example",
        "10.0.0.1:80",
        "[::1]",
        "http://a",
        "user@host",
        "a/b",
        "127\u30020\u30020\u30021",
        "x" * 64,
        "a." * 127 + "ab",
        "\uff11\uff12\uff17.0.0.1",
    ],
)
def test_malformed(text: str) -> None:
    for single_machine in (False, True):
        with pytest.raises(InvalidInput) as caught:
            check_gateway_address(text, single_machine=single_machine)
        assert caught.value.error_code == "malformed_address"


@pytest.mark.parametrize(
    "text",
    ["gw.west.example.com", "GW.Example.com.", "gw", "localhost", "metadata.google.internal", "1.in-addr.arpa"],
)
def test_names_are_refused_in_one_clear_line(text: str) -> None:
    for single_machine in (False, True):
        with pytest.raises(InvalidInput, match="is a name, and gateways are announced by IP address") as caught:
            check_gateway_address(text, single_machine=single_machine)
        assert caught.value.error_code == "address_is_a_name"


@pytest.mark.parametrize("text", ["127.0.0.1", "127.0.3.1", "::1", "10.0.0.1"])
def test_loopback_on_a_single_machine(text: str) -> None:
    assert check_gateway_address(text, single_machine=True) == text


@pytest.mark.parametrize("text", ["127.128.0.1", "::ffff:127.0.0.1", "169.254.169.254", "0.0.0.0", "ff02::1"])
def test_a_single_machine_allows_no_more_than_that(text: str) -> None:
    with pytest.raises(InvalidInput):
        check_gateway_address(text, single_machine=True)
