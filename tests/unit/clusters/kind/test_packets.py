"""Rules of nodes: as iptables prints them again, so that what is there can be compared."""

from __future__ import annotations

from clusters.kind.engine import Node
from clusters.kind.faults import Lost, rules
from clusters.kind.packets import FAULTS, FLAT, NAT, Route, behind_nat, render, unmasked

GATEWAYS = ("172.18.0.1", "fc00::1")


def node(number: int) -> Node:
    return Node(
        name=f"n{number}",
        cluster="c",
        role="worker",
        state="running",
        marks=(),
        address=f"172.18.0.{number}",
        address6=f"fc00::{number}",
        gateways=GATEWAYS,
    )


def test_behind_nat_only_its_own_and_this_machine_open_connections() -> None:
    assert behind_nat([node(3), node(2)]) == [
        "-m conntrack ! --ctstate NEW -j RETURN",
        "-s 172.18.0.1/32 -j RETURN",
        "-s 172.18.0.2/32 -j RETURN",
        "-s 172.18.0.3/32 -j RETURN",
        "-p tcp -j DROP",
        "-p udp -j DROP",
    ]
    assert "-s fc00::2/128 -j RETURN" in behind_nat([node(2)], six=True)
    assert not [rule for rule in behind_nat([node(2)], six=True) if "172." in rule]


def test_what_is_restored() -> None:
    assert render(NAT, ["-p tcp -j DROP"]) == b"*mangle\n:ISTHMUS-NAT - [0:0]\n-A ISTHMUS-NAT -p tcp -j DROP\nCOMMIT\n"
    assert render(FLAT, []) == b"*nat\n:ISTHMUS-FLAT - [0:0]\nCOMMIT\n"


def test_where_chains_hang() -> None:
    assert FAULTS.jump("-C") == "-t mangle -C PREROUTING -i eth0 -j ISTHMUS-FAULTS"
    assert FLAT.jump("-I") == "-t nat -I POSTROUTING -j ISTHMUS-FLAT"


def test_a_flat_network() -> None:
    routes = [Route("10.131.1.0/24", "172.18.0.4"), Route("10.131.0.0/24", "172.18.0.3")]
    assert unmasked(routes) == ["-d 10.131.0.0/24 -j ACCEPT", "-d 10.131.1.0/24 -j ACCEPT"]


def test_lost_of_whom() -> None:
    lost = Lost(("172.18.0.9", "fc00::9", "10.130.0.0/16"))
    assert rules(lost, [node(2)]) == ["-s 10.130.0.0/16 -j DROP", "-s 172.18.0.9 -j DROP"]
    assert rules(lost, [node(2)], six=True) == ["-s fc00::9 -j DROP"]


def test_a_share_of_everybody_elses() -> None:
    assert rules(Lost(("172.18.0.9",), 0.25), [node(2), node(3)]) == [
        "-s 172.18.0.9 -j DROP",
        "-s 172.18.0.1 -j RETURN",
        "-s 172.18.0.2 -j RETURN",
        "-s 172.18.0.3 -j RETURN",
        "-m statistic --mode random --probability 0.250000 -j DROP",
    ]
    assert rules(Lost(), [node(2)]) == []
