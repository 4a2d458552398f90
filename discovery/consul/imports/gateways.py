"""Which gateways of this cluster the instances name, and which of them went away a short while ago. No I/O.

A gateway that is gone takes no registration with it at once: it mostly comes back, and thousands of instances would be
made anew. Until then they are critical.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from discovery.consul.imports.desired import LocalGateway, local_gateways
from federation.aio.clock import Clock
from federation.model.cluster import Gateway, Problem

REMEMBERED_SECONDS = 600.0


class Gateways:
    """`present` and `absent` for a Site; `update` and `forget` say whether they are others now."""

    def __init__(self, *, single_machine: bool, clock: Clock) -> None:
        self._single_machine, self._clock = single_machine, clock
        self.present: tuple[LocalGateway, ...] = ()
        self._lost: dict[str, float] = {}
        self._hidden: tuple[str, ...] = ()

    @property
    def absent(self) -> frozenset[str]:
        return frozenset(self._lost)

    def update(self, gateways: Collection[Gateway]) -> bool:
        """These are known now."""
        before = self.present
        self.present = local_gateways(gateways, single_machine=self._single_machine)
        names = {gateway.name for gateway in self.present}
        self._hidden = tuple(sorted(g.name for g in gateways if g.name not in names))
        self._miss(gateway.name for gateway in before if gateway.name not in names)
        for name in names:
            self._lost.pop(name, None)
        return self.present != before

    def registered(self, names: Iterable[str]) -> bool:
        """Instances that name these were found; whether one of them was not known."""
        present = {gateway.name for gateway in self.present}
        unknown = {name for name in names if name and name not in present and name not in self._lost}
        self._miss(unknown)
        return bool(unknown)

    def forget(self) -> bool:
        """Those that have been away for long will not come back."""
        since = self._clock.monotonic() - REMEMBERED_SECONDS
        old = [name for name, at in self._lost.items() if at <= since]
        for name in old:
            del self._lost[name]
        return bool(old)

    def problem(self) -> Problem | None:
        """Why VMs reach none of them."""
        if self.present or not self._hidden:
            return None
        return Problem(
            "gateway_unreachable",
            f"gateway {self._hidden[0]}",
            "its ports for workloads without a sidecar are where no VM reaches them, so no import is written: "
            "set egress_bind in its settings to an address of the network",
        )

    def _miss(self, names: Iterable[str]) -> None:
        for name in names:
            self._lost[name] = self._clock.monotonic()
