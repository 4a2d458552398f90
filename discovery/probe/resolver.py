"""Asks a DNS server for the addresses of a global name, as a workload would, and judges the answer."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from federation.dns import wire
from federation.dns.upstream import Server, over_udp
from federation.dns.wire import Rcode

SILENT, REFUSED, WRONG = "dns_silent", "dns_refused", "dns_wrong"
RESOLV_CONF = Path("/etc/resolv.conf")

_A, _AAAA = wire.Type.A, wire.Type.AAAA


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What `server` told of `name`; `code` is empty where that is right."""

    server: str
    name: str
    addresses: tuple[str, ...] = ()
    code: str = ""
    detail: str = ""


async def ask(server: Server, name: str, wanted: Collection[str], *, seconds: float) -> Told:
    """Ask for the A and AAAA records of `name`, which should be `wanted`."""
    shown = wire_server(server)
    versions = {ipaddress.ip_address(text).version for text in wanted} or {4}
    found: list[str] = []
    for kind in [_A] * (4 in versions) + [_AAAA] * (6 in versions):
        question = wire.encode_name(name) + kind.to_bytes(2, "big") + b"\0\1"
        head = wire.HEADER.pack(secrets.randbelow(65536), wire.RD, 1, 0, 0, 0)
        end = len(head) + len(question)
        try:
            async with asyncio.timeout(seconds):
                answer = await over_udp(server, head + question, end)
        except (TimeoutError, OSError) as error:
            why = getattr(error, "strerror", None) or f"no answer within {seconds:g} s"
            return Told(server=shown, name=name, code=SILENT, detail=f"{shown} does not answer: {why}")
        if rcode := answer[3] & 15:
            return Told(server=shown, name=name, code=REFUSED, detail=f"{shown} answers {_rcode(rcode)} for {name}")
        found += [str(ipaddress.ip_address(raw)) for raw in wire.answered_addresses(answer, end) or ()]
    return judged(shown, name, found, wanted)


def judged(server: str, name: str, found: Collection[str], wanted: Collection[str]) -> Told:
    """Whether these addresses are the ones of `name`. A sidecar's virtual ones are others."""
    if set(found) == set(wanted):
        return Told(server=server, name=name, addresses=tuple(found), detail=f"{name} is {', '.join(found)}")
    detail = f"{server} says that {name} is {', '.join(found) or 'nothing'}, and it is {', '.join(wanted)}"
    return Told(server=server, name=name, addresses=tuple(found), code=WRONG, detail=detail)


def first_nameserver(text: str) -> Server | None:
    """Of a resolv.conf (resolv.conf(5)); None where it names none."""
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            try:
                return str(ipaddress.ip_address(words[1].partition("%")[0])), 53
            except ValueError:
                continue
    return None


def wire_server(server: Server) -> str:
    """ADDRESS, with its port where that is not the one of DNS."""
    return server[0] if server[1] == 53 else f"{server[0]} port {server[1]}"


def _rcode(number: int) -> str:
    try:
        return Rcode(number).name
    except ValueError:
        return f"RCODE {number}"
