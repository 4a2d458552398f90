"""The identity of a process in a Pod: what to tell the short-lived process that gets it, and when to.

Light: a gateway or a sidecar imports it. The work, with the libraries that it takes, is federation.registry.pod.
"""

from __future__ import annotations

import sys

import msgspec

from federation import __version__
from federation.registry.edge.afar import ask, living
from federation.registry.edge.settings import RemoteAgentSettings
from federation.trust.workload import Grant

PROGRAM = (sys.executable, "-m", "federation.registry.pod")


class PodJob(msgspec.Struct, frozen=True, kw_only=True):
    """What the process needs to know. `roots` (DER) were believed last; `anchors` and `token` are files."""

    namespace: str
    account: str
    trust_domain: str = ""
    """Empty: whatever the anchors vouch for."""
    enrolment: tuple[str, ...]
    anchors: str
    roots: tuple[bytes, ...] = ()
    token: str
    version: str = ""


class PodIdentity:
    """Gets and renews the Grant of one service account, by a projected token of it."""

    def __init__(self, settings: RemoteAgentSettings, *, namespace: str, account: str) -> None:
        self._settings, self._namespace, self._account = settings, namespace, account

    def ours(self, grant: Grant) -> bool:
        """Whether what was kept is of the cluster that the settings name, if they do."""
        return self._settings.trust_domain in ("", grant.bundle.trust_domain)

    async def fetch(self, held: Grant | None) -> Grant:
        """A new key and its SVID. Raises Unavailable (nobody answers), TimedOut, Denied (the agent's reason and code).

        Nothing is started while nobody listens at any address.
        """
        learnt = held.enrolment_addresses if held is not None else ()
        known = dict.fromkeys((*self._settings.enrolment, *learnt))
        job = PodJob(
            namespace=self._namespace,
            account=self._account,
            trust_domain=self._settings.trust_domain,
            enrolment=await living(known, setting="pods.listen"),
            anchors=self._settings.anchors,
            roots=held.bundle.roots if held is not None else (),
            token=self._settings.service_account_token,
            version=__version__,
        )
        return await ask(PROGRAM, job)
