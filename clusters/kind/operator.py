"""A person at a laptop: runs fedctl with the contexts that the harness has made for its clusters."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from clusters.command import Done, attempt
from clusters.kind.harness import KindHarness
from clusters.together import finish_together
from clusters.waiting import START
from federation.errors import IsthmusError, Unavailable

_NAMES = 320.0
"""Seconds: somewhat more than fedctl waits for the pods of CoreDNS."""


class Operator:
    """Calls of fedctl with `-o json`."""

    def __init__(self, harness: KindHarness) -> None:
        self._harness = harness

    async def __call__(self, *words: str, seconds: float = START) -> Done:
        """Whatever comes of it."""
        program = Path(sys.executable).with_name("fedctl")
        return await attempt(program, "--home", self._harness.folder.home, *words, "-o", "json", seconds=seconds)

    async def ok(self, *words: str, seconds: float = START) -> Any:
        """What it prints; raises Unavailable when it fails."""
        done = await self(*words, seconds=seconds)
        if done.status:
            raise Unavailable(f"fedctl {' '.join(words)}: {done.err.strip() or done.text}")
        return json.loads(done.out)

    async def refused(self, *words: str) -> dict[str, str]:
        """The error that it prints: code, message and hint; raises Unavailable when it succeeds, or prints none."""
        done = await self(*words)
        try:
            error: dict[str, str] = json.loads(done.err.splitlines()[-1])["error"]
        except (IndexError, ValueError):
            raise Unavailable(f"fedctl {' '.join(words)} was not refused: {done.reason}") from None
        return error

    async def told(self, *words: str) -> Any:
        """What `status` or `check` prints, whether all is well or not; raises Unavailable when it prints nothing."""
        done = await self(*words)
        try:
            return json.loads(done.out)
        except ValueError:
            raise Unavailable(f"fedctl {' '.join(words)}: {done.reason}") from None

    async def status(self) -> list[dict[str, str]]:
        """What `fedctl status` finds: code, subject and detail."""
        found: list[dict[str, str]] = (await self.told("status"))["findings"]
        return found

    async def codes(self) -> set[str]:
        """The codes alone; the code of the error where there is no answer yet."""
        try:
            return {one["code"] for one in await self.status()}
        except IsthmusError as error:
            return {error.error_code}

    async def finds(self, *codes: str) -> bool:
        """Whether `fedctl status` finds these and nothing else; without any, whether all is well."""
        return await self.codes() == set(codes)

    async def check(self, *words: str) -> list[dict[str, str]]:
        """What `fedctl check` finds and is not well."""
        found = (await self.told("check", *words))["findings"]
        return [one for one in found if one["level"] != "ok"]

    async def place(self, cluster: str) -> tuple[str, ...]:
        """The options that name a cluster by its kubeconfig."""
        want = (await self._harness.wanted())[cluster]
        return "--kubeconfig", str(self._harness.folder.kubeconfig(cluster)), "--context", want.context

    async def serve_names(self, *clusters: str) -> None:
        """Have the DNS of these clusters answer global names to pods without a sidecar (`fedctl install dns`).

        It stays so: where another test has done it, nothing is left to do.
        """
        await finish_together({f"names-{one}": self._serve_names(one) for one in clusters})

    async def _serve_names(self, cluster: str) -> None:
        await self.ok("install", "dns", *await self.place(cluster), seconds=_NAMES)
