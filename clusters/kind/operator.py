"""A person at a laptop: runs fedctl with the contexts that the harness has made for its clusters."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from clusters.command import Done, attempt
from clusters.kind import nameservers
from clusters.kind.harness import KindHarness
from clusters.kubeclient import connect
from clusters.waiting import START
from federation.errors import IsthmusError, Unavailable


class Operator:
    """Calls of fedctl with `-o json`."""

    def __init__(self, harness: KindHarness) -> None:
        self._harness = harness

    async def __call__(self, *words: str, seconds: float = START) -> Done:
        """Whatever comes of it."""
        program = Path(sys.executable).with_name("fedctl")
        return await attempt(program, "--home", self._harness.folder.home, *words, "-o", "json", seconds=seconds)

    async def ok(self, *words: str) -> Any:
        """What it prints; raises Unavailable when it fails."""
        done = await self(*words)
        if done.status:
            raise Unavailable(f"fedctl {' '.join(words)}: {done.err.strip() or done.text}")
        return json.loads(done.out)

    async def told(self, *words: str) -> Any:
        """What `status` or `check` prints, whether all is well or not; raises Unavailable when it prints nothing."""
        done = await self(*words)
        try:
            return json.loads(done.out)
        except ValueError:
            raise Unavailable(f"fedctl {' '.join(words)}: {done.reason}") from None

    async def status(self) -> dict[str, str]:
        """What `fedctl status` finds: the details by code and subject."""
        found = (await self.told("status"))["findings"]
        return {f"{one['code']} {one['subject']}": one["detail"] for one in found}

    async def codes(self) -> set[str]:
        """The codes alone; the code of the error where there is no answer yet."""
        try:
            return {key.partition(" ")[0] for key in await self.status()}
        except IsthmusError as error:
            return {error.error_code}

    async def check(self, *words: str) -> list[dict[str, str]]:
        """What `fedctl check` finds and is not well."""
        found = (await self.told("check", *words))["findings"]
        return [one for one in found if one["level"] != "ok"]

    async def place(self, cluster: str) -> tuple[str, ...]:
        """The options that name a cluster by its kubeconfig."""
        want = (await self._harness.wanted())[cluster]
        return "--kubeconfig", str(self._harness.folder.kubeconfig(cluster)), "--context", want.context

    async def serve_names(self, *clusters: str) -> None:
        """Have the DNS of these clusters answer global names to pods without a sidecar (`fedctl install dns`)."""
        for cluster in clusters:
            await self.ok("install", "dns", *await self.place(cluster))
            async with connect(self._harness.folder.kubeconfig(cluster)) as client:
                await nameservers.renew(client)
