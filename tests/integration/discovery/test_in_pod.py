"""Agents that join by themselves, on a real API server with the rights that such an agent is given, and no others."""

from __future__ import annotations

import asyncio
import base64
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusters.network import free_port
from clusters.program import Program, events
from discovery import backup
from discovery.client import AgentClient
from discovery.inpod import Arrival, PodSettings, load
from discovery.kube import shared
from discovery.kube.client import KubeClient
from discovery.kube.install import install
from discovery.kube.rbac import ACCOUNT, manifests
from discovery.kube.settings import KubernetesSettings
from federation import log
from federation.aio.archive import pack, unpack
from federation.aio.clock import SystemClock
from federation.errors import AlreadyExists, Conflict, Denied, InvalidInput, IsthmusError, NotFound
from federation.registry.join import Joined

pytestmark = pytest.mark.integration

Until = Callable[..., Awaitable[Any]]
RBAC = "rbac.authorization.k8s.io/v1"


class Pod:
    """One replica: what its ConfigMap says, its volume, its process."""

    def __init__(self, east: Cluster, name: str, **changes: Any) -> None:
        self.root, self.name = east.root / name, name
        self.root.mkdir()
        self.state, self.file, self.log = self.root / "state", self.root / "agent.yaml", self.root / "log"
        self.metrics = free_port()
        self._settings: dict[str, Any] = {
            "cluster": "east",
            "kubernetes": {"kubeconfig": str(east.account), "namespace": east.namespace, "confirm": 0.2},
            "directory": str(self.state),
            "listen": f"127.0.0.1:{free_port()}",
            "metrics": f"127.0.0.1:{self.metrics}",
            "log": {"json": True},
        }
        self.configure(**changes)
        command = [sys.executable, "-m", "discovery", "--in-pod", str(self.file), "--join-token", str(east.token)]
        self.program = Program(name, command, self.log)

    def configure(self, **changes: Any) -> None:
        """Write the ConfigMap."""
        self._settings |= changes
        self.file.write_text(yaml.safe_dump(self._settings))

    def says(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}{path}", timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def ready(self) -> bool:
        return self.says("/readyz")[0] == 200

    def told(self, event: str) -> list[dict[str, Any]]:
        return [found for found in events(self.log) if found["event"] == event]

    async def identity(self) -> Any:
        async with AgentClient.open(self.state) as client:
            return await client.identity()


class Cluster:
    """An API server in which an agent is to be installed, and the Secret with its join token as a kubelet mounts it."""

    def __init__(self, root: Path, client: Any, namespace: str, *, account: Path, admin: Path) -> None:
        self.root, self.client, self.namespace, self.account, self.admin = root, client, namespace, account, admin
        self.token = root / "token"
        self.pods: list[Pod] = []

    def pod(self, name: str, **changes: Any) -> Pod:
        self.pods.append(Pod(self, name, **changes))
        return self.pods[-1]

    def wanted(self, name: str = "in-process", **changes: Any) -> PodSettings:
        return load(Pod(self, name, **changes).file)

    def arrival(self, name: str = "in-process", **changes: Any) -> Arrival:
        wanted = self.wanted(name, **changes)
        return Arrival(wanted, token=self.token, clock=SystemClock(), log=log.get("test"))

    async def secret(self) -> dict[str, str]:
        found: dict[str, str] = (await self.client.get("v1", "Secret", shared.NAME, self.namespace))["data"]
        return found

    async def anchor(self) -> str:
        """What isthmus-trust says; empty where there is none."""
        try:
            found = await self.client.get("v1", "ConfigMap", "isthmus-trust", self.namespace)
        except NotFound:
            return ""
        return str(found["data"]["root.pem"])


@pytest.fixture
async def east(kube_clusters: Any, kube_namespace: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = kube_clusters[0]
    clock = SystemClock()
    admin = await KubeClient.open(
        KubernetesSettings(kubeconfig=str(cluster.kubeconfig)), log=log.get("test"), clock=clock
    )
    await install(admin, manifests(namespace=kube_namespace, in_pod=True), clock=clock)
    await admin.close()
    account = await cluster.kubeconfig_for_account(kube_namespace, ACCOUNT)
    root = tmp_path / "east"
    root.mkdir()
    async with cluster.connect() as client:
        made = Cluster(root, client, kube_namespace, account=account, admin=cluster.kubeconfig)
        yield made
        for pod in made.pods:
            pod.program.end()
        for kind in ("ClusterRoleBinding", "ClusterRole"):
            await client.delete(RBAC, kind, "isthmus-agent")


async def issue(federation: Any, cluster: str = "east") -> str:
    async with federation.operator() as operator:
        return str((await operator.issue_token(cluster)).token)


async def test_two_replicas_that_start_at_once_join_once_and_a_third_replicates(
    federation: Any, east: Cluster, until: Until
) -> None:
    one, two = east.pod("one"), east.pod("two")
    for pod in (one, two):
        pod.program.start()
    # 1. without a token they wait, alive and not ready, and say for what
    await until(lambda: all("no join token" in pod.says("/readyz")[1] for pod in (one, two)))
    assert [pod.says("/healthz")[0] for pod in (one, two)] == [200, 200]
    # 2. one token for both
    east.token.write_text(await issue(federation) + "\n")
    await until(lambda: (one.ready() and two.ready()) or not (one.program.alive and two.program.alive))
    first, second = await one.identity(), await two.identity()
    assert first.fingerprint == second.fingerprint
    async with federation.operator() as operator:
        (member,) = await operator.clusters()
        assert member.name == "east"
    assert len(one.told("joined") + two.told("joined")) == 1
    assert (await east.secret()).keys() == {"settings.yaml", "root.pem", "registry.bundle", "epoch"}
    # 3. the leader tells the cluster which root to believe, again when somebody has changed it
    root = base64.b64decode((await east.secret())["root.pem"]).decode()
    certificate = root[root.index("-----BEGIN CERT") :].split()
    await until(lambda: _is(east, certificate))
    changed = {"data": {"root.pem": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}}
    await east.client.patch("v1", "ConfigMap", "isthmus-trust", east.namespace, merge=changed)
    await until(lambda: _is(east, certificate))
    # 4. a third one has no use for a token
    east.token.unlink()
    three = east.pod("three")
    three.program.start()
    await until(three.ready)
    assert (await three.identity()).fingerprint == first.fingerprint
    # 5. a restart needs neither, and what the ConfigMap says now counts
    one.program.kill()
    one.configure(listen=f"127.0.0.1:{free_port()}", suffix="mesh")
    one.program.start()
    await until(one.ready)
    assert (await one.identity()).fingerprint == first.fingerprint
    assert one.told("serving")[-1]["address"] == yaml.safe_load(one.file.read_text())["listen"]
    assert yaml.safe_load((one.state / "settings.yaml").read_text())["suffix"] == "mesh"
    assert len(one.told("waiting to join")) <= 3  # a line for each reason, not for each attempt


async def _is(east: Cluster, certificate: list[str]) -> bool:
    return (await east.anchor()).split() == certificate


async def test_the_registry_may_be_away_when_it_starts(federation: Any, east: Cluster, until: Until) -> None:
    east.token.write_text(await issue(federation))
    await federation.stop_registry()
    pod = east.pod("one")
    pod.program.start()
    await until(lambda: pod.told("waiting to join"))
    assert "registry" in pod.told("waiting to join")[0]["reason"] or "127.0.0.1" in pod.says("/readyz")[1]
    assert pod.says("/healthz")[0] == 200
    with pytest.raises(NotFound):  # nothing was claimed for a registry that may never come
        await east.secret()
    await federation.start_registry()
    await until(pod.ready)


async def test_one_that_ended_between_the_claim_and_the_answer_is_completed_by_another(
    federation: Any, east: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    east.token.write_text(await issue(federation))
    from discovery import inpod

    monkeypatch.setattr(inpod, "PATIENCE", 0.2)
    with monkeypatch.context() as broken:
        join = inpod.registry.join

        async def answer_lost(*args: Any, **more: Any) -> Joined:
            await join(*args, **more)
            raise RuntimeError("killed before the answer was read")

        broken.setattr(inpod.registry, "join", answer_lost)
        with pytest.raises(RuntimeError):
            await east.arrival("dead").settings()
    assert (await east.secret()).keys() == {"root.pem"}
    settings = await east.arrival("other").settings()  # another volume, the same root: the token is answered again
    assert (settings.cluster, settings.federation) == ("east", "fed.example")
    assert len(await east.secret()) == 4


async def test_a_cluster_that_has_left_joins_again_with_a_new_token(federation: Any, east: Cluster) -> None:
    east.token.write_text(await issue(federation))
    lets_in = {"listen": "0.0.0.0:7446", "advertise": "10.96.0.7:7446"}
    first = await east.arrival("one", advertise="10.96.0.7:7445", pods=lets_in).settings()
    from discovery.departure import retire
    from discovery.join import replicate
    from discovery.settings import load as parse

    async with federation.operator() as operator:
        await operator.leave("east")
    administrator = KubernetesSettings(kubeconfig=str(east.admin), namespace=east.namespace)
    # from a laptop, with what the cluster remembers: what its agents listen at is theirs
    laptop = await replicate(east.root / "laptop", kubernetes=administrator)
    assert not parse(laptop.settings).pods.listen
    assert not (await retire(parse(laptop.settings), dry_run=True)).failed
    departed = await retire(parse(first.path / "settings.yaml"), administrator)
    assert not departed.failed
    east.token.unlink()
    arrival = east.arrival("one-again", directory=first.directory)
    waiting = asyncio.create_task(arrival.settings())
    done, _ = await asyncio.wait({waiting}, timeout=1.0)
    assert not done
    assert "no join token" in arrival.waiting
    east.token.write_text(await issue(federation))
    again = await waiting
    assert again.federation == first.federation
    assert not (first.path / "left.state").exists()


@pytest.mark.parametrize(
    ("token", "changes", "error", "code", "status"),
    [
        ("nonsense", {}, InvalidInput, "token_malformed", 2),
        ("of west", {}, InvalidInput, "token_foreign", 2),
        ("revoked", {}, Denied, "token_revoked", 5),
        ("replaced", {}, Denied, "token_revoked", 5),
        ("good", {"cluster": "middle"}, InvalidInput, "token_foreign", 2),
    ],
)
async def test_a_token_that_will_not_do_ends_it(
    federation: Any,
    east: Cluster,
    token: str,
    changes: dict[str, Any],
    error: type[IsthmusError],
    code: str,
    status: int,
) -> None:
    given = token if token == "nonsense" else await issue(federation, "west" if token == "of west" else "east")
    async with federation.operator() as operator:
        if token == "revoked":
            await operator.revoke_token("east")
        if token == "replaced":
            await operator.issue_token("east")
    east.token.write_text(given)
    with pytest.raises(error) as caught:
        await east.arrival(**changes).settings()
    assert (caught.value.error_code, caught.value.exit_status) == (code, status)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


async def test_a_name_that_another_root_has_is_not_taken_over(federation: Any, east: Cluster, until: Until) -> None:
    east.token.write_text(await issue(federation))
    await east.arrival("one").settings()
    await east.client.delete("v1", "Secret", shared.NAME, east.namespace)
    # the volume of one is lost with the Secret: the registry knows the name, and nobody has its root
    with pytest.raises((AlreadyExists, Denied, Conflict)) as caught:
        await east.arrival("two").settings()
    assert caught.value.hint


async def test_a_bad_token_ends_the_process_with_one_line(federation: Any, east: Cluster) -> None:
    east.token.write_text(await issue(federation, "west"))
    pod = east.pod("one")
    process = await asyncio.create_subprocess_exec(
        *pod.program.command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(process.communicate(), 60)
    (line,) = [x for x in said.decode().splitlines() if x.startswith("isthmus-agent: ")]
    assert process.returncode == 2
    assert line == (
        "isthmus-agent: the token is for the cluster west, not for east "
        "(ask for one with: fedctl token issue east) [token_foreign]"
    )


async def test_a_clusters_identity_is_backed_up_and_restored(federation: Any, east: Cluster) -> None:
    east.token.write_text(await issue(federation))
    await east.arrival("one").settings()
    pins = {"pins.json": "{}", "dropped.json": '{"west": 7}'}
    metadata = {"name": "isthmus-pins", "namespace": east.namespace}
    await east.client.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": pins})
    held = await east.secret()
    administrator = KubernetesSettings(kubeconfig=str(east.admin))
    client = await KubeClient.open(administrator, log=log.get("test"), clock=SystemClock())
    try:
        made = await backup.collect_objects(client, east.namespace, "east", clock=SystemClock())
        archive = unpack(pack(made), what="f")
        backup.check(archive, "east", in_pods=True)
        with pytest.raises(InvalidInput, match="of pods, and cannot be restored to a folder"):
            backup.check(archive, "east", in_pods=False)
        with pytest.raises(Conflict) as caught:
            await backup.restore_objects(client, east.namespace, archive, replace=False)
        assert caught.value.error_code == "would_overwrite"
        await backup.restore_objects(client, east.namespace, archive, replace=True)
        # all is lost; an agent waits for a token that nobody will give
        for kind, name in (("Secret", shared.NAME), ("ConfigMap", "isthmus-pins")):
            await east.client.delete("v1", kind, name, east.namespace)
        east.token.unlink()
        waiting = asyncio.create_task(east.arrival("two").settings())
        with pytest.raises(NotFound, match="no agent has joined"):
            await backup.collect_objects(client, east.namespace, "east", clock=SystemClock())
        await backup.restore_objects(client, east.namespace, archive, replace=False)
        assert (await asyncio.wait_for(waiting, 60)).federation == "fed.example"
        assert await east.secret() == held
        assert (await east.client.get("v1", "ConfigMap", "isthmus-pins", east.namespace))["data"] == pins
    finally:
        await client.close()
