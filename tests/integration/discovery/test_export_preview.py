"""Who would see an export, asked of real agents and a real registry: what is told is what then happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from discovery.kube.settings import KubernetesSettings
from federation.aio.tasks import cancel
from federation.cli.export import Looked, look
from federation.cli.home import Home
from federation.cli.preview import Change, Rule, Sight, disputes, sights
from federation.cli.status import Finding, assess
from federation.cli.status import look as look_around
from federation.errors import Conflict, InvalidName, NotFound
from federation.model.cluster import LinkGrant
from federation.model.ids import ServiceName
from federation.model.service import Grant

pytestmark = pytest.mark.integration

Until = Callable[..., Awaitable[Any]]
ECHO = ServiceName("shop", "echo")


def home(federation: Any, *, operator: bool = True) -> Home:
    return Home(
        directory=federation.root,
        operator=federation.root / "registry" / "operator" if operator else None,
        clusters={name: running.state for name, running in federation.agents.items()},
    )


def plain(text: str) -> str:
    """The manifests without the export."""
    return text.partition("---\napiVersion: multicluster")[0]


def by_cluster(looked: Looked) -> dict[str, Sight]:
    return {sight.cluster: sight for sight in sights(looked.known)}


def seen_ports(running: Any, origin: str) -> tuple[int, ...]:
    """The ports of shop/echo that a cluster gets of `origin`."""
    found = running.seen("shop/echo")
    return next((b.ports for b in found.backends if b.cluster == origin), ()) if found is not None else ()


def told_ports(looked: Looked, cluster: str) -> tuple[int, ...]:
    return tuple(p.port for p in by_cluster(looked)[cluster].ports if p.sees)


@pytest.fixture
async def three(federation: Any, manifest: Any, until: Until) -> Any:
    """east has shop/echo and is linked to west; north is linked to west alone, and exports shop/echo, too."""
    east, west, north = [await federation.cluster(name) for name in ("east", "west", "north")]
    east.write("echo.yaml", plain(manifest("echo", "127.0.0.1")))
    north.write("echo.yaml", manifest("echo", "127.0.0.3").replace("name: http, port: 80", "name: http, port: 90"))
    await federation.link("east", "west")
    await federation.link("north", "west")
    await until(lambda: west.clusters("shop/echo") == {"north": 1})
    await until(lambda: east.agent.source.state.value.services and east.agent.view.linked)
    await until(lambda: all(n.bundle for n in east.agent.view.linked))
    return east, west, north


@pytest.mark.parametrize(
    "grants",
    [
        pytest.param([], id="everybody"),
        pytest.param([Grant("west", (81,))], id="a port"),
        pytest.param([Grant("north")], id="another cluster"),
        pytest.param([Grant("*", (80, 81))], id="ports for everybody"),
    ],
)
async def test_what_is_told_is_what_then_happens(
    federation: Any, three: Any, until: Until, grants: list[Grant]
) -> None:
    east, west, _ = three
    looked = await look(home(federation), "east", ECHO, grants)
    assert looked.changed
    assert looked.partly == ""
    assert looked.namespaces == {"west": "exists"}
    assert sorted(f.name for f in east.folder.iterdir()) == ["echo.yaml"], "nothing is written"
    sight = by_cluster(looked)["west"]
    north = by_cluster(looked)["north"]
    assert (north.linked, north.sees, north.rule) == (False, False, Rule.NO_LINK)
    async with east_client(east) as client:
        await client.export(ECHO, grants)
    await until(lambda: seen_ports(west, "east") == told_ports(looked, "west"))
    if sight.sees:
        conflicts = {(c.reason, c.detail) for c in west.seen("shop/echo").conflicts}
        assert conflicts == {(d.reason, d.detail) for d in disputes(looked.known) if "west" in d.at}
        assert conflicts, "north has port 90 for http"
    again = await look(home(federation), "east", ECHO, grants)
    assert not again.changed
    assert {s.change for s in sights(again.known)} <= {Change.KEEPS, Change.NONE}
    gone = await look(home(federation), "east", ECHO, None)
    assert gone.changed
    assert by_cluster(gone)["west"].change is (Change.LOSES if sight.sees else Change.NONE)
    assert by_cluster(gone)["west"].others == ("north",)


def east_client(east: Any) -> Any:
    from discovery.client import AgentClient

    return AgentClient.open(east.state)


async def test_without_the_registry_it_says_what_it_does_not_know(federation: Any, three: Any) -> None:
    looked = await look(home(federation, operator=False), "east", ECHO, [])
    assert looked.partly
    assert set(by_cluster(looked)) == {"west"}
    assert by_cluster(looked)["west"].sees


async def test_grants_of_links_count(federation: Any, three: Any, until: Until) -> None:
    east = three[0]
    grant = LinkGrant(origin="east", consumer="west", namespace="shop", service="*", ports=(80,))
    await federation.link("east", "west", grants=[grant])
    await until(lambda: east.agent.view.linked[0].link.grants)
    sight = by_cluster(await look(home(federation), "east", ECHO, []))["west"]
    assert [(p.port, p.sees, p.rule) for p in sight.ports] == [
        (80, False, Rule.CONFLICT),
        (81, False, Rule.LINK_GRANT),
    ], "north has the name http for port 90"


async def test_a_consumer_that_is_not_trusted_is_named(federation: Any, manifest: Any, until: Until) -> None:
    east = await federation.cluster("east")
    await federation.cluster("west")
    east.write("echo.yaml", plain(manifest("echo", "127.0.0.1")))
    await federation.link("east", "west", pin=False)
    await until(lambda: "unpinned" in east.codes() and east.agent.source.state.value.services)
    looked = await look(home(federation), "east", ECHO, [])
    assert looked.peers["west"][0] == "unpinned"


async def test_refusals_arrive_as_they_were_raised(federation: Any, three: Any) -> None:
    east = three[0]
    here = home(federation)
    east.write(
        "ext.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: ext, namespace: shop}\nspec: {type: ExternalName}\n",
    )
    for grants in ([], None):
        with pytest.raises(NotFound) as missing:
            await look(here, "east", ServiceName("shop", "nothing"), grants)
        assert missing.value.error_code == "no_service"
    with pytest.raises(InvalidName) as long:
        await look(here, "east", ServiceName("shop", "s" * 64), [])
    assert long.value.error_code == "invalid_name"

    async def refused() -> Any:
        try:
            await look(here, "east", ServiceName("shop", "ext"), [])
        except Conflict as error:
            return error
        except NotFound:
            return None  # not read yet

    from clusters.waiting import until

    assert (await until(refused)).error_code == "invalid_service_type"


async def test_a_local_copy_that_is_dead_is_not_called_ready(federation: Any, manifest: Any, until: Until) -> None:
    east = await federation.cluster("east")
    east.write("echo.yaml", manifest("echo", "127.0.0.1"))
    await until(lambda: east.clusters("shop/echo") == {"east": 1})
    async with east_client(east) as client:
        assert (await client.status()).exports_down == 0
        ended = "- {addresses: [127.0.0.1], conditions: {ready: false}}"
        east.write("echo.yaml", manifest("echo", "127.0.0.1").replace("- addresses: [127.0.0.1]", ended))
        await until(lambda: east.clusters("shop/echo") == {"east": 0})
        (backend,) = (await client.resolve("echo.shop.global")).backends
        assert (backend.ready, backend.state) == (0, "not ready")
        assert (await client.status()).exports_down == 1


# --- in Kubernetes ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def only_in_east(kube_clusters: Any) -> AsyncIterator[str]:
    """A namespace that the other cluster lacks."""
    east = kube_clusters[0]
    name = "only-in-east"
    async with east.connect() as client:
        await client.create_namespace(name)
        yield name
        await client.remove_namespace(
            name, kinds=(("v1", "Service"), ("multicluster.x-k8s.io/v1beta1", "ServiceExport"))
        )


async def start(federation: Any, cluster: Any, namespace: str, **settings: Any) -> Any:
    running = await federation.cluster(cluster.name, start=False)
    await running.start(
        files=None,
        kubernetes=KubernetesSettings(
            **{"kubeconfig": str(cluster.kubeconfig), "confirm": 0.2, "namespace": namespace, **settings}
        ),
    )
    return running


async def test_a_namespace_that_a_consumer_lacks_is_named(
    federation: Any, kube_clusters: Any, kube_namespace: str, only_in_east: str, until: Until
) -> None:
    east_kube, west_kube = kube_clusters
    east = await start(federation, east_kube, kube_namespace)
    await start(federation, west_kube, kube_namespace)
    await federation.link("east", "west")
    await until(lambda: any(n.bundle for n in east.agent.view.linked))
    spec = {"ports": [{"name": "http", "port": 80}, {"name": "sig", "port": 7, "protocol": "SCTP"}]}
    async with east_kube.connect() as client:
        for namespace in (kube_namespace, only_in_east):
            metadata = {"name": "echo", "namespace": namespace}
            await client.create({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
            await until(lambda ns=namespace: ServiceName(ns, "echo") in east.agent.source.state.value.services)
        here = home(federation)
        both = await look(here, "east", ServiceName(kube_namespace, "echo"), [])
        lacking = await look(here, "east", ServiceName(only_in_east, "echo"), [])
        assert not await client.list("multicluster.x-k8s.io/v1beta1", "ServiceExport", only_in_east)
    assert (both.namespaces, lacking.namespaces) == ({"west": "exists"}, {"west": "missing"})
    assert [(p.port, p.sees, p.rule) for p in by_cluster(lacking)["west"].ports] == [
        (7, True, Rule.LINK),
        (80, True, Rule.LINK),
    ]


def codes(findings: list[Finding]) -> set[str]:
    return {f.code for f in findings}


async def test_status_names_what_keeps_an_agent_from_reading_its_cluster(
    federation: Any, kube_clusters: Any, kube_namespace: str, until: Until
) -> None:
    """1. whole  2. the API server is away  3. and back."""
    east_kube = kube_clusters[0]
    with east_kube.proxy() as proxy:
        east = await start(federation, east_kube, kube_namespace, kubeconfig=str(east_kube.kubeconfig_at(proxy.port)))

        async def found(code: str) -> Any:
            seen = await look_around(home(federation))
            return next((f for f in assess(seen) if f.code == code), None)

        async def gone(code: str) -> bool:
            return await found(code) is None

        assert await gone("kube_unreachable")
        proxy.refuse()
        proxy.cut()
        finding = await until(lambda: found("kube_unreachable"))
        assert finding.subject == "east: Kubernetes"
        assert str(proxy.port) in finding.detail
        assert "\n" not in finding.detail
        proxy.heal()
        await until(lambda: gone("kube_unreachable"))
        assert east.agent.serving


async def test_status_names_the_crds_and_rules_that_are_missing(federation: Any, start_kube: Any, until: Until) -> None:
    (lone,) = await start_kube("lone", controllers=False, install=())
    running = await federation.cluster("lone", start=False)
    settings = KubernetesSettings(kubeconfig=str(lone.kubeconfig), confirm=0.2)
    await running.start(files=None, kubernetes=settings)

    async def crds() -> Any:
        found = assess(await look_around(home(federation)))
        return next((f for f in found if f.code == "crds_missing"), None)

    finding = await until(crds)
    assert "fedctl install crds" in finding.detail
    assert finding.subject.startswith("lone: ")
    with pytest.raises(NotFound) as caught:
        await look(home(federation), "lone", ServiceName("default", "kubernetes"), [])
    assert caught.value.error_code == "crds_missing"
    await running.stop()

    nobody = KubernetesSettings(kubeconfig=str(lone.kubeconfig_for("nobody")), confirm=0.2)
    (running.state / "kubernetes.state").unlink(missing_ok=True)
    starting = asyncio.create_task(running.start(files=None, kubernetes=nobody), name="starting")
    try:

        async def forbidden() -> Any:
            if not (running.state / "agent.sock").exists():
                return None
            found = assess(await look_around(home(federation)))
            lacks = [f for f in found if f.code == "kube_forbidden" and "ClusterRole lacks" in f.detail]
            return found if lacks else None

        found = await until(forbidden)
        unread = next(f for f in found if f.code == "source_not_read")
        assert unread.subject == "lone"
        assert "nothing before it has read the API server" in unread.detail
        assert "its agent runs" in next(f for f in found if f.code == "cluster_not_live").detail
        assert not codes(found) & {"registry_lost", "agent_unreachable"}
    finally:
        await cancel(starting)
