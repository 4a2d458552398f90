from __future__ import annotations

import pytest

from discovery.names import check_callable, parse_global
from federation.envoy.names import server_name
from federation.errors import InvalidName
from federation.model.ids import ServiceName

ECHO = ServiceName("shop", "echo")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shop/echo", (ECHO, None)),
        ("echo.shop.global", (ECHO, None)),
        ("Echo.shop.GLOBAL.", (ECHO, None)),
        ("echo.shop.east.global", (ECHO, "east")),
        ("echo.shop.svc.clusterset.local", (ECHO, None)),
    ],
)
def test_names(text: str, expected: tuple[ServiceName, str | None]) -> None:
    assert parse_global(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "echo", "echo.global", "a.b.c.d.global", "echo.shop.local", "*.shop.global", "svc.clusterset.local", "/"],
)
def test_others(text: str) -> None:
    with pytest.raises(InvalidName):
        parse_global(text)


def test_another_suffix() -> None:
    assert parse_global("echo.shop.corp.example", suffix="corp.example") == (ECHO, None)


def test_the_suffix_is_a_setting() -> None:
    assert parse_global("echo.shop.east.mesh.example", suffix="mesh.example") == (ServiceName("shop", "echo"), "east")
    with pytest.raises(InvalidName, match="no global name"):
        parse_global("echo.shop.global", suffix="mesh.example")


def test_a_name_that_is_too_long_for_a_tls_server_name():
    longest = ServiceName("n" * 63, "s" * 63)
    room = 253 - len(server_name(longest, 65535, ""))
    check_callable(longest, "d" * room)
    with pytest.raises(InvalidName, match="1 too many") as caught:
        check_callable(longest, "d" * (room + 1))
    assert caught.value.error_code == "name_too_long"
