"""Asks a DNS server for names the way a program's resolver would, on UDP and on TCP; and how long that takes."""

from __future__ import annotations

import socket
import time

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from clusters.waiting import ANSWER
from federation.errors import Unavailable


def lookup(
    server: str, port: int, name: str, kind: str = "A", *, tcp: bool = False, timeout: float = ANSWER
) -> list[str]:
    """The answers of type `kind`, sorted; empty when the name does not exist. Raises Unavailable."""
    query = dns.message.make_query(name, kind)
    ask = dns.query.tcp if tcp else dns.query.udp
    try:
        reply = ask(query, server, port=port, timeout=timeout)
    except (dns.exception.DNSException, OSError) as error:
        raise Unavailable(f"the DNS server at {server}:{port} did not answer for {name}: {error}") from error
    if reply.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise Unavailable(f"the DNS server at {server}:{port} answered {dns.rcode.to_text(reply.rcode())} for {name}")
    wanted = dns.rdatatype.from_text(kind)
    return sorted(item.to_text() for rrset in reply.answer if rrset.rdtype == wanted for item in rrset)


def timed_lookup(server: str, port: int, name: str, *, timeout: float = ANSWER) -> float:
    """Milliseconds from sending an A query to having its answer; raises Unavailable unless there is an address."""
    query = dns.message.make_query(name, "A").to_wire()
    with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(timeout)
        client.connect((server, port))
        began = time.perf_counter_ns()
        client.send(query)
        try:
            reply = client.recv(4096)
        except OSError as error:
            raise Unavailable(f"the DNS server at {server}:{port} did not answer for {name}: {error}") from error
        took = (time.perf_counter_ns() - began) / 1e6
    if not dns.message.from_wire(reply).answer:
        raise Unavailable(f"{name} has no address")
    return took
