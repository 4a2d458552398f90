"""Takes what a cluster has written out of a datacenter: when it leaves, and when writing was switched off."""

from __future__ import annotations

from collections.abc import Collection

from discovery.consul.client import ConsulClient
from discovery.consul.imports.catalog import NODE_CHECK, TXN_OPERATIONS, Catalog, Fence, Outcome, forbidden
from discovery.consul.imports.held import Held, Registered
from discovery.consul.imports.plan import DropInstance
from discovery.consul.imports.transport import DatacenterTransport
from discovery.consul.settings import ConsulSettings
from federation.aio.clock import Clock
from federation.errors import Conflict
from federation.log import Logger

_TRIES = 5


async def retire_all(
    settings: ConsulSettings, *, cluster: str, clock: Clock, log: Logger, dry_run: bool = False
) -> list[str]:
    """What was removed (`dry_run`: would be) from the datacenters that the cluster writes to. Raises as `retire`."""
    if not settings.write.enabled:
        return []
    client = ConsulClient(settings, clock=clock, log=log)
    try:
        removed = []
        for datacenter in settings.datacenters:
            catalog = Catalog(
                DatacenterTransport(client, datacenter), node=settings.write.node_of(cluster), cluster=cluster
            )
            removed += [f"Consul {datacenter}: {what}" for what in await (preview if dry_run else retire)(catalog)]
        return removed
    finally:
        await client.close()


async def retire(catalog: Catalog, fence: Fence | None = None) -> list[str]:
    """What was removed: the instances that are ours, and the node once nothing of anybody else is under it.

    `fence`: the lock, for an agent that runs. Raises what Catalog raises, Conflict where somebody writes all the time.
    """
    removed: list[str] = []
    for _ in range(_TRIES):
        registered = await catalog.registered()
        if registered.node is None or not registered.node.ours:
            return removed
        if await _drop(catalog, registered, fence, removed):
            return removed
    raise Conflict(f"what is under {catalog.node} in Consul changes all the time", hint="end the agent, then try again")


async def preview(catalog: Catalog) -> list[str]:
    """What `retire` would remove."""
    registered = await catalog.registered()
    if registered.node is None or not registered.node.ours:
        return []
    ours = [held for _, held in sorted(registered.instances.items()) if held.ours]
    node = [] if _others(registered, ours) else [f"node {catalog.node}"]
    return [f"{held.service} ({held.id})" for held in ours] + node


def _others(registered: Registered, ours: Collection[Held]) -> bool:
    """Whether somebody else has put something under the node."""
    return len(ours) < len(registered.instances) or bool(registered.node_checks.keys() - {NODE_CHECK})


async def _drop(catalog: Catalog, registered: Registered, fence: Fence | None, removed: list[str]) -> bool:
    """Whether nothing came between; adds to `removed`."""
    ours = [held for _, held in sorted(registered.instances.items()) if held.ours]
    for at in range(0, len(ours), TXN_OPERATIONS - 1):
        part = ours[at : at + TXN_OPERATIONS - 1]
        drops = [DropInstance(id=held.id, service=held.service, index=held.index) for held in part]
        if not _done(await catalog.transact(drops, fence), 'service_prefix "" { policy = "write" }'):
            return False
        removed += [f"{held.service} ({held.id})" for held in part]
    if _others(registered, ours):
        return True
    assert registered.node is not None  # noqa: S101 - the caller has looked
    if not _done(
        await catalog.drop_node(registered.node.index, fence), f'node "{catalog.node}" {{ policy = "write" }}'
    ):
        return False
    removed.append(f"node {catalog.node}")
    return True


def _done(outcome: Outcome, needs: str) -> bool:
    for fault in outcome.faults:
        if fault.denied:
            raise forbidden("the token may not remove what is ours", needs)
        return False
    return True
