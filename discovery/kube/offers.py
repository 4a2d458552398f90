"""What virtual machines register, where an agent has replicas: each VM has a stream to one of them, and all report it.

    own streams ─ discovery.vms.workloads ─ Lease isthmus-vms-<replica> ─ watch ─→ the same of the other replicas

Each replica writes one Lease: in an annotation the VMs that it speaks for, and by renewing it that it still does. A
Lease that has not changed for its duration is asked for once more; then its replica is gone, and its VMs have to come
to another one within their grace period. While the API server is away nothing is concluded from silence.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import zlib
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from discovery.kube.client import KubeClient
from discovery.kube.errors import Conflict, NotFound
from discovery.kube.lease import micro_time
from discovery.kube.resources import LEASES
from discovery.kube.types import MANAGER, LeaseObject
from discovery.kube.watch import Key, Store
from discovery.sources.manifests import MANAGED_BY
from discovery.vms.workloads import Shared, Workloads
from federation.aio.backoff import Backoff
from federation.aio.clock import Clock
from federation.aio.tasks import first_of
from federation.errors import AlreadyExists, IsthmusError
from federation.log import Logger
from federation.model.cluster import Problem

PREFIX = "isthmus-vms-"
"""Of the names of the Leases; a hash of the replica's name follows."""
OFFERS = "isthmus.io/vm-services"
"""Annotation of a Lease: the VMs, as base64 of zlib of msgpack."""
DURATION, RENEW = 15, 5.0
"""Seconds: that a replica is believed to speak for its VMs without news of it, and between two renewals."""
MAX_BYTES = 240_000
"""Of the annotation: an object has at most 256 KiB of them."""
_MAX_UNPACKED = 16 << 20
_SLOWEST, _FASTEST = 1.0, 0.1
"""Seconds between two looks at the time, and between two writes at least."""

_decoder = msgspec.msgpack.Decoder(list[Shared])


class Offers:
    """`run` until cancelled."""

    def __init__(
        self,
        client: KubeClient,
        leases: Store[LeaseObject],
        workloads: Workloads,
        *,
        namespace: str,
        identity: str,
        forget: float,
        on_problem: Callable[[Problem | None], None],
        clock: Clock,
        log: Logger,
        rng: random.Random,
    ) -> None:
        """`forget` (s): the Lease of a replica that has been gone for so long is removed."""
        self._client, self._namespace, self._identity, self._forget = client, namespace, identity, forget
        self._on_problem, self._clock, self._log = on_problem, clock, log
        self._leases, self._workloads = leases, workloads
        self._backoff = Backoff(base=0.2, cap=RENEW, uniform=rng.uniform)
        self._name = name_of(identity)
        self._changed, self._written = True, float("-inf")
        self._said: dict[str, float] = {}  # Lease of another replica -> when it last changed
        self._gone: set[str] = set()
        self._wake = asyncio.Event()
        leases.listen(self._told)
        workloads.on_share = self._share

    async def run(self) -> None:
        """Tell what the own VMs register, and hear of the others', until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self._turn()
            except IsthmusError as error:
                self._log.warning("vm services not shared", code=error.error_code, error=error.message)
                await self._clock.sleep(self._backoff.next())
                continue
            self._backoff.reset()
            await self._clock.sleep(_FASTEST)
            await first_of(self._wake.wait(), self._clock.sleep(_SLOWEST))

    async def _turn(self) -> None:
        now = self._clock.monotonic()
        shared = self._workloads.shared()
        held = self._leases.objects.get((self._namespace, self._name))
        if not shared:
            if held is not None:
                await self._remove(self._name)
        elif self._changed or held is None or now >= self._written + RENEW:
            await self._write(shared, held)
        for name, since in list(self._said.items()):
            if name not in self._gone and now >= since + DURATION:
                await self._ask(name)
            elif name in self._gone and now >= since + DURATION + self._forget:
                await self._remove(name)

    # --- the own VMs -------------------------------------------------------------------------------------------------

    def _share(self) -> None:
        self._changed = True
        self._wake.set()

    async def _write(self, shared: list[Shared], held: LeaseObject | None) -> None:
        self._changed = False
        try:
            body = msgspec.json.encode(self._render(shared, held))
            if held is None:
                data = await self._client.create(LEASES, self._namespace, body)
            else:
                data = await self._client.update(LEASES, self._namespace, self._name, body)
        except (Conflict, AlreadyExists, NotFound):
            self._share()
            await self._refresh(self._name)
            return
        except IsthmusError:
            self._changed = True
            raise
        self._written = self._clock.monotonic()
        self._leases.put(msgspec.json.decode(data, type=LeaseObject))

    def _render(self, shared: list[Shared], held: LeaseObject | None) -> dict[str, Any]:
        count = len(shared)
        packed = pack(shared)
        while len(packed) > MAX_BYTES:
            count = count * 9 // 10
            packed = pack(shared[:count])
        if left := len(shared) - count:
            detail = (
                f"{left} of the {len(shared)} VMs of this replica do not fit; while another one leads they are missing"
            )
            self._on_problem(Problem("too_many_vm_services", f"Lease {self._namespace}/{self._name}", detail))
        else:
            self._on_problem(None)
        metadata: dict[str, Any] = {
            "name": self._name,
            "namespace": self._namespace,
            "labels": {MANAGED_BY: MANAGER},
            "annotations": {OFFERS: packed},
        }
        if held is not None:
            metadata |= {"resourceVersion": held.metadata.resource_version, "uid": held.metadata.uid}
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": metadata,
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": DURATION,
                "renewTime": micro_time(self._clock.wall_ns()),
            },
        }

    # --- the others' -------------------------------------------------------------------------------------------------

    def _told(self, keys: Collection[Key]) -> None:
        for space, name in keys:
            if space != self._namespace or not name.startswith(PREFIX) or name == self._name:
                continue
            lease = self._leases.objects.get((space, name))
            if lease is None:
                if self._said.pop(name, None) is not None:
                    self._gone.discard(name)
                    self._workloads.unheard(name)
                continue
            self._said[name] = self._clock.monotonic()
            self._gone.discard(name)
            try:
                told = unpack((lease.metadata.annotations or {}).get(OFFERS, ""))
                self._workloads.heard(name, told)
            except (ValueError, IsthmusError) as error:
                self._log.warning("no services of VMs in a Lease", lease=name, error=str(error))

    async def _ask(self, name: str) -> None:
        """Nothing was heard of a replica; the watch may be behind. Raises IsthmusError: then nobody knows."""
        before = self._said[name]
        await self._refresh(name)
        if self._said.get(name) == before:
            self._gone.add(name)
            self._log.warning("a replica is gone, its VMs have to find another", lease=name)
            self._workloads.unheard(name)

    async def _refresh(self, name: str) -> None:
        """What the API server has, where the watch has not told of it."""
        held = self._leases.objects.get((self._namespace, name))
        try:
            found = msgspec.json.decode(await self._client.get(LEASES, self._namespace, name), type=LeaseObject)
        except NotFound:
            self._leases.delete(self._namespace, name)
            return
        if held is None or held.metadata.resource_version != found.metadata.resource_version:
            self._leases.put(found)

    async def _remove(self, name: str) -> None:
        held = self._leases.objects.get((self._namespace, name))
        if held is not None:
            meta = held.metadata
            try:
                await self._client.delete(
                    LEASES, self._namespace, name, uid=meta.uid, resource_version=meta.resource_version
                )
            except (Conflict, NotFound):
                await self._refresh(name)
                return
        self._leases.delete(self._namespace, name)


def name_of(identity: str) -> str:
    """The Lease of a replica: its own name may be none for an object."""
    return PREFIX + hashlib.sha256(identity.encode()).hexdigest()[:16]


def pack(shared: Collection[Shared]) -> str:
    """As text that an annotation can hold."""
    return base64.b64encode(zlib.compress(msgspec.msgpack.encode(list(shared)))).decode()


def unpack(text: str) -> list[Shared]:
    """Raises ValueError (also msgspec's errors) where that is not what `pack` made."""
    if not text:
        return []
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(base64.b64decode(text, validate=True), _MAX_UNPACKED)
    except zlib.error as error:
        raise ValueError(f"not compressed: {error}") from error
    if not stream.eof:
        raise ValueError("cut off, or too much")
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
