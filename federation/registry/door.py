"""What all have in common who ask an agent from afar for an identity, in a process that lives only for that.

Arrives: a job, and how to ask once the agent is proven. Leaves: a Grant, from the first agent that gives one. Used by
federation.registry.machine and federation.registry.pod; the other end is discovery.enrolment.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec

from federation.aio.clock import Clock, SystemClock
from federation.errors import Denied, InvalidInput, IsthmusError, QuotaExceeded, TimedOut, Unavailable
from federation.trust.apart import Outcome, dump, failure
from federation.trust.enrolment import AGENT, PinnedServer, fetch_pinned
from federation.trust.framing import frame_from
from federation.trust.keys import chain_from_pem
from federation.trust.workload import Grant

J = TypeVar("J")


async def ask_in_turn(
    addresses: Sequence[str],
    prints: Sequence[str],
    ask: Callable[[str, PinnedServer], Awaitable[Grant]],
    *,
    trust_domain: str,
    clock: Clock,
    timeout: float,
) -> Grant:
    """What `ask` gets at the first of `addresses` where an agent proves itself by a root with one of the `prints`.

    It must be of `trust_domain`; empty: of any that such a root vouches for. Raises Denied (pin_mismatch,
    agent_foreign), Unavailable, TimedOut, and what `ask` raises.
    """
    failures: list[IsthmusError] = []
    for address in addresses:
        try:
            server = await fetch_pinned(address, *prints, clock=clock, timeout=timeout, party=AGENT)
            found = server.spiffe_id.trust_domain
            if trust_domain and found != trust_domain:
                raise Denied(f"the agent at {address} is of {found}, not of {trust_domain}", code="agent_foreign")
        except (Unavailable, TimedOut, Denied) as error:
            failures.append(error)  # nothing was sent; the next address may be the right one
            continue
        try:
            grant = await ask(address, server)
        except (Unavailable, TimedOut, QuotaExceeded) as error:
            failures.append(error)
            continue
        if grant.bundle.trust_domain != found:
            raise Denied(f"the agent of {found} has issued an identity of {grant.bundle.trust_domain}")
        others = (a for a in grant.enrolment_addresses if a != address)
        return replace(grant, enrolment_addresses=(address, *others))
    raise next((e for e in failures if isinstance(e, Denied)), failures[0])


def anchors(path: str, roots: Sequence[bytes], *, hint: str) -> tuple[bytes, ...]:
    """The roots in the file at `path`, and `roots`, which were believed since: where the file is gone they are enough.

    Raises InvalidInput (anchors_invalid).
    """
    try:
        return (*chain_from_pem(Path(path).read_bytes()), *roots)
    except (OSError, InvalidInput) as error:
        if roots:
            return tuple(roots)
        why = f"cannot read {path}: {error.strerror}" if isinstance(error, OSError) else ""
        raise InvalidInput(why or f"{path} holds no certificate", hint=hint, code="anchors_invalid") from error


def answer(kind: type[J], enrol: Callable[[J, Clock], Awaitable[Grant]]) -> None:
    """A process: read one job of this `kind`, write the Outcome; ends without a word when the caller has gone."""
    into, out = sys.stdin.buffer, sys.stdout.buffer
    data = frame_from(into)
    if not data:
        return

    async def run() -> Grant:
        return await enrol(msgspec.msgpack.decode(data, type=kind), SystemClock())

    try:
        outcome = Outcome(grant=asyncio.run(run()))
    except IsthmusError as error:
        outcome = failure(error)
    out.write(dump(outcome))
    out.flush()
