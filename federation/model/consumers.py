"""Who may use an export, as people write it: "west, edge:80"."""

from __future__ import annotations

from collections.abc import Iterable

from federation.errors import InvalidInput
from federation.model.ids import parse_label, parse_port
from federation.model.service import Grant


def grants(annotation: str | None) -> tuple[Grant, ...]:
    """`"west, edge:80, edge:443"` → who may use which ports, sorted; no annotation: every linked cluster.

    Raises InvalidInput; an empty list would mean everybody, so it is refused, too.
    """
    if annotation is None:
        return ()
    wanted: dict[str, set[int] | None] = {}
    for item in annotation.split(","):
        consumer, colon, number = item.strip().partition(":")
        if consumer != "*":
            parse_label(consumer, what="consumer")
        if not colon:
            wanted[consumer] = None
            continue
        if not number.isascii() or not number.isdigit():
            raise InvalidInput(f"{number[:20]!r} is no port", code="invalid_port")
        allowed = wanted.setdefault(consumer, set())
        if allowed is not None:
            allowed.add(parse_port(int(number[:10]), what="port"))
    return tuple(Grant(consumer, tuple(sorted(ports or ()))) for consumer, ports in sorted(wanted.items()))


def consumers(values: Iterable[Grant]) -> str:
    """The text that `grants` reads back."""
    items = [f"{g.consumer}:{p}" for g in values for p in g.ports] + [g.consumer for g in values if not g.ports]
    return ", ".join(sorted(items))
