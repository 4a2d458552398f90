"""Reading Kubernetes while the API server, or the way to it, is broken: nothing dips, nothing is missed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from clusters.apiserver import LocalCluster
from clusters.faultproxy import FaultProxy
from clusters.waiting import until
from discovery.kube.settings import KubernetesSettings
from federation.aio.tasks import cancel

pytestmark = pytest.mark.integration


async def exported(kube: Any, make: Any, namespace: str, *names: str) -> None:
    for name in names:
        await kube.create(make.service(namespace, name=name), make.export(namespace, name=name))
        await kube.create(make.slice_(namespace, make.at("10.1.0.1"), name=name))


async def never_less(run: Any, keys: set[Any]) -> None:
    """Fails when one of the exports, or its endpoints, is missing for a moment."""
    version = -1
    while True:
        version, state = await run.source.state.newer(version)
        assert {n for n, claim in state.exports.items() if claim.endpoints} >= keys, "it dipped"


async def lists(run: Any) -> dict[str, int]:
    """How often each resource was listed, once all were."""
    await until(lambda: all(r.synced.value for r in run.source._reflectors))
    return {r.resource.plural: r.lists_done for r in run.source._reflectors}


def cut(proxy: FaultProxy) -> None:
    proxy.cut()


def refuse(proxy: FaultProxy) -> None:
    proxy.refuse()


def stall(proxy: FaultProxy) -> None:
    proxy.stall()


def half_open(proxy: FaultProxy) -> None:
    proxy.half_open()


def late(proxy: FaultProxy) -> None:
    proxy.delay(1.0)


def in_the_midst_of_a_line(proxy: FaultProxy) -> None:
    proxy.limit(700)


@pytest.mark.parametrize("fault", [cut, refuse, stall, half_open, late, in_the_midst_of_a_line])
async def test_a_fault_on_the_way_loses_nothing(
    east: LocalCluster,
    kube_namespace: str,
    make: Any,
    following: Any,
    tmp_path: Path,
    fault: Callable[[FaultProxy], None],
) -> None:
    """What changes meanwhile is there after the heal (or, where the way is only late, without one)."""
    ns = kube_namespace
    with east.proxy() as proxy:
        async with east.connect() as kube, following(east.kubeconfig_at(proxy.port), tmp_path / "state") as run:
            await exported(kube, make, ns, "echo")
            await run.exported(ns, "echo", lambda c: c.endpoints)
            watching = asyncio.create_task(never_less(run, {run.claim(ns, "echo").name}), name="no-dip")
            before = await lists(run)
            fault(proxy)
            await kube.apply(make.slice_(ns, make.at("10.1.0.2")))
            await exported(kube, make, ns, "new")
            if fault in (cut, late):
                await run.exported(ns, "new", lambda c: c.endpoints)
            else:
                await asyncio.wait({watching}, timeout=1.0)  # proves an absence: nothing vanishes meanwhile
            proxy.heal()
            await run.exported(ns, "echo", lambda c: [e.address for e in c.endpoints] == ["10.1.0.2"])
            await run.exported(ns, "new", lambda c: c.endpoints)
            await until(lambda: not [p for p in run.state.problems if p.code.startswith("kube_")])
            assert not watching.done(), watching.exception()
            await cancel(watching)
            assert await lists(run) == before, "a watch is resumed, not listed again"


async def test_a_half_open_watch_is_noticed_within_a_minute() -> None:
    """By the default settings: the last byte of a watch comes when it is asked to end; so much later it is given up."""
    watch = KubernetesSettings().watch
    assert watch + min(15.0, watch / 3) <= 60.0


async def test_a_half_open_watch_is_given_up_in_time(
    east: LocalCluster, kube_namespace: str, make: Any, following: Any, tmp_path: Path
) -> None:
    ns = kube_namespace
    with east.proxy() as proxy:
        async with (
            east.connect() as kube,
            following(east.kubeconfig_at(proxy.port), tmp_path / "state", watch=6.0) as run,
        ):
            await exported(kube, make, ns, "echo")
            await run.exported(ns, "echo", lambda c: c.endpoints)
            proxy.half_open()
            proxy.heal()  # for new connections; the open ones are silent for ever
            began = time.monotonic()
            await kube.apply(make.slice_(ns, make.at("10.1.0.2")))
            await run.exported(ns, "echo", lambda c: [e.address for e in c.endpoints] == ["10.1.0.2"])
            assert time.monotonic() - began < 25.0  # 8 s by design; the machine is shared


async def test_an_api_server_that_dies_and_comes_back(
    east: LocalCluster, kube_namespace: str, make: Any, following: Any, tmp_path: Path
) -> None:
    ns = kube_namespace
    async with following(east.kubeconfig, tmp_path / "state") as run:
        async with east.connect() as kube:
            await exported(kube, make, ns, "echo", "gone")
        await run.exported(ns, "gone", lambda c: c.endpoints)
        keys = {run.claim(ns, "echo").name}
        watching = asyncio.create_task(never_less(run, keys), name="no-dip")
        east.kill()
        await until(lambda: run.problem("kube_unreachable"))
        assert run.claim(ns, "gone") is not None
        assert len([p for p in run.state.problems if p.code == "kube_unreachable"]) == 1, "one problem, not five"
        await east.restart()
        async with east.connect() as kube:
            await kube.delete("multicluster.x-k8s.io/v1beta1", "ServiceExport", "gone", ns)
        await until(lambda: run.claim(ns, "gone") is None)
        await until(lambda: run.problem("kube_unreachable") is None)
        assert not watching.done(), watching.exception()
        await cancel(watching)


async def test_history_that_is_too_old_is_listed_again_once(
    start_kube: Callable[..., Awaitable[tuple[LocalCluster, ...]]], make: Any, following: Any, tmp_path: Path
) -> None:
    (cluster,) = await start_kube("one", controllers=False)
    with cluster.proxy() as proxy:
        async with following(cluster.kubeconfig_at(proxy.port), tmp_path / "state") as run:
            async with cluster.connect() as kube:
                await exported(kube, make, "default", "echo", "gone")
            await run.exported("default", "gone", lambda c: c.endpoints)
            watching = asyncio.create_task(never_less(run, {run.claim("default", "echo").name}), name="no-dip")
            before = await lists(run)
            proxy.refuse()
            async with cluster.connect() as kube:
                await kube.delete("multicluster.x-k8s.io/v1beta1", "ServiceExport", "gone", "default")
            await cluster.forget_history()
            proxy.heal()
            await until(lambda: run.claim("default", "gone") is None)
            after = await lists(run)
            assert after["serviceexports"] == before["serviceexports"] + 1
            assert all(after[plural] - before[plural] <= 1 for plural in before)
            assert not watching.done(), watching.exception()
            await cancel(watching)


async def test_an_agent_that_starts_without_the_api_server_serves_what_it_knew(
    east: LocalCluster, kube_namespace: str, make: Any, following: Any, tmp_path: Path
) -> None:
    ns, cache = kube_namespace, tmp_path / "state"
    async with east.connect() as kube, following(east.kubeconfig, cache) as run:
        await exported(kube, make, ns, "echo")
        known = await run.exported(ns, "echo", lambda c: c.endpoints)
    with east.proxy() as proxy:
        proxy.refuse()
        config = east.kubeconfig_at(proxy.port)
        async with following(config, cache) as run:
            assert run.state.complete
            assert run.claim(ns, "echo") == known
            await until(lambda: run.problem("kube_stale") and run.problem("kube_unreachable"))
            watching = asyncio.create_task(never_less(run, {known.name}), name="no-dip")
            async with east.connect() as kube:
                await exported(kube, make, ns, "new")
            proxy.heal()
            await run.exported(ns, "new", lambda c: c.endpoints)
            await until(lambda: not run.problem("kube_stale"))
            assert not watching.done(), watching.exception()
            await cancel(watching)


async def test_an_agent_that_knows_nothing_says_nothing(east: LocalCluster, following: Any, tmp_path: Path) -> None:
    with east.proxy() as proxy:
        proxy.refuse()
        async with following(east.kubeconfig_at(proxy.port), tmp_path / "state", complete=False) as run:
            await until(lambda: run.problem("kube_unreachable"))
            assert not run.state.complete


async def test_a_cluster_without_our_crds(
    start_kube: Callable[..., Awaitable[tuple[LocalCluster, ...]]], make: Any, following: Any, tmp_path: Path
) -> None:
    from discovery.kube import crds

    (bare,) = await start_kube("bare", controllers=False, install=())
    async with following(bare.kubeconfig, tmp_path / "state") as run, bare.connect() as kube:
        problem = await until(lambda: run.problem("crds_missing"))
        assert "fedctl install crds" in problem.detail
        assert run.state.complete, "what is not exported is known all the same"
        await kube.install_crds(*crds.manifests())
        await exported(kube, make, "default", "echo")
        await run.exported("default", "echo", lambda c: c.endpoints)
        await until(lambda: run.problem("crds_missing") is None)
