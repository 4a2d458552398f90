"""Looks at a registry from here for `fedctl check`: TCP, TLS, pin, token (which is not redeemed), clocks."""

from __future__ import annotations

import time
from dataclasses import replace

from federation.cli.checks.facts import RegistryFacts
from federation.cli.clients import operator
from federation.cli.home import Home
from federation.errors import IsthmusError
from federation.registry.join import look_up, still_good
from federation.trust.enrolment import reach
from federation.trust.token import JoinToken


async def by_token(token: str, *, timeout: float) -> RegistryFacts:
    """As who was handed a join token sees it. Raises InvalidInput for what is no token."""
    parsed = JoinToken.parse(token)
    facts = RegistryFacts(address=parsed.registry, token_cluster=parsed.cluster)
    try:
        invitation = await look_up(token, timeout=timeout)
    except IsthmusError as failure:
        return replace(facts, failure=failure)
    began = time.time_ns()
    try:
        reply = await still_good(invitation, timeout=timeout)
    except IsthmusError as failure:
        return replace(facts, pinned=True, token_failure=failure)
    return replace(facts, pinned=True, token=reply, clock_ns=(reply.now_ns, (began + time.time_ns()) // 2))


async def by_address(address: str, *, timeout: float) -> RegistryFacts:
    """As who knows nothing but HOST:PORT sees it: nothing is believed."""
    try:
        await reach(address, timeout=timeout)
    except IsthmusError as failure:
        return RegistryFacts(address=address, failure=failure)
    return RegistryFacts(address=address)


async def by_operator(home: Home, *, timeout: float) -> RegistryFacts | None:
    """As an operator sees it; None where none is known here."""
    if home.operator is None:
        return None
    address = "registry"
    try:
        async with operator(home, timeout=timeout) as client:
            address = client.address
            began = time.time_ns()
            status = await client.status()
            middle = (began + time.time_ns()) // 2
            return RegistryFacts(
                address=address,
                pinned=True,
                status=status,
                members=await client.clusters(),
                links=await client.links(),
                clock_ns=(status.now_ns, middle) if status.now_ns else None,
            )
    except IsthmusError as failure:
        return RegistryFacts(address=address, failure=failure)
