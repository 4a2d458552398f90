"""host:port as people write it: parsed once, at the edge."""

from __future__ import annotations

from federation.errors import InvalidInput
from federation.model.ids import parse_port


def split_address(text: str, *, what: str, zero: bool = True) -> tuple[str, int]:
    """("127.0.0.1", 7400) of "127.0.0.1:7400", ("::1", 7400) of "[::1]:7400"; port 0 only where `zero` allows it.

    Raises InvalidInput naming `what` it should have been.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    digits = port.isascii() and port.isdigit() and len(port) <= 5
    if not colon or not host or not digits or any(c.isspace() for c in host):
        raise InvalidInput(
            f"{what} {text[:80]!r} is not HOST:PORT",
            hint="for example 127.0.0.1:7400 or [::1]:7400",
            code="invalid_address",
        )
    number = int(port)
    return host, 0 if zero and number == 0 else parse_port(number, what=f"{what}: port")


def join_address(host: str, port: int) -> str:
    """The inverse of `split_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
