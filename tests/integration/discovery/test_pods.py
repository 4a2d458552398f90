"""Pods at the door of an agent: real tokens of a real API server, reviewed by it, and the process that gets a grant.

A Pod here has no kubelet: it is an object that tokens are bound to, and the test writes the files that a kubelet would.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from clusters.apiserver import LocalCluster
from clusters.children import start_child
from clusters.kubeclient import KubeClient
from clusters.network import free_port, virtual_ranges
from clusters.waiting import DEADLINE, START, until
from discovery.kube.client import KubeClient as AgentKubeClient
from discovery.kube.settings import KubernetesSettings
from discovery.kube.tokens import TokenReviews
from discovery.pods.identity import AUDIENCE
from discovery.settings import PodsSettings
from federation.aio.clock import SystemClock
from federation.errors import AlreadyExists, Denied, InvalidInput, IsthmusError, Unavailable
from federation.model.ids import SYSTEM_NAMESPACE
from federation.registry import pod
from federation.registry.edge.pod import PodIdentity, PodJob
from federation.registry.edge.settings import RemoteAgentSettings
from federation.trust.keys import key_from_pem
from federation.trust.pem import armour
from federation.trust.workload import Grant

pytestmark = pytest.mark.integration


class Site:
    """The agent of `east`, with a door for pods, and what a kubelet and a chart would do."""

    def __init__(self, running: Any, cluster: LocalCluster, client: KubeClient, namespace: str, folder: Path) -> None:
        self.running, self.cluster, self.client, self.namespace = running, cluster, client, namespace
        self.folder = folder
        self.anchors = folder / "root.pem"
        self.anchors.write_bytes(armour(running.agent.bundle.roots))

    @property
    def door(self) -> str:
        return f"127.0.0.1:{self.running.agent.doors.pods.door.port}"

    async def pod(self, name: str, *, account: str = "web", namespace: str = "") -> None:
        """A Pod of a service account; neither is made twice."""
        namespace = namespace or self.namespace
        metadata = {"name": account, "namespace": namespace}
        spec = {
            "serviceAccountName": account,
            "automountServiceAccountToken": False,
            "containers": [{"name": "c", "image": "none"}],
        }
        for body in (
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
            {"apiVersion": "v1", "kind": "Pod", "metadata": {**metadata, "name": name}, "spec": spec},
        ):
            with contextlib.suppress(AlreadyExists):
                await self.client.create(body)

    async def token(self, pod: str = "", *, account: str = "web", namespace: str = "", audience: str = AUDIENCE) -> str:
        return await self.client.token(namespace or self.namespace, account, seconds=600, audiences=[audience], pod=pod)

    def identity(self, token: str) -> PodIdentity:
        """What a process in a Pod has, whose kubelet has put `token` where it belongs."""
        path = self.folder / "token"
        path.write_text(token)
        settings = RemoteAgentSettings(
            enrolment=(self.door,), anchors=str(self.anchors), service_account_token=str(path)
        )
        settings.check()
        return PodIdentity(settings, namespace=self.namespace, account="web")

    async def enrol(self, token: str, *, account: str = "web", namespace: str = "", trust_domain: str = "") -> Grant:
        """What the process of `identity` does, in this one: most of its time is its start."""
        path = self.folder / "token"
        path.write_text(token)
        job = PodJob(
            namespace=namespace or self.namespace,
            account=account,
            trust_domain=trust_domain,
            enrolment=(self.door,),
            anchors=str(self.anchors),
            token=str(path),
        )
        return await pod.enrol(job, clock=SystemClock())

    async def refusal(self, token: str, **changes: Any) -> IsthmusError:
        with pytest.raises(IsthmusError) as caught:
            await self.enrol(token, **changes)
        return caught.value


@pytest.fixture
async def site(kube_clusters: Any, kube_namespace: str, federation: Any, tmp_path: Path) -> AsyncIterator[Site]:
    east = kube_clusters[0]
    running = await federation.cluster("east", start=False)
    kubernetes = KubernetesSettings(kubeconfig=str(east.kubeconfig), confirm=0.2, namespace=kube_namespace)
    await running.start(files=None, kubernetes=kubernetes, pods=PodsSettings(listen=f"127.0.0.1:{free_port()}"))
    async with east.connect() as client:
        made = Site(running, east, client, kube_namespace, tmp_path)
        await made.pod("web-1")
        yield made


async def test_a_pod_is_what_its_token_says(site: Site) -> None:
    identity = site.identity(await site.token("web-1"))
    grant = await identity.fetch(None)
    domain = site.running.agent.settings.trust_domain
    assert str(grant.svid.spiffe_id) == f"spiffe://{domain}/ns/{site.namespace}/sa/web"
    assert (grant.cluster, grant.bundle) == ("east", site.running.agent.bundle)
    assert grant.agent_addresses == site.running.agent.addresses()
    assert grant.enrolment_addresses == (site.door,)
    # What the request asks for decides nothing: the certificate is of `web`, and who wanted another one says so.
    asked = await site.refusal(await site.token("web-1"), account="other")
    assert isinstance(asked, Denied)
    assert "sa/web where" in asked.message, asked
    # The token and the anchors are read anew: another token renews; anchors that went away leave what was believed.
    (site.folder / "token").write_text(await site.token("web-1") + "\n")
    site.anchors.unlink()
    again = await identity.fetch(grant)
    assert again.svid.spiffe_id == grant.svid.spiffe_id
    assert again.svid.chain != grant.svid.chain
    with pytest.raises(InvalidInput) as caught:
        await identity.fetch(None)
    assert caught.value.error_code == "anchors_invalid"


async def test_what_is_no_token_of_a_living_pod_of_this_cluster_is_refused(site: Site, kube_clusters: Any) -> None:
    good = await site.token("web-1")
    async with kube_clusters[1].connect() as west:
        there = Site(site.running, kube_clusters[1], west, site.namespace, site.folder)
        await there.pod("web-1")
        foreign = await there.token("web-1")
    await site.pod("web-2")
    orphan = await site.token("web-2")
    await site.client.delete("v1", "Pod", "web-2", site.namespace)
    for token, code, told in (
        (await site.token("web-1", audience="other"), "token_refused", "audience"),
        (await site.token(), "token_unbound", "not bound to a pod"),
        (expired(good, site.cluster), "token_refused", "expired"),
        (foreign, "token_refused", ""),
        (good[:-8] + "AAAAAAAA", "token_refused", ""),
        ("nonsense", "token_refused", ""),
    ):
        error = await site.refusal(token)
        assert (type(error), error.error_code) == (Denied, code), error
        assert told in error.message, error
    # The API server hears of the end of a Pod by its own watch.
    await until(lambda: is_refused(site, orphan))
    assert (await site.refusal("")).error_code == "token_missing"
    empty = await TokenReviews(site.running.agent.source.client).review("")  # from somebody else's client
    assert not empty.authenticated
    assert "token" in empty.error
    await site.enrol(good)  # the door is as open as before


async def is_refused(site: Site, token: str) -> bool:
    try:
        await site.enrol(token)
    except Denied as error:
        return error.error_code == "token_refused"
    return False


def expired(token: str, cluster: LocalCluster) -> str:
    """The token as it would be an hour after its end: signed by the cluster's own key, as the API server does."""
    header, payload, _ = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    now = int(time.time())
    claims |= {"iat": now - 7200, "nbf": now - 7200, "exp": now - 3600}
    body = f"{header}.{encoded(json.dumps(claims).encode())}"
    key = key_from_pem((cluster.place.pki / "accounts.key").read_bytes())
    r, s = decode_dss_signature(key.sign(body.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{body}.{encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.fixture
async def system(site: Site) -> AsyncIterator[Site]:
    """With our own namespace, which is left as it was found."""
    with contextlib.suppress(AlreadyExists):
        await site.client.create_namespace(SYSTEM_NAMESPACE)
    yield site
    for name in ("gw-1", "other-1"):
        await site.client.delete("v1", "Pod", name, SYSTEM_NAMESPACE)


async def test_of_our_own_namespace_only_some_accounts_are_anything(system: Site) -> None:
    for name, account in (("gw-1", "gateway"), ("other-1", "other")):
        await system.pod(name, account=account, namespace=SYSTEM_NAMESPACE)
    token = await system.token("gw-1", account="gateway", namespace=SYSTEM_NAMESPACE)
    grant = await system.enrol(token, account="gateway", namespace=SYSTEM_NAMESPACE)
    assert grant.svid.spiffe_id.path == f"/ns/{SYSTEM_NAMESPACE}/sa/gateway"
    token = await system.token("other-1", account="other", namespace=SYSTEM_NAMESPACE)
    error = await system.refusal(token, account="other", namespace=SYSTEM_NAMESPACE)
    assert error.error_code == "identity_denied"


async def test_a_sidecar_of_any_namespace_is_let_in_under_the_name_of_its_pod(site: Site) -> None:
    await site.pod("web.v1")
    (site.folder / "token").write_text(await site.token("web.v1"))
    with tempfile.TemporaryDirectory(prefix="is-") as state:  # short: UNIX sockets are in it
        settings = {
            "namespace": site.namespace,
            "account": "web",
            "state_directory": state,
            "range": next(virtual_ranges(random.Random())),
            "dns": {"port": 0},
            "agent": {"enrolment": [site.door], "anchors": "root.pem", "service_account_token": "token"},
        }
        (site.folder / "sidecar.yaml").write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "sidecar", "--settings", str(site.folder / "sidecar.yaml")]
        process = start_child([*command, "--set", "name=web.v1"], site.folder / "log")
        try:
            await until(lambda: [c.shown for c in site.running.agent.consumers.all] == ["web.v1"], seconds=START)
        finally:
            process.send_signal(signal.SIGTERM)
            status = await asyncio.to_thread(process.wait, DEADLINE)
    await until(lambda: not site.running.agent.consumers.all)  # it has said goodbye
    assert (status, site.running.agent.doors.pod_calls) == (0, (1, 0))


async def test_an_api_server_that_is_away_refuses_nobody(site: Site) -> None:
    token = await site.token("web-1")
    site.cluster.kill()
    error = await site.refusal(token)
    assert isinstance(error, Unavailable), error
    assert error.error_code == "token_review_unavailable"
    assert "token_review_unavailable" in site.running.codes()
    await site.cluster.heal()
    await until(lambda: granted(site, token))
    assert "token_review_unavailable" not in site.running.codes()


async def granted(site: Site, token: str) -> Grant | None:
    with contextlib.suppress(Unavailable):
        return await site.enrol(token)
    return None


async def test_an_agent_without_the_right_to_review_blames_no_pod(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    kubeconfig = await site.cluster.kubeconfig_for_account(site.namespace, "web")
    agent = site.running.agent
    powerless = AgentKubeClient(KubernetesSettings(kubeconfig=str(kubeconfig)), log=agent.log, clock=agent.clock)
    monkeypatch.setattr(agent.doors.pods._reviewer, "_client", powerless)
    try:
        error = await site.refusal(await site.token("web-1"))
    finally:
        await powerless.close()
    assert isinstance(error, Unavailable), error
    told = [p.detail for p in agent.problems.all() if p.code == "token_review_unavailable"]
    assert 'resources: ["tokenreviews"], verbs: ["create"]' in told[0]


async def test_only_the_agent_of_the_anchors_gets_the_token(site: Site, federation: Any) -> None:
    """Another cluster's agent, or somebody between, has another root: nothing is sent to it."""
    token = await site.token("web-1")
    west = await federation.cluster("west")
    site.anchors.write_bytes(armour(west.agent.bundle.roots))
    error = await site.refusal(token)
    assert error.error_code == "pin_mismatch"
    assert site.running.agent.doors.pod_calls == (0, 0)
    site.anchors.write_bytes(armour((*west.agent.bundle.roots, *site.running.agent.bundle.roots)))
    error = await site.refusal(token, trust_domain="west.fed.example")
    assert error.error_code == "agent_foreign"
    await asyncio.gather(*(site.enrol(token) for _ in range(3)))
