"""An identity from an agent on another machine: what to tell the short-lived process that gets it, and when to.

Light: a gateway or a sidecar imports it. The work, with the libraries that it takes, is federation.registry.machine.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from federation import __version__
from federation.errors import TimedOut, Unavailable
from federation.model.address import split_address
from federation.registry.edge.settings import RemoteAgentSettings
from federation.trust import apart
from federation.trust.workload import Grant

PROGRAM = (sys.executable, "-m", "federation.registry.machine")
TIMEOUT = 60.0
"""Seconds for all addresses together."""
PROBE = 3.0
"""Seconds until an address counts as one where nobody answers."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the process needs to know. `roots` (DER) were believed last; `anchors` is the file that came first."""

    vm: str
    namespace: str
    account: str
    trust_domain: str
    enrolment: tuple[str, ...]
    anchors: str
    roots: tuple[bytes, ...] = ()
    token_file: str = ""
    key_file: str
    version: str = ""


class AfarIdentity:
    """Gets and renews one machine's Grant over TCP."""

    def __init__(self, settings: RemoteAgentSettings, *, vm: str, namespace: str, account: str, key_file: Path) -> None:
        self._settings, self._vm, self._namespace, self._account = settings, vm, namespace, account
        self._key_file = key_file

    def ours(self, grant: Grant) -> bool:
        """Whether what was kept is of the cluster that the settings name: a machine may have moved."""
        return grant.bundle.trust_domain == self._settings.trust_domain

    async def fetch(self, held: Grant | None) -> Grant:
        """A new key and its SVID. Raises Unavailable (nobody answers), TimedOut, Denied (the agent's reason and code).

        Nothing is started while nobody listens at any address.
        """
        learnt = held.enrolment_addresses if held is not None else ()
        addresses = await living(dict.fromkeys((*learnt, *self._settings.enrolment)), setting="vms.listen")
        job = Job(
            vm=self._vm,
            namespace=self._namespace,
            account=self._account,
            trust_domain=self._settings.trust_domain,
            enrolment=addresses,
            anchors=self._settings.anchors,
            roots=held.bundle.roots if held is not None else (),
            token_file=self._settings.token_file,
            key_file=str(self._key_file),
            version=__version__,
        )
        return await ask(PROGRAM, job)


async def ask(program: Sequence[str], job: msgspec.Struct) -> Grant:
    """What `program` makes of the job, in a process of its own. Raises TimedOut, and as apart.ask."""
    try:
        async with asyncio.timeout(TIMEOUT):
            return await apart.ask(program, msgspec.msgpack.encode(job))
    except TimeoutError as error:
        raise TimedOut(f"no agent gave an identity within {TIMEOUT:g} s") from error


async def living(addresses: Iterable[str], *, setting: str) -> tuple[str, ...]:
    """`addresses` from the first one on at which somebody listens, then those before it. Raises Unavailable, naming the
    agent's `setting`."""
    candidates, reason = tuple(addresses), ""
    for number, address in enumerate(candidates):
        host, port = split_address(address, what="agent.enrolment", zero=False)
        try:
            async with asyncio.timeout(PROBE):
                _, writer = await asyncio.open_connection(host, port)
        except TimeoutError:
            reason = f"no answer within {PROBE:g} s"
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            writer.close()
            return (*candidates[number:], *candidates[:number])
    raise Unavailable(
        f"no agent answers at {', '.join(candidates)}: {reason}",
        hint=f"is the agent running, is its {setting} set, and is the port open from here?",
        code="agent_unreachable",
    )
