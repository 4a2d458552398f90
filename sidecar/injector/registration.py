"""Keeps the caBundle of our MutatingWebhookConfiguration to the roots of the cluster.

The object is the installation's: what is called, for whom and with which failurePolicy, is never touched. `plan` is
pure. Roots of ours that are missing are added at once. One that is not ours goes only when it has not been ours for as
long as a certificate lives: other replicas of the injector may not have heard of a new root yet, and are believed by
the old one.
"""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from federation.aio.clock import Clock
from federation.log import Logger
from federation.trust.pem import armour
from sidecar.injector.api import PATCH, Api

_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_PATH = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"

Operation = Mapping[str, Any]


def roots_of(bundle: str) -> tuple[bytes, ...]:
    """The certificates (DER) of a caBundle; what is none is passed over."""
    try:
        text = base64.b64decode(bundle or "", validate=False).decode("ascii", "replace")
        return tuple(ssl.PEM_cert_to_DER_cert(block) for block in _BLOCK.findall(text))
    except ValueError:
        return ()


def bundle_of(roots: Iterable[bytes]) -> str:
    """As clientConfig.caBundle has it."""
    return base64.b64encode(armour(roots)).decode()


def plan(found: Mapping[str, Any], ours: Sequence[bytes], *, kept: Iterable[bytes] = ()) -> list[Operation]:
    """The JSON patch after which every webhook of the configuration has our roots, and of the others those in `kept`.

    Each change is bound to the webhook's name: a configuration that was changed meanwhile refuses it.
    """
    operations: list[Operation] = []
    keep = frozenset(kept)
    for number, webhook in enumerate(found.get("webhooks") or []):
        has = str((webhook.get("clientConfig") or {}).get("caBundle") or "")
        wanted = bundle_of([*ours, *(root for root in roots_of(has) if root in keep and root not in ours)])
        if has != wanted:
            at = f"/webhooks/{number}"
            operations += [
                {"op": "test", "path": f"{at}/name", "value": webhook.get("name")},
                {"op": "add", "path": f"{at}/clientConfig/caBundle", "value": wanted},
            ]
    return operations


class Registration:
    """Of the configuration called `name`; `look` again and again."""

    def __init__(self, api: Api, name: str, *, clock: Clock, log: Logger) -> None:
        self._api, self._name, self._clock, self._log = api, name, clock, log
        self._foreign: dict[bytes, float] = {}  # since when it was not ours, monotonic

    async def look(self, ours: Sequence[bytes], *, life: float) -> bool:
        """Compare, and patch what differs, which is told; roots that are not ours are kept for `life` seconds.

        Raises NotFound where there is no such configuration, Denied, Unavailable, Conflict.
        """
        path = f"{_PATH}/{quote(self._name, safe='')}"
        found = await self._api.ask("GET", path)
        operations = plan(found, ours, kept=self._kept(found, ours, life))
        if operations:
            await self._api.ask("PATCH", path, operations, content_type=PATCH)
            self._log.info("caBundle written", webhook=self._name, changed=len(operations) // 2, roots=len(ours))
        return bool(operations)

    def _kept(self, found: Mapping[str, Any], ours: Sequence[bytes], life: float) -> list[bytes]:
        now = self._clock.monotonic()
        there = {
            root
            for webhook in found.get("webhooks") or []
            for root in roots_of(str((webhook.get("clientConfig") or {}).get("caBundle") or ""))
        }
        self._foreign = {root: self._foreign.get(root, now) for root in there.difference(ours)}
        return [root for root, since in self._foreign.items() if now - since < life]
