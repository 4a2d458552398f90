"""The story of a virtual machine: a service that Consul knows is called from pods, and a program on it calls pods.

The cluster dc1 is without Kubernetes: it is this machine, in the network of the nodes. Its registry is the one that
runs in east. The pod that calls is one that nobody has touched; for it dc1 is nearer than west.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clusters.kind.calls import failed
from clusters.kind.operator import Operator
from clusters.kind.plainhosts import PlainHosts, plain_hosts
from clusters.kind.shop import PODS, PORT, Shop
from clusters.mixed import NAME
from clusters.pytest_plugin import Clusters
from clusters.waiting import until
from federation.errors import Unavailable
from federation.model.service import Locality

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.clusters("two-kind", installed=True),
    pytest.mark.usefixtures("consul_program"),
]

EAST, WEST, VM, DB = "east", "west", "vm", "db"
NEAR = Locality("eu", "eu-1")
"""The zone of east."""


@pytest.fixture
async def hosts(clusters: Clusters, shop: Shop, tmp_path: Path) -> AsyncIterator[PlainHosts]:
    try:
        context = plain_hosts(
            clusters.harness, tmp_path, locality=NEAR, namespace=shop.namespace, service=DB, port=PORT
        )
        async with context as hosts:
            yield hosts
    except Unavailable as error:
        if "needs root" not in error.message:
            raise
        pytest.skip(f"{error.message}: run scripts/test as root")


async def test_a_service_on_a_virtual_machine(
    clusters: Clusters, hosts: PlainHosts, shop: Shop, operator: Operator, record_property: pytest.RecordProperty
) -> None:
    # 1. a datacenter of Consul joins the registry in east, and is linked with both clusters
    await operator.serve_names(EAST)
    await hosts.start(EAST, WEST)
    assert {one["name"] for one in await operator.ok("get", "clusters")} == {EAST, WEST, NAME}
    # 2. `consul services register` on the virtual machine: east imports it, and a pod calls it
    registered = time.monotonic()
    await hosts.vm.register(1)
    await shop.imported(EAST, DB)
    record_property("seconds_from_consul_to_the_import", round(time.monotonic() - registered, 2))
    async with shop.calling(EAST, shop.clusterset(DB), timeout=20) as calls:
        await calls.answered_by(VM)
        # 3. its check turns critical, and nobody else has the service: calls are refused. It passes again
        hosts.vm.fail(1)
        refused = await calls.refused()
        assert [one.error for one in refused if "timed out" in one.error] == []
        hosts.vm.pass_again(1)
        await calls.answered_by(VM)
        # 4. pods of west offer it, too: the nearer one goes on answering until its check turns critical, and after it
        await shop.offer(WEST, DB)
        await until(lambda: _has(operator, WEST), seconds=PODS, what="the copies of west in east")
        began = time.monotonic()
        await calls.answered_by(VM)
        critical = time.monotonic()
        hosts.vm.fail(1)
        await calls.answered_by(WEST)
        hosts.vm.pass_again(1)
        await calls.answered_by(VM)
        sent = await calls.since(began)
        first = next(one for one in sent if one.begin > critical and one.cluster == WEST)
        record_property("seconds_from_the_failing_page_to_west", round(first.end - critical, 2))
        print(f"{len(sent)} requests while the check turned and turned back, {len(failed(sent))} failed")
        assert failed(sent) == []
    # 5. a program on the virtual machine calls pods of west by the name of a service that it has itself no copy of
    await shop.offer(WEST, "echo")
    await hosts.start_sidecar()
    async with hosts.calling(shop.name("echo"), PORT) as calls:
        await calls.answered_by(WEST)
        assert await calls.lost() == []
    # 6. nothing is left to complain of; the datacenter leaves
    await until(operator.finds, seconds=PODS, what="a whole federation")


async def _has(operator: Operator, cluster: str) -> bool:
    """Whether east knows ready copies of the cluster."""
    done = await operator.told("resolve", f"{DB}.shop-vm-in-consul.global", "--from", EAST)
    return any(one["cluster"] == cluster and one["ready"] for one in done["shares"])
