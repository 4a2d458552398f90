"""Where virtual machines are let in, as `fedctl cluster join --vms` says it."""

from __future__ import annotations

import pytest

from discovery.join import let_in
from discovery.settings import VmsSettings
from federation.errors import InvalidInput


@pytest.mark.parametrize(
    ("address", "settings"),
    [
        ("192.0.2.11:7446", VmsSettings(listen="192.0.2.11:7446")),
        ("[2001:db8::1]:7446", VmsSettings(listen="[2001:db8::1]:7446")),
        ("127.0.0.1:0", VmsSettings(listen="127.0.0.1:0")),
        ("east.example:7446", VmsSettings(listen="0.0.0.0:7446", advertise="east.example:7446")),
    ],
)
def test_an_address_or_a_name(address: str, settings: VmsSettings) -> None:
    assert let_in(address) == settings


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("0.0.0.0:7446", "cannot dial 0.0.0.0:7446"),
        ("[::]:7446", "cannot dial"),
        ("192.0.2.11", "is not HOST:PORT"),
        ("east.example:99999", "port"),
    ],
)
def test_what_nobody_can_dial(address: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        let_in(address)
    assert caught.value.hint
