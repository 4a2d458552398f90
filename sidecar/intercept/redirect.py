"""The redirect way: TCP to the range of virtual addresses goes to Envoy's one outbound listener, and nothing else does.

`ruleset` is pure. `apply` and `remove` run nft(8) and ip(8) in the network namespace of the caller, who needs NET_ADMIN
there: an init container, a CNI plugin or a systemd unit. Both may be repeated.
"""

from __future__ import annotations

import ipaddress
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from federation.errors import InvalidInput, Unavailable

_TABLE = re.compile(r"[a-z][a-z0-9_]{0,30}\Z", re.ASCII)
_SECONDS = 20.0

Run = Callable[[Sequence[str], str], tuple[int, str]]
"""Runs a command with the given standard input; returns its exit status and what it wrote to standard error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """Redirect TCP to `network` to `port` of this host; `table` is the nftables table of our own."""

    network: str = "240.64.0.0/12"
    port: int = 15001
    table: str = "isthmus"

    def __post_init__(self) -> None:
        try:
            ipaddress.IPv4Network(self.network)
        except ValueError as error:
            raise InvalidInput(f"{self.network[:40]!r} is no IPv4 network: {error}") from error
        if not 1 <= self.port <= 65535:
            raise InvalidInput(f"port {self.port} is out of range", code="invalid_port")
        if not _TABLE.match(self.table):
            raise InvalidInput(f"{self.table[:40]!r} cannot be the name of an nftables table")


def ruleset(plan: Redirect) -> str:
    """What `nft -f -` reads: our table, made anew in one transaction, whatever was in it."""
    return f"""\
add table ip {plan.table}
delete table ip {plan.table}
table ip {plan.table} {{
	chain output {{
		type nat hook output priority -100; policy accept;
		ip daddr {plan.network} meta l4proto tcp redirect to :{plan.port}
	}}
}}
"""


def removal(plan: Redirect) -> str:
    """What `nft -f -` reads to be rid of our table, whether it is there or not."""
    return f"add table ip {plan.table}\ndelete table ip {plan.table}\n"


def apply(plan: Redirect, *, run: Run | None = None) -> None:
    """Make the range local, so that nothing sent to it leaves this host, and redirect it.

    Raises Unavailable (nft or ip missing, no NET_ADMIN, or a kernel without nftables NAT).
    """
    call = run or _run
    _check(call(["ip", "route", "replace", "local", plan.network, "dev", "lo"], ""), "set the route to")
    _check(call(["nft", "-f", "-"], ruleset(plan)), "redirect")


def remove(plan: Redirect, *, run: Run | None = None) -> None:
    """Undo `apply`; nothing happens where it was not applied. Raises Unavailable as `apply` does."""
    call = run or _run
    _check(call(["nft", "-f", "-"], removal(plan)), "stop redirecting")
    status, complaint = call(["ip", "route", "del", "local", plan.network, "dev", "lo"], "")
    if "No such process" not in complaint:  # ESRCH: there is no such route
        _check((status, complaint), "remove the route to")


def _check(result: tuple[int, str], what: str) -> None:
    status, complaint = result
    if status:
        lines = complaint.strip().splitlines()
        raise Unavailable(
            f"cannot {what} the virtual addresses: {lines[0] if lines else f'exit status {status}'}",
            hint="it needs nft, ip and the capability NET_ADMIN in this network namespace",
            code="redirect_failed",
        )


def _run(command: Sequence[str], text: str) -> tuple[int, str]:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except FileNotFoundError:
        return 127, f"{command[0]} is not installed"
    except subprocess.TimeoutExpired:
        return 124, f"{command[0]} took longer than {_SECONDS:g} s"
    return done.returncode, done.stderr
