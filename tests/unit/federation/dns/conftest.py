from __future__ import annotations

from collections.abc import Callable

import dns.message
import pytest

from federation.dns.answer import NameRecords, Srv
from federation.dns.table import Table


@pytest.fixture
def table() -> Table:
    table = Table(["clusterset.local", "global"])
    table.put("echo.shop.global", NameRecords(a=("127.128.0.1",), srv=(Srv(0, 100, 80, "echo.shop.global"),)))
    table.put(
        "many.shop.global", NameRecords(a=tuple(f"10.1.{i // 250}.{i % 250}" for i in range(300)), aaaa=("fd00::1",))
    )
    table.put("_http._tcp.echo.shop.svc.clusterset.local", NameRecords(srv=(Srv(0, 50, 80, "Echo.shop.global."),)))
    table.put("say.shop.global", NameRecords(txt=("hello", "x" * 300, "")))
    return table


@pytest.fixture
def query() -> Callable[..., bytes]:
    """A query as dnspython writes it: name, type, and what dns.message.make_query takes."""

    def make(name: str, rtype: str = "A", **options: object) -> bytes:
        return dns.message.make_query(name, rtype, **options).to_wire()  # type: ignore[arg-type]

    return make
