"""Agents and a real registry: what one cluster's folder says appears in the other's view, whatever breaks between."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from discovery.client import AgentClient
from federation.aio.files import write_state
from federation.errors import Denied, NotFound
from federation.model.cluster import LinkGrant
from federation.model.record import Key, Kind
from federation.model.wire import decode_export, decode_peer
from federation.proto.v1 import catalog_pb2 as pb
from federation.proto.v1 import records_pb2

pytestmark = pytest.mark.integration

Until = Callable[..., Awaitable[Any]]
GATEWAY = "isthmus-system/gateway"


def gateway(name: str = "gw-1", *, port: int = 15443, draining: bool = False) -> pb.Presence:
    return pb.Presence(
        role=pb.Presence.GATEWAY_PROCESS,
        name=name,
        gateway=records_pb2.Gateway(name=name, address="127.0.0.1", port=port, weight=1, draining=draining),
    )


async def linked(federation: Any, **more: Any) -> tuple[Any, Any]:
    east, west = await federation.cluster("east"), await federation.cluster("west")
    await federation.link("east", "west", **more)
    return east, west


async def test_a_file_change_reaches_the_other_cluster(federation: Any, manifest: Any, until: Until) -> None:
    east, west = await linked(federation)
    east.write("echo.yaml", manifest("echo", "127.0.0.1"))
    await until(lambda: west.clusters("shop/echo") == {"east": 1})
    assert [p.port for p in west.seen("shop/echo").ports] == [80, 81]
    assert west.seen("shop/echo").ips
    assert west.seen("shop/echo").backends[0].endpoints == ()
    assert east.seen("shop/echo").backends[0].endpoints[0].address == "127.0.0.1"

    east.write("echo.yaml", manifest("echo", "127.0.0.1", "127.0.0.2", "127.0.0.3"))
    await until(lambda: west.clusters("shop/echo") == {"east": 3})

    west.write("echo.yaml", manifest("echo", "127.0.0.9"))
    await until(lambda: west.clusters("shop/echo") == {"east": 3, "west": 1})
    await until(lambda: east.clusters("shop/echo") == {"east": 3, "west": 1})
    ips = west.seen("shop/echo").ips

    (east.folder / "echo.yaml").write_text("# gone\n")
    await until(lambda: west.clusters("shop/echo") == {"west": 1})
    assert west.seen("shop/echo").ips == ips


async def test_grants_of_the_export_and_of_the_link(federation: Any, manifest: Any, until: Until) -> None:
    grants = [
        LinkGrant(origin="east", consumer="west", namespace="shop", service="*"),
        LinkGrant(origin="west", consumer="east", namespace="none"),
    ]
    east, west = await linked(federation, grants=grants)
    east.write("echo.yaml", manifest("echo", "127.0.0.1", consumers="west:80"))
    east.write("other.yaml", manifest("other", "127.0.0.1", consumers="somebody"))
    west.write("mine.yaml", manifest("mine", "127.0.0.1"))
    await until(lambda: west.clusters("shop/echo") == {"east": 1})
    assert [p.port for p in west.seen("shop/echo").ports] == [80]
    await until(lambda: west.clusters("shop/mine"))
    assert west.seen("shop/other") is None
    assert east.seen("shop/mine") is None

    def admitted(running: Any, name: str) -> dict[str, tuple[int, ...]] | None:
        record = running.agent.view.records.log.get(Key(running.name, Kind.EXPORT, name))
        return None if record is None else {g.consumer: g.ports for g in decode_export(record.payload).grants}

    assert admitted(east, "shop/echo") == {"west": (80,)}
    assert admitted(east, "shop/other") == {}
    assert admitted(west, "shop/mine") == {}


async def test_unpinned_peers_are_not_trusted(federation: Any, manifest: Any, until: Until) -> None:
    east, west = await linked(federation, pin=False)
    east.write("echo.yaml", manifest("echo", "127.0.0.1"))
    await until(lambda: "unpinned" in west.codes())
    assert west.seen("shop/echo") is None
    assert Key("west", Kind.PEER, "east") not in {r.key for r in west.agent.view.records.log.records()}
    async with AgentClient.open(west.state) as client:
        status = await client.status()
        assert [(p.cluster, p.state) for p in status.peers] == [("east", "unpinned")]
        await client.pin("east", "east.fed.example", "sha256:" + "0" * 64)
        await until(lambda: "pin_mismatch" in west.codes())
        assert west.seen("shop/echo") is None
        await client.pin("east", "east.fed.example", await fingerprint(east))
    await until(lambda: west.clusters("shop/echo") == {"east": 1})
    assert not west.codes() & {"unpinned", "pin_mismatch"}


async def fingerprint(running: Any) -> str:
    async with AgentClient.open(running.state) as client:
        text: str = (await client.identity()).fingerprint
        return text


async def test_the_registry_goes_and_comes_back(federation: Any, manifest: Any, until: Until) -> None:
    east, west = await linked(federation)
    east.write("echo.yaml", manifest("echo", "127.0.0.1"))
    await until(lambda: west.clusters("shop/echo") == {"east": 1})
    await federation.stop_registry()
    east.write("echo.yaml", manifest("echo", "127.0.0.1", "127.0.0.2"))
    await until(lambda: east.clusters("shop/echo") == {"east": 2})
    assert west.clusters("shop/echo") == {"east": 1}
    await federation.start_registry()
    await until(lambda: west.clusters("shop/echo") == {"east": 2})


async def test_a_restart_without_the_registry_serves_from_the_disk(
    federation: Any, manifest: Any, until: Until
) -> None:
    east, west = await linked(federation)
    east.write("echo.yaml", manifest("echo", "127.0.0.1"))
    west.write("echo.yaml", manifest("echo", "127.0.0.9"))
    await until(lambda: west.clusters("shop/echo") == {"east": 1, "west": 1})
    before = west.seen("shop/echo")
    epoch = west.agent.epoch
    await federation.stop_registry()
    await west.stop()
    await west.start()
    assert west.seen("shop/echo") == before
    assert west.agent.epoch > epoch
    await federation.start_registry()
    east.write("echo.yaml", manifest("echo", "127.0.0.1", "127.0.0.2"))
    await until(lambda: west.clusters("shop/echo") == {"east": 2, "west": 1})


async def test_a_damaged_last_view_is_rebuilt(federation: Any, manifest: Any, until: Until) -> None:
    east, west = await linked(federation)
    east.write("echo.yaml", manifest("echo", "127.0.0.1"))
    await until(lambda: west.clusters("shop/echo") == {"east": 1})
    await west.stop()
    for path in west.state.glob("*.state"):
        if path.name != "pins.state":  # what an operator said cannot be rebuilt: the peer would be unpinned
            path.write_bytes(path.read_bytes()[:-3] + b"xyz")
    for path in west.state.glob("*.view"):
        path.write_bytes(path.read_bytes()[:-3] + b"xyz")
    await west.start()
    await until(lambda: west.clusters("shop/echo") == {"east": 1})
    assert (west.state / "registry.view.corrupt").exists()


async def test_unlink_ends_visibility_and_trust(federation: Any, manifest: Any, until: Until) -> None:
    east, west = await linked(federation)
    east.write("echo.yaml", manifest("echo", "127.0.0.1"))
    await until(lambda: west.clusters("shop/echo") == {"east": 1})
    await federation.unlink("east", "west")
    await until(lambda: west.seen("shop/echo") is None)
    assert {r.key.name for r in west.agent.view.records.log.records(kind=Kind.PEER)} == {"west"}
    async with AgentClient.open(west.state) as client:
        assert list((await client.status()).peers) == []
        with pytest.raises(NotFound):
            await client.resolve("echo.shop.global")
    await federation.link("east", "west")
    await until(lambda: west.clusters("shop/echo") == {"east": 1})


async def test_a_link_that_was_cut_while_the_agent_was_away(federation: Any, manifest: Any, until: Until) -> None:
    """The restarted registry knows neither the link nor (yet) the other cluster: its records must not be shown."""
    east, west = await linked(federation)
    east.write("echo.yaml", manifest("echo", "127.0.0.1"))
    await until(lambda: west.clusters("shop/echo") == {"east": 1})
    await west.stop()
    await federation.unlink("east", "west")
    await east.stop()
    await federation.stop_registry()
    await west.start()
    assert west.clusters("shop/echo") == {"east": 1}  # nobody can have told it yet
    await federation.start_registry()
    await until(lambda: west.seen("shop/echo") is None)
    assert west.agent.sink.replica.get(Key("east", Kind.SERVICE, "shop/echo")) is not None
    assert {r.key.name for r in west.agent.view.records.log.records(kind=Kind.PEER)} == {"west"}
    await west.stop()
    await federation.stop_registry()
    await west.start()  # from the disk, where the records still are
    assert west.seen("shop/echo") is None
    assert {r.key.name for r in west.agent.view.records.log.records(kind=Kind.PEER)} == {"west"}
    await federation.start_registry()


async def test_a_cluster_that_joins_again_with_its_clock_behind_is_followed_by_who_was_away(
    federation: Any, manifest: Any, until: Until
) -> None:
    east, west = await federation.cluster("east"), await federation.cluster("west", start=False)
    future = 2**40  # what its clock, that was wrong, said then
    write_state(west.state / "epoch.state", str(future).encode())
    await west.start()
    await federation.link("east", "west")
    west.write("old.yaml", manifest("old", "127.0.0.1"))
    await until(lambda: east.clusters("shop/old") == {"west": 1})
    async with AgentClient.open(east.state) as client:
        print_of_east = (await client.identity()).fingerprint

    await east.stop()
    await west.stop()
    async with federation.operator() as operator:
        await operator.leave("west")
    west.state.rename(west.state.with_name("west-old"))
    west.folder.rename(west.folder.with_name("west-old-manifests"))
    west = await federation.cluster("west")
    assert west.agent.epoch > future
    west.write("new.yaml", manifest("new", "127.0.0.1"))
    async with AgentClient.open(west.state) as client:
        print_of_west = (await client.identity()).fingerprint
        await client.pin("east", "east.fed.example", print_of_east)
    async with federation.operator() as operator:
        await operator.link("east", "west", fingerprint_a=print_of_east, fingerprint_b=print_of_west)

    await east.start()
    async with AgentClient.open(east.state) as client:
        await client.pin("west", "west.fed.example", print_of_west)
    await until(lambda: east.clusters("shop/new") == {"west": 1})
    assert east.seen("shop/old") is None
    await until(lambda: east.agent.sink.synced)


async def test_a_consumer_that_says_goodbye_is_not_lost(federation: Any, until: Until, connect: Any) -> None:
    east = await federation.cluster("east")
    shown = east.agent.consumers
    async with connect(east, "shop/web", presence=pb.Presence(role=pb.Presence.SIDECAR, name="web-1")) as leaving:
        await until(lambda: [c.name for c in shown.all] == ["web-1"])
        await leaving.client.goodbye(patience=10)
        await until(lambda: shown.all == [])
    async with connect(east, "shop/web", presence=pb.Presence(role=pb.Presence.SIDECAR, name="web-2")):
        await until(lambda: [c.name for c in shown.all] == ["web-2"])
    await until(lambda: [c.connected for c in shown.all] == [False])


async def test_gateways_make_themselves_known(federation: Any, manifest: Any, until: Until, connect: Any) -> None:
    east, west = await linked(federation)
    east.write("echo.yaml", manifest("echo", "127.0.0.1"))

    def gateways() -> dict[str, bool]:
        record = west.agent.view.records.log.get(Key("west", Kind.PEER, "east"))
        return {} if record is None else {g.name: g.draining for g in decode_peer(record.payload).gateways}

    async with connect(east, GATEWAY, presence=gateway()) as edge:
        await until(lambda: gateways() == {"gw-1": False})
        await until(lambda: edge.names(Kind.EXPORT) == {"shop/echo"})
        assert edge.names(Kind.PEER) == {"east", "west"}
        assert edge.names(Kind.IMPORT) == set()
        async with connect(east, "shop/web", names=("shop/echo", "shop/none")) as sidecar:
            await until(lambda: sidecar.names(Kind.IMPORT) == {"shop/echo"})
            await until(lambda: "shop/none" in sidecar.sink.replica.absent)
            assert sidecar.names(Kind.EXPORT) == set()
            sidecar.presence = pb.Presence(role=pb.Presence.SIDECAR, name="web", via_gateway=["shop/echo"])
            sidecar.client.announce()
            await until(lambda: edge.names(Kind.IMPORT) == {"shop/echo"})
        edge.presence = gateway(draining=True)
        edge.client.announce()
        await until(lambda: gateways() == {"gw-1": True})
    await until(lambda: gateways() == {})
    async with connect(east, GATEWAY, presence=gateway("gw-2")):
        await until(lambda: gateways() == {"gw-2": False})
    # Broken off without a word: it stays for its lease, then it goes.
    await until(lambda: gateways() == {})


async def test_known_gateways_survive_the_agents_restart(
    federation: Any, manifest: Any, until: Until, connect: Any
) -> None:
    east, west = await linked(federation)
    async with connect(east, GATEWAY, presence=gateway()) as edge:
        await until(lambda: any(n.gateways for n in west.agent.view.linked))
        seen: list[int] = []
        west.agent.view.records.log.listen(lambda: seen.append(sum(len(n.gateways) for n in west.agent.view.linked)))
        await east.stop()
        await east.start()
        await until(lambda: edge.client.connected and edge.client.connections > 1)
        await until(lambda: east.agent.publish.connected)
        assert set(seen) <= {1}
        assert set(east.agent.consumers.gateways.value) == {"gw-1"}


async def test_a_gateway_is_on_the_disk_at_once(federation: Any, until: Until, connect: Any) -> None:
    """An agent that dies seconds after a gateway came must not withdraw it at its next start."""
    east = await federation.cluster("east", save=600.0)
    kept = east.state / "gateways.state"
    await until(kept.exists)  # the first write, of none, is over: the next one would be due in ten minutes
    async with connect(east, GATEWAY, presence=gateway()):
        await until(lambda: gateway().gateway.name.encode() in kept.read_bytes())


async def test_what_the_registry_refuses_is_shown(federation: Any, until: Until, connect: Any) -> None:
    east = await federation.cluster("east")
    bad = gateway()
    bad.gateway.address = "169.254.169.254"
    async with connect(east, GATEWAY, presence=bad) as edge:
        await until(lambda: "forbidden_address" in east.codes())
        edge.presence = gateway()
        edge.client.announce()
        await until(lambda: "forbidden_address" not in east.codes())


async def test_identities_that_are_neither_gateway_nor_workload_are_refused(
    federation: Any, until: Until, connect: Any
) -> None:
    east = await federation.cluster("east", identities={0: ["isthmus-system/other"]})
    async with connect(east, "isthmus-system/other") as edge:
        await until(lambda: getattr(edge.client.last_error, "error_code", "") == "not_authorised")
    with pytest.raises(Denied):
        async with connect(east, "shop/web"):
            pass


async def test_renewal_makes_new_connections_before_it_drops_the_old(
    federation: Any, manifest: Any, until: Until
) -> None:
    east = await federation.cluster("east", svid_ttl=2.0)
    west = await federation.cluster("west")
    await federation.link("east", "west")
    east.write("echo.yaml", manifest("echo", "127.0.0.1"))
    await until(lambda: west.clusters("shop/echo") == {"east": 1})
    await until(lambda: east.agent.publish.connections >= 3)
    east.write("echo.yaml", manifest("echo", "127.0.0.1", "127.0.0.2"))
    await until(lambda: west.clusters("shop/echo") == {"east": 2})
    assert not west.seen("shop/echo").backends[0].stale


async def test_admin_errors_arrive_as_they_were_raised(federation: Any, manifest: Any, until: Until) -> None:
    east = await federation.cluster("east")
    east.write("echo.yaml", manifest("echo", "127.0.0.1").partition("---\napiVersion: multicluster")[0])
    await until(lambda: east.agent.source.state.value.services)
    async with AgentClient.open(east.state) as client:
        with pytest.raises(NotFound) as caught:
            await client.export("shop/nothing")
        assert "shop/echo" in caught.value.hint
        reply = await client.export("shop/echo")
        assert reply.changed
        assert [i.name for i in await client.imports()] == ["echo"]
        resolved = await client.resolve("echo.shop.east.global")
        assert [(b.cluster, b.address, b.state) for b in resolved.backends] == [("east", "127.0.0.1:8080", "ready")]
        assert (await client.unexport("shop/echo")).changed
        assert await client.imports() == []
