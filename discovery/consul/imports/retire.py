"""Takes what a cluster has written out of a datacenter: when it leaves, and when writing was switched off."""

from __future__ import annotations

from discovery.consul.client import ConsulClient
from discovery.consul.imports.catalog import NODE_CHECK, TXN_OPERATIONS, Catalog, Fence, forbidden
from discovery.consul.imports.plan import DropInstance
from discovery.consul.imports.transport import DatacenterTransport
from discovery.consul.settings import ConsulSettings
from federation.aio.clock import Clock
from federation.errors import Conflict
from federation.log import Logger


async def retire_all(settings: ConsulSettings, *, cluster: str, clock: Clock, log: Logger) -> list[str]:
    """What was removed from all datacenters that the cluster writes to. Raises as `retire`."""
    if not settings.write.enabled:
        return []
    client = ConsulClient(settings, clock=clock, log=log)
    try:
        removed = []
        for datacenter in settings.datacenters:
            catalog = Catalog(
                DatacenterTransport(client, datacenter), node=settings.write.node_of(cluster), cluster=cluster
            )
            removed += [f"Consul {datacenter}: {what}" for what in await retire(catalog)]
        return removed
    finally:
        await client.close()


async def retire(catalog: Catalog, fence: Fence | None = None) -> list[str]:
    """What was removed: the instances that are ours, and the node once nothing of anybody else is under it.

    `fence`: the lock, for an agent that runs. Raises what Catalog raises, Conflict where somebody edits meanwhile.
    """
    registered = await catalog.registered()
    if registered.node is None or not registered.node.ours:
        return []
    ours = [held for _, held in sorted(registered.instances.items()) if held.ours]
    for at in range(0, len(ours), TXN_OPERATIONS - 1):
        drops = [DropInstance(id=h.id, service=h.service, index=h.index) for h in ours[at : at + TXN_OPERATIONS - 1]]
        outcome = await catalog.transact(drops, fence)
        for fault in outcome.faults:
            if fault.denied:
                raise forbidden("the token may not remove services", 'service_prefix "" { policy = "write" }')
            raise Conflict(f"changed meanwhile in Consul: {fault.what}", hint="try again", code="consul_changed")
    removed = [f"{held.service} ({held.id})" for held in ours]
    if len(ours) == len(registered.instances) and not registered.node_checks.keys() - {NODE_CHECK}:
        outcome = await catalog.drop_node(registered.node.index, fence)
        if not outcome.faults:
            removed.append(f"node {catalog.node}")
        elif outcome.faults[0].denied:
            raise forbidden("the token may not remove our node", f'node "{catalog.node}" {{ policy = "write" }}')
    return removed
