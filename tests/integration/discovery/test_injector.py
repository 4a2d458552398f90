"""The injector as a process beside a real API server, which calls it over TLS by the name of its Service.

Its identity is that of its pod, from a real agent. There is no kubelet, so the test writes the files that one would.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusters.apiserver import LocalCluster
from clusters.kubeclient import KubeClient, Object
from clusters.namespace import NetworkNamespace
from clusters.network import free_port
from clusters.program import Program, last_line
from clusters.waiting import START, until
from discovery.kube.settings import KubernetesSettings
from discovery.settings import PodsSettings
from federation.cli.chart.source import Release, chart
from federation.errors import AlreadyExists, Denied, InvalidInput, IsthmusError, NotFound, Unavailable
from federation.model.ids import SYSTEM_NAMESPACE
from federation.trust.pem import armour
from sidecar.injector.inject import injected
from sidecar.injector.registration import roots_of

pytestmark = pytest.mark.integration

SERVICE = "isthmus-injector"
RULES = [
    {
        "apiGroups": ["admissionregistration.k8s.io"],
        "resources": ["mutatingwebhookconfigurations"],
        "resourceNames": ["{name}"],
        "verbs": ["get", "patch"],
    },
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
    {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list"]},
]
"""All that it may do."""
STRICT = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What Pod Security `restricted` asks of a container."""
RBAC = "rbac.authorization.k8s.io/v1"
ADMISSION = "admissionregistration.k8s.io/v1"


class Site:
    """An agent with a door for pods, an injector, and what their installation would be."""

    def __init__(self, running: Any, cluster: LocalCluster, client: KubeClient, namespace: str, folder: Path) -> None:
        self.running, self.cluster, self.client, self.namespace, self.folder = (
            running,
            cluster,
            client,
            namespace,
            folder,
        )
        self.name = f"isthmus-injector-{uuid.uuid4().hex[:8]}"
        self.container = Path(tempfile.mkdtemp(prefix="ip-"))
        """The root of a container: short, as in a pod, because there are UNIX sockets below it."""
        self.port, self.metrics = free_port(), free_port()
        command = [sys.executable, "-m", "sidecar.injector", "--settings", str(folder / "injector.yaml")]
        self.program = Program("injector", command, folder / "injector.log")

    # --- what the installation does

    async def install(self) -> None:
        client, system = self.client, SYSTEM_NAMESPACE
        with contextlib.suppress(AlreadyExists):
            await client.create_namespace(system)
        rules = json.loads(json.dumps(RULES).replace("{name}", self.name))
        role = {"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": self.name}, "rules": rules}
        subject = {"kind": "ServiceAccount", "name": "injector", "namespace": system}
        binding = {
            "apiVersion": RBAC,
            "kind": "ClusterRoleBinding",
            "metadata": {"name": self.name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": self.name},
            "subjects": [subject],
        }
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "injector", "namespace": system}}
        # Its port is the webhook's, which is said where it is called.
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": SERVICE, "namespace": system},
            "spec": {"type": "ExternalName", "externalName": "127.0.0.1"},
        }
        await client.apply(account, role, binding, service)
        spec = {"serviceAccountName": "injector", "containers": [{"name": "c", "image": "none"}]}
        metadata = {"name": self.name, "namespace": system}
        await client.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        await self.register("Ignore")
        await self.tokens()
        await self.install_settings()

    async def install_settings(self) -> None:
        self.anchors()
        settings = {
            "name": self.name,
            "state_directory": str(self.folder / "injector"),
            "listen": f"127.0.0.1:{self.port}",
            "webhook": self.name,
            "image": "isthmus:0.1.0",
            "drain_seconds": 0,
            "metrics": {"port": self.metrics},
            "agent": {
                "enrolment": [self.door],
                "anchors": str(self.folder / "root.pem"),
                "service_account_token": str(self.folder / "token"),
            },
            "api": {
                "server": self.cluster.place.server,
                "ca_file": str(self.cluster.place.pki / "ca.crt"),
                "token_file": str(self.folder / "api-token"),
            },
            "pods": {"dns": {"servers": ["10.96.0.10"]}},
        }
        (self.folder / "injector.yaml").write_text(yaml.safe_dump(settings))

    @property
    def door(self) -> str:
        (address,) = self.running.agent.doors.pods.door.addresses(())
        return str(address)

    def anchors(self) -> None:
        (self.folder / "root.pem").write_bytes(armour(self.running.agent.bundle.roots))

    async def tokens(self) -> None:
        for name, audiences in (("token", ["isthmus"]), ("api-token", [])):
            pod = self.name if audiences else ""
            token = await self.client.token(SYSTEM_NAMESPACE, "injector", seconds=3600, audiences=audiences, pod=pod)
            (self.folder / name).write_text(token)

    async def register(self, policy: str) -> None:
        """The webhooks of the chart, for the namespace of this test alone; caBundle is never said."""
        values = chart().values({"injector": {"enabled": True, "failurePolicy": policy}})
        rendered = chart().render(values, Release(namespace=SYSTEM_NAMESPACE))["injector.yaml"]
        kind = "MutatingWebhookConfiguration"
        (made,) = [one for one in yaml.safe_load_all(rendered) if one["kind"] == kind]
        for webhook in made["webhooks"]:
            webhook["clientConfig"]["service"]["port"] = self.port
            here = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [self.namespace]}
            expressions = webhook["namespaceSelector"]["matchExpressions"]
            webhook["namespaceSelector"]["matchExpressions"] = [here, *expressions]
        made["metadata"] = {"name": self.name}
        await self.client.apply(made, manager="installation")

    async def remove(self) -> None:
        self.program.end()
        shutil.rmtree(self.container)
        for version, kind, name, namespace in (
            (ADMISSION, "MutatingWebhookConfiguration", self.name, None),
            (RBAC, "ClusterRoleBinding", self.name, None),
            (RBAC, "ClusterRole", self.name, None),
            ("v1", "Pod", self.name, SYSTEM_NAMESPACE),
            ("v1", "Service", SERVICE, SYSTEM_NAMESPACE),
        ):
            with contextlib.suppress(NotFound):
                await self.client.delete(version, kind, name, namespace)

    async def opt_in(self) -> None:
        labels = {"metadata": {"labels": {"isthmus.io/inject": "enabled"}}}
        await self.client.patch("v1", "Namespace", self.namespace, merge=labels)

    # --- what is seen of it

    async def ready(self) -> None:
        await until(lambda: self.probe("readyz") == "ok", seconds=START, what="a ready injector")
        await until(self.bundled, what="the caBundle")

    def probe(self, path: str) -> str:
        """Readiness in its own words; empty where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/{path}", timeout=5) as response:
                return str(response.read().decode()).strip()
        except urllib.error.HTTPError as error:
            return error.read().decode().strip()
        except OSError:
            return ""

    def counted(self, outcome: str) -> float:
        line = f'isthmus_injector_admissions_total{{outcome="{outcome}"}} '
        return next(float(x.removeprefix(line)) for x in self.probe("metrics").splitlines() if x.startswith(line))

    async def bundles(self) -> list[tuple[bytes, ...]]:
        found = await self.client.get(ADMISSION, "MutatingWebhookConfiguration", self.name)
        return [roots_of(w["clientConfig"].get("caBundle", "")) for w in found["webhooks"]]

    async def bundled(self) -> bool:
        roots = self.running.agent.bundle.roots
        return all(found[: len(roots)] == roots for found in await self.bundles())

    async def create(
        self, name: str, *, labels: Any = None, annotations: Any = None, dry_run: bool = False, **container: Any
    ) -> Object:
        metadata = {"name": name, "namespace": self.namespace, "labels": labels or {}, "annotations": annotations or {}}
        spec = {"containers": [{"name": "web", "image": "web:1", **container}]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        path = (await self.client.resource("v1", "Pod")).path(self.namespace)
        made: Object = await self.client.request("POST", path, body, query={"dryRun": "All"} if dry_run else {})
        return made

    async def is_injected(self) -> bool:
        """Whether a pod would be, now."""
        return injected(await self.create("probe", dry_run=True))

    async def is_injected_by_label(self) -> bool:
        return injected(await self.create("probe", labels={"isthmus.io/inject": "enabled"}, dry_run=True))

    async def export(self, name: str, address: str, port: int) -> None:
        """A Service with one endpoint, exported."""
        metadata = {"name": name, "namespace": self.namespace}
        slice_metadata = {**metadata, "labels": {"kubernetes.io/service-name": name}}
        ports = [{"name": "http", "port": port, "appProtocol": "http"}]
        await self.client.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": metadata,
                "spec": {"ports": [{"name": "http", "port": 80, "appProtocol": "http"}]},
            },
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": slice_metadata,
                "addressType": "IPv4",
                "ports": ports,
                "endpoints": [{"addresses": [address]}],
            },
            {"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport", "metadata": metadata},
        )

    async def as_kubelet(self, pod: Object, container: Object, address: str) -> list[str]:
        """The command of a container, with the files and variables that it refers to; they lie below our folder."""
        modules = {"isthmus-sidecar": "sidecar", "isthmus-redirect": "sidecar.intercept"}
        root = self.container
        metadata, account = pod["metadata"], pod["spec"]["serviceAccountName"]
        for volume in pod["spec"]["volumes"]:
            mount = next((m for m in container.get("volumeMounts", ()) if m["name"] == volume["name"]), None)
            if mount is None:
                continue
            folder = root / mount["mountPath"].lstrip("/")
            folder.mkdir(parents=True, exist_ok=True)
            for item in volume.get("downwardAPI", {}).get("items", ()):
                key = item["fieldRef"]["fieldPath"].removeprefix("metadata.annotations['").removesuffix("']")
                text = metadata["annotations"][key]
                for path in ("/etc/isthmus", "/var/lib/isthmus", "/var/run/secrets/isthmus"):
                    text = text.replace(f" {path}", f" {root}{path}")
                (folder / item["path"]).parent.mkdir(exist_ok=True)
                (folder / item["path"]).write_text(text)
            for source in volume.get("projected", {}).get("sources", ()):
                wanted = source.get("serviceAccountToken", {})
                if wanted.get("audience"):
                    token = await self.client.token(
                        self.namespace, account, audiences=[wanted["audience"]], pod=metadata["name"]
                    )
                    (folder / wanted["path"]).write_text(token)
        known = {
            "metadata.name": metadata["name"],
            "metadata.namespace": self.namespace,
            "spec.serviceAccountName": account,
            "status.podIP": address,
        }
        arguments = list(container["args"])
        for one in container.get("env", ()):
            value = known.get(one["valueFrom"]["fieldRef"]["fieldPath"], "")
            arguments = [argument.replace(f"$({one['name']})", value) for argument in arguments]
        arguments = [str(root) + a if a.startswith("/etc/isthmus") else a for a in arguments]
        return [sys.executable, "-m", modules[container["command"][0]], *arguments]

    async def events(self, reason: str) -> list[Object]:
        found = await self.client.list("v1", "Event", self.namespace)
        return [event for event in found if event["reason"] == reason]


@pytest.fixture
async def site(kube_clusters: Any, kube_namespace: str, federation: Any, tmp_path: Path) -> AsyncIterator[Site]:
    east = kube_clusters[0]
    running = await federation.cluster("east", start=False)
    await start_agent(running, east, kube_namespace)
    async with east.connect() as client:
        made = Site(running, east, client, kube_namespace, tmp_path)
        try:
            await made.install()
            yield made
        finally:
            await made.remove()


async def start_agent(running: Any, cluster: LocalCluster, namespace: str, **changes: Any) -> None:
    kubernetes = KubernetesSettings(kubeconfig=str(cluster.kubeconfig), confirm=0.2, namespace=namespace)
    host = changes.pop("host", "127.0.0.1")
    port = changes.pop("port", None) or free_port(host)
    await running.start(files=None, kubernetes=kubernetes, pods=PodsSettings(listen=f"{host}:{port}"), **changes)


async def test_the_api_server_has_pods_injected(site: Site) -> None:
    site.program.start()
    await site.ready()

    # Nobody has opted in yet, but a pod can by itself.
    assert not injected(await site.create("other"))
    there = await site.create("own-wish", labels={"isthmus.io/inject": "enabled"})
    assert [c["name"] for c in there["spec"]["initContainers"]] == ["isthmus-redirect", "isthmus-sidecar"]

    # The namespace opts in.
    await site.opt_in()
    await until(site.is_injected)
    there = await site.create("web", annotations={"isthmus.io/way": "loopback"})
    assert [c["name"] for c in there["spec"]["initContainers"]] == ["isthmus-sidecar"]
    settings = yaml.safe_load(there["metadata"]["annotations"]["isthmus.io/sidecar"])
    assert settings["agent"]["enrolment"] == [site.door]
    assert settings["agent"]["trust_domain"] == site.running.agent.settings.trust_domain
    assert there["metadata"]["annotations"]["isthmus.io/trust"] == armour(site.running.agent.bundle.roots).decode()
    assert there["spec"]["dnsConfig"]["searches"][0] == f"{site.namespace}.svc.cluster.local"
    assert not injected(await site.create("not-me", labels={"isthmus.io/inject": "disabled"}))

    # What is written wrongly is refused with one line.
    with pytest.raises(InvalidInput) as caught:
        await site.create("wrong", annotations={"isthmus.io/way": "sideways"})
    assert "isthmus: annotation isthmus.io/way is 'sideways' (write redirect or loopback or gateway)" in str(
        caught.value
    )

    # Two that answer DNS in one pod: it goes through the gateway, and says so where somebody will look.
    there = await site.create("dns", ports=[{"containerPort": 53, "protocol": "UDP"}])
    assert there["metadata"]["annotations"]["isthmus.io/way"] == "gateway"
    (event,) = await until(lambda: site.events("SidecarInjected"))
    assert event["involvedObject"]["name"] == "dns"
    assert "container web listens on port 53 itself" in event["message"]

    # Pod Security refuses what the redirect way needs: there it is the loopback way, unless a pod insists.
    labels = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    await site.client.patch("v1", "Namespace", site.namespace, merge=labels)

    async def loopback() -> Object | None:
        try:
            return await site.create("strict", securityContext=STRICT)
        except Denied:
            return None  # the API server has yet to hear of the label

    there = await until(loopback)
    assert there["metadata"]["annotations"]["isthmus.io/way"] == "loopback"
    assert [c["name"] for c in there["spec"]["initContainers"]] == ["isthmus-sidecar"]
    with pytest.raises(Denied, match="isthmus-redirect"):
        await site.create("insists", annotations={"isthmus.io/way": "redirect"}, securityContext=STRICT)

    assert site.counted("injected") >= 3
    assert (site.counted("refused"), site.counted("failed")) == (1, 0)
    assert "problem" not in site.program.log.read_text()

    # An orderly end.
    site.program._process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
    await until(lambda: not site.program.alive)
    assert site.program._process.returncode == 0  # type: ignore[union-attr]


async def test_a_webhook_that_is_away(site: Site) -> None:
    await site.opt_in()
    # With Ignore the pod is admitted as it is.
    assert not injected(await site.create("lonely"))
    # With Fail it is not.
    await site.register("Fail")

    async def refused() -> IsthmusError | None:
        try:
            await site.create("probe", dry_run=True)
        except IsthmusError as error:
            return error
        return None

    error = await until(refused)
    assert "failed calling webhook" in str(error)
    # The injector comes: pods are injected, and the one that was missed hears of it.
    site.program.start()
    await site.ready()

    async def injects() -> bool:
        try:
            return await site.is_injected()
        except (Unavailable, InvalidInput):
            return False  # the API server has yet to hear of the caBundle

    await until(injects)
    (event,) = await until(lambda: site.events("SidecarMissing"))
    assert event["involvedObject"]["name"] == "lonely"
    assert "no injector answered when it was created" in event["message"]
    await until(lambda: "isthmus_injector_pods_missed 1.0" in site.probe("metrics"))


async def test_an_expired_certificate_and_an_agent_that_comes_back(site: Site) -> None:
    port = site.running.agent.doors.pods.door.port
    await site.running.stop()
    await start_agent(site.running, site.cluster, site.namespace, svid_ttl=8.0, port=port)
    await site.opt_in()
    site.program.start()
    await site.ready()
    await until(site.is_injected)
    await site.running.stop()
    # It serves on with what it has, and says when that is over. Connections that are open go on all the same; on new
    # ones, as after a restart, it is not believed, and pods are admitted as they are.
    await until(lambda: "the certificate has expired" in site.probe("readyz"))
    assert await site.is_injected()
    site.program.kill()
    site.program.start()
    await until(lambda: "the certificate has expired" in site.probe("readyz"), seconds=START)
    assert not await site.is_injected()
    # The agent is back: a new certificate, without a restart.
    pid = site.program.pid
    await start_agent(site.running, site.cluster, site.namespace, port=port)
    await until(lambda: site.probe("readyz") == "ok", seconds=START)
    await until(site.is_injected)
    assert site.program.pid == pid


async def test_another_root_of_the_cluster(site: Site, federation: Any) -> None:
    """As of a cluster that was made anew: no pod goes without a sidecar while the new root takes over from the old."""
    anew = await federation.cluster("anew", start=False)
    port = site.running.agent.doors.pods.door.port
    old = site.running.agent.bundle.roots
    await site.running.stop()
    await start_agent(site.running, site.cluster, site.namespace, svid_ttl=12.0, port=port)
    await site.opt_in()
    site.program.start()
    await site.ready()
    await until(site.is_injected)
    await site.running.stop()
    site.running = anew
    await start_agent(site.running, site.cluster, site.namespace, port=port)
    new = site.running.agent.bundle.roots
    assert new != old
    site.anchors()  # as the agent keeps them in the ConfigMap isthmus-trust

    async def taken_over() -> bool:
        assert await site.is_injected()
        return all(found[0] == new[0] for found in await site.bundles())

    await until(taken_over)
    assert await site.bundles() == [(*new, *old)] * 4  # another replica may still show the old one
    for _ in range(20):
        assert await site.is_injected()
        await asyncio.sleep(0.1)
    there = await site.create("web")
    assert there["metadata"]["annotations"]["isthmus.io/trust"] == armour(new).decode()


# --- the sidecar that a pod gets

ECHO = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"echo")
server = http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Handler)
server.serve_forever()
"""
ASK = """
import sys, http.client, dns.message, dns.query
reply = dns.query.udp(dns.message.make_query(sys.argv[1], "A"), "127.0.0.1", port=53, timeout=15)
(address,) = [item.address for rrset in reply.answer for item in rrset]
connection = http.client.HTTPConnection(address, 80, timeout=15)
connection.request("GET", "/", headers={"host": sys.argv[1]})
print(address, connection.getresponse().read().decode())
"""
PROBE = """
import sys, urllib.request, urllib.error
try:
    print(urllib.request.urlopen(f"http://{sys.argv[1]}/startz", timeout=5).read().decode())
except OSError as error:
    print("not yet:", error)
"""


@pytest.mark.parametrize("way", ["redirect", "loopback"])
async def test_the_sidecar_of_an_injected_pod_works(site: Site, way: str) -> None:
    """Started as a kubelet would, by what the API server then has: files, arguments, init containers in their order."""
    try:
        space = NetworkNamespace(uplink=True)
    except Unavailable as error:
        pytest.skip(f"{error.message}: run scripts/test as root")
    children: list[Program] = []
    began = time.monotonic()
    try:
        await site.running.stop()
        at = space.outside
        await start_agent(site.running, site.cluster, site.namespace, host=at, listen=f"{at}:{free_port(at)}")
        await site.install_settings()
        site.program.start()
        await site.ready()
        port = free_port(at)
        children.append(Program("echo", [sys.executable, "-c", ECHO, at, str(port)], site.folder / "echo.log"))
        children[-1].start()
        await site.export("echo", at, port)
        await until(lambda: site.is_injected_by_label())
        there = await site.create("web", labels={"isthmus.io/inject": "enabled"}, annotations={"isthmus.io/way": way})
        for number, container in enumerate(there["spec"]["initContainers"]):
            command = await site.as_kubelet(there, container, space.inside)
            program = Program(f"c{number}", [*space.wrap, *command], site.folder / f"{container['name']}.log")
            if container.get("restartPolicy") != "Always":
                await asyncio.to_thread(subprocess.run, program.command, check=True, capture_output=True, timeout=60)
                continue
            children.append(program)
            program.start()
            probe = container["startupProbe"]["httpGet"]
            assert probe["path"] == "/startz"
            where = f"{space.inside}:{probe['port']}"
            while (told := (await asyncio.to_thread(space.python, PROBE, where)).strip()) != "ok":
                assert program.alive, last_line(program.log)
                assert time.monotonic() < began + START, told
        address, body = (await asyncio.to_thread(space.python, ASK, f"echo.{site.namespace}.global")).split()
        assert address.startswith("240." if way == "redirect" else "127.")
        assert body == "echo"
        (consumer,) = site.running.agent.consumers.all
        assert (consumer.name, consumer.identity.partition("/ns/")[2]) == ("web", f"{site.namespace}/sa/default")
    finally:
        for child in children:
            child.end()
        space.close()
