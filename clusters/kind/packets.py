"""Rules for packets in a node's network: chains of our own, replaced whole, known by their names, taken out whole.

They are set by `docker exec`, so they work wherever the engine is, and are gone when a node is started anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from clusters.kind import engine
from clusters.kind.engine import Node
from federation.errors import Unavailable

Family = Literal["iptables", "ip6tables"]
FAMILIES: tuple[Family, ...] = ("iptables", "ip6tables")
INTERFACE = "eth0"
"""Of a node, in the network of all nodes."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Where one of our chains hangs."""

    name: str
    table: str
    hook: str
    match: str = ""
    """Which packets go through it."""

    def jump(self, verb: str) -> str:
        """The words that check ("-C"), insert ("-I") or delete ("-D") the rule that leads to it."""
        return " ".join(filter(None, (f"-t {self.table} {verb} {self.hook}", self.match, f"-j {self.name}")))


# After connection tracking, before kube-proxy leads a node port elsewhere: what is dropped here reaches nobody.
NAT = Chain("ISTHMUS-NAT", "mangle", "PREROUTING", f"-i {INTERFACE}")
FAULTS = Chain("ISTHMUS-FAULTS", "mangle", "PREROUTING", f"-i {INTERFACE}")
FLAT = Chain("ISTHMUS-FLAT", "nat", "POSTROUTING")


def render(chain: Chain, rules: Iterable[str]) -> bytes:
    """What iptables-restore reads to make the chain exactly these rules (the words after `-A <chain>`)."""
    lines = [f"*{chain.table}", f":{chain.name} - [0:0]", *(f"-A {chain.name} {rule}" for rule in rules), "COMMIT", ""]
    return "\n".join(lines).encode()


async def apply(node: str, chain: Chain, rules: Sequence[str], *, family: Family = "iptables") -> None:
    """Make the chain what `rules` say, and lead to it; raises Unavailable."""
    script = (
        f"{family}-restore --wait --noflush && "
        f"{{ {family} --wait {chain.jump('-C')} 2>/dev/null || {family} --wait {chain.jump('-I')}; }}"
    )
    await engine.execute(node, "sh", "-c", script, text=render(chain, rules))


async def read(node: str, chain: Chain, *, family: Family = "iptables") -> list[str]:
    """The rules of the chain as iptables prints them; none where it is not, or where nothing leads to it."""
    script = (
        f"{family} --wait {chain.jump('-C')} 2>/dev/null && {family} --wait -t {chain.table} -S {chain.name} || true"
    )
    head = f"-A {chain.name} "
    return [
        line.removeprefix(head)
        for line in (await engine.execute(node, "sh", "-c", script)).splitlines()
        if line.startswith(head)
    ]


async def remove(node: str, chain: Chain, *, family: Family = "iptables") -> None:
    """Take the chain out, if it is there."""
    script = (
        f"while {family} --wait {chain.jump('-D')} 2>/dev/null; do :; done; "
        f"{family} --wait -t {chain.table} -F {chain.name} 2>/dev/null && "
        f"{family} --wait -t {chain.table} -X {chain.name} || true"
    )
    await engine.execute(node, "sh", "-c", script)


# --- a cluster behind NAT --------------------------------------------------------------------------------------------


def behind_nat(nodes: Sequence[Node], *, six: bool = False) -> list[str]:
    """Rules of such a cluster, as iptables prints them: answers, its own nodes and this machine pass, nobody else."""
    own = [node.address6 if six else node.address for node in nodes]
    gateways = {gateway for node in nodes for gateway in node.gateways if (":" in gateway) is six}
    prefix = 128 if six else 32
    return [
        "-m conntrack ! --ctstate NEW -j RETURN",
        *(f"-s {address}/{prefix} -j RETURN" for address in sorted({*own, *gateways} - {""})),
        *(f"-p {protocol} -j DROP" for protocol in ("tcp", "udp")),
    ]


async def guard(nodes: Sequence[Node]) -> None:
    """Set the rules of `behind_nat` in every node."""
    for node in nodes:
        await apply(node.name, NAT, behind_nat(nodes))
        if node.address6:
            await apply(node.name, NAT, behind_nat(nodes, six=True), family="ip6tables")


async def is_guarded(nodes: Sequence[Node]) -> bool:
    """Whether every node that runs has them, for the addresses of now."""
    for node in nodes:
        if node.state != "running" or await read(node.name, NAT) != behind_nat(nodes):
            return False
        if node.address6 and not await read(node.name, NAT, family="ip6tables"):
            return False
    return True


# --- a flat network --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Route:
    """Pods of another cluster, and the node that has them."""

    pods: str
    via: str


def unmasked(routes: Iterable[Route]) -> list[str]:
    """Rules that let Pods keep their addresses towards the Pods of other clusters."""
    return [f"-d {route.pods} -j ACCEPT" for route in sorted(routes, key=lambda r: r.pods)]


async def flatten(nodes: Iterable[Node], routes: Sequence[Route]) -> None:
    """Lead the Pods of other clusters to their nodes, with the addresses that they have."""
    for node in nodes:
        script = " && ".join(f"ip route replace {route.pods} via {route.via}" for route in routes)
        await engine.execute(node.name, "sh", "-c", script or "true")
        await apply(node.name, FLAT, unmasked(routes))


async def unflatten(nodes: Iterable[Node], routes: Sequence[Route]) -> None:
    """Undo `flatten`."""
    for node in nodes:
        script = "; ".join(f"ip route del {route.pods} via {route.via}" for route in routes)
        await engine.execute(node.name, "sh", "-c", f"{script}; true")
        await remove(node.name, FLAT)


async def is_flat(nodes: Iterable[Node], routes: Sequence[Route]) -> bool:
    """Whether every node that runs has the routes and the rules."""
    for node in nodes:
        if node.state != "running":
            return False
        try:
            table = (await engine.execute(node.name, "ip", "route")).splitlines()
        except Unavailable:
            return False
        if any(not any(line.startswith(f"{r.pods} via {r.via} ") for line in table) for r in routes):
            return False
        if await read(node.name, FLAT) != unmasked(routes):
            return False
    return True
