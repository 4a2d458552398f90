"""Every special IPv4 address is refused in every form that something takes apart to it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import InvalidInput
from federation.registry.addresses import check_gateway_address

SPECIAL = [
    IPv4Network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "169.254.169.254/32")
]


@st.composite
def special_v4(draw: st.DrawFn) -> int:
    network = draw(st.sampled_from(SPECIAL))
    return int(network[0]) + draw(st.integers(0, network.num_addresses - 1))


FORMS = {
    "mapped": lambda v4, _: 0xFFFF << 32 | v4,
    "compatible": lambda v4, _: v4,
    "siit": lambda v4, _: 0xFFFF << 48 | v4,
    "nat64": lambda v4, _: 0x0064_FF9B << 96 | v4,
    "nat64 local /96": lambda v4, rest: 0x0064_FF9B_0001 << 80 | (rest & 0xFFFF_FFFF_FFFF) << 32 | v4,
    "nat64 local /48": lambda v4, rest: (
        0x0064_FF9B_0001 << 80 | v4 >> 16 << 64 | (v4 & 0xFFFF) << 40 | rest & 0xFF_FFFF
    ),
    "6to4": lambda v4, rest: 0x2002 << 112 | v4 << 80 | rest,
    "teredo client": lambda v4, rest: 0x2001_0000 << 96 | (rest & 0xFFFF_FFFF) << 64 | v4 ^ 0xFFFF_FFFF,
    "teredo server": lambda v4, rest: 0x2001_0000 << 96 | v4 << 64 | rest & 0xFFFF_FFFF,
    "isatap": lambda v4, rest: 0x2001_0DB8 << 96 | (rest & 0xFFFF_FFFF) << 64 | 0x5EFE << 32 | v4,
}


@given(v4=special_v4())
def test_special_v4(v4: int) -> None:
    with pytest.raises(InvalidInput):
        check_gateway_address(str(IPv4Address(v4)), single_machine=False)


@pytest.mark.parametrize("form", FORMS)
@given(v4=special_v4(), rest=st.integers(0, 2**80 - 1))
def test_special_v4_inside_v6(form: str, v4: int, rest: int) -> None:
    address = IPv6Address(FORMS[form](v4, rest) & (1 << 128) - 1)
    for text in (str(address), address.exploded, str(address).upper()):
        with pytest.raises(InvalidInput):
            check_gateway_address(text, single_machine=False)


@given(text=st.text(max_size=80) | st.from_regex(r"[0-9a-fx.:%]{1,40}", fullmatch=True))
def test_whatever_passes_is_an_ordinary_address(text: str) -> None:
    try:
        passed = check_gateway_address(text, single_machine=False)
    except InvalidInput:
        return
    address = ip_address(passed)
    assert not any((address.is_loopback, address.is_link_local, address.is_multicast, address.is_unspecified))
    assert check_gateway_address(passed, single_machine=False) == passed
