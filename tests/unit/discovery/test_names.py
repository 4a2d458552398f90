from __future__ import annotations

import pytest

from discovery.names import parse_global
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
