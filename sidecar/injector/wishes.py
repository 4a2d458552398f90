"""What one pod asks for by its annotations, checked. Pure.

A wish that cannot be fulfilled is refused with one line that names it: the pod's author is there to read it, and a pod
that quietly got something else would be found out much later.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from federation.dns.upstream import parse_server
from federation.errors import InvalidInput, IsthmusError
from sidecar.injector.options import (
    INJECT,
    INJECTED,
    PREFIX,
    SETTINGS,
    TRUST,
    WAY,
    Options,
    Resources,
    Way,
    check_quantity,
)

T = TypeVar("T")

LISTENS = f"{PREFIX}listens"
METRICS = f"{PREFIX}metrics-port"
OUTBOUND = f"{PREFIX}outbound-port"
UPSTREAM = f"{PREFIX}dns-upstream"
LOG_LEVEL = f"{PREFIX}log-level"
NAMES_LIMIT = f"{PREFIX}names-limit"
_QUANTITIES = {key: f"{PREFIX}{key.replace('_', '-')}" for key in ("cpu", "memory", "cpu_limit", "memory_limit")}
KNOWN = (WAY, LISTENS, METRICS, OUTBOUND, UPSTREAM, LOG_LEVEL, NAMES_LIMIT, *_QUANTITIES.values())
"""The annotations by which a pod says what it wants."""
_OURS = (INJECTED, SETTINGS, TRUST)
_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """`way` None: whatever is the default. `listens`: ports of the workload besides those that it declares.

    A port of None is ours to choose. `upstream` empty: who answered the pod before. `warnings`: for its author.
    """

    way: Way | None
    listens: tuple[int, ...]
    metrics_port: int | None
    outbound_port: int | None
    upstream: tuple[str, ...]
    log_level: str
    names_limit: int
    resources: Resources
    warnings: tuple[str, ...] = ()


def read(annotations: Mapping[str, Any], options: Options) -> Wishes:
    """Raises InvalidInput (annotation_invalid)."""

    def have(key: str, parse: Callable[[str], T], default: T, hint: str) -> T:
        text = annotations.get(key)
        if text is None:
            return default
        try:
            return parse(str(text).strip())
        except (ValueError, IsthmusError):
            raise InvalidInput(
                f"annotation {key} is {str(text)[:60]!r}", hint=f"write {hint}", code="annotation_invalid"
            ) from None

    given = {
        key: have(name, partial(check_quantity, key=key), "", "a quantity such as 50m or 128Mi")
        for key, name in _QUANTITIES.items()
    }
    return Wishes(
        way=have(WAY, Way, None, " or ".join(Way)),
        listens=have(LISTENS, _ports, (), "ports, such as 8080,9090"),
        metrics_port=have(METRICS, _high_port, None, "a port from 1024 to 65535"),
        outbound_port=have(OUTBOUND, _high_port, None, "a port from 1024 to 65535"),
        upstream=have(UPSTREAM, _servers, (), "addresses, such as 10.96.0.10 or 192.0.2.1:5353"),
        log_level=have(LOG_LEVEL, _level, options.log_level, " or ".join(_LEVELS)),
        names_limit=have(NAMES_LIMIT, _limit, options.names_limit, "a number from 1 to 100000"),
        resources=replace(options.resources, **{key: text for key, text in given.items() if text}),
        warnings=tuple(_unknown(key) for key in sorted(annotations) if _is_unknown(key)),
    )


def _is_unknown(key: str) -> bool:
    return key.startswith(PREFIX) and key not in (*KNOWN, *_OURS)


def _unknown(key: str) -> str:
    if key == INJECT:
        return f"annotation {INJECT} has no effect: it is a label"
    near = difflib.get_close_matches(key.removeprefix(PREFIX), [one.removeprefix(PREFIX) for one in KNOWN], n=1)
    return f"annotation {key} is not known" + (f": is {PREFIX}{near[0]} meant?" if near else "")


def _ports(text: str) -> tuple[int, ...]:
    return tuple(sorted({_port(part.strip()) for part in text.split(",") if part.strip()}))


def _port(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 65535:
        raise ValueError(text)
    return number


def _high_port(text: str) -> int:
    number = _port(text)
    if number < 1024:
        raise ValueError(text)
    return number


def _servers(text: str) -> tuple[str, ...]:
    servers = tuple(part.strip() for part in text.split(",") if part.strip())
    for server in servers:
        parse_server(server, key=UPSTREAM)
    return servers


def _level(text: str) -> str:
    if text not in _LEVELS:
        raise ValueError(text)
    return text


def _limit(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 100_000:
        raise ValueError(text)
    return number
