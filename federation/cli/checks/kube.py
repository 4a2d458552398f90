"""Looks at an API server for `fedctl check`: facts, no judgements. Nothing is changed: what is tried is a dry run."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import yaml

from discovery.kube import crds
from discovery.kube.client import KubeClient
from discovery.kube.errors import NotFound
from discovery.kube.objects import MANAGER, POLICIES, POLICY_BINDINGS
from discovery.kube.resources import (
    ABOUT,
    ABOUT_VERSIONS,
    CONFIG_MAPS,
    NAMESPACES,
    NODES,
    SECRETS,
    SERVICES,
    Resource,
    cluster_properties,
)
from discovery.kube.settings import KubernetesSettings
from federation import log
from federation.aio.clock import SystemClock
from federation.cli.checks import injection
from federation.cli.checks.facts import Crd, KubeFacts, Right, Webhook, Workload
from federation.cli.installation.skew import version_of_image
from federation.errors import IsthmusError
from federation.trust.keys import certificate_from_der, chain_from_pem

T = TypeVar("T")

LABEL, COMPONENT = "app.kubernetes.io/part-of=isthmus", "app.kubernetes.io/component"
VERSION = "app.kubernetes.io/version"
INJECT_LABEL = "isthmus.io/inject"
CLUSTER_PROPERTY = "cluster.clusterset.k8s.io"

_RBAC, _APPS = "rbac.authorization.k8s.io", "apps"
_REVIEWS = Resource(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
)
_CRDS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
_HOOKS = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "mutatingwebhookconfigurations",
    "MutatingWebhookConfiguration",
    namespaced=False,
)
_PODS = Resource("", "v1", "pods", "Pod")
_RANGES = Resource("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", namespaced=False)
_DEPLOYMENTS = Resource(_APPS, "v1", "deployments", "Deployment")
_STATEFUL = Resource(_APPS, "v1", "statefulsets", "StatefulSet")
INSTALLED: tuple[tuple[Resource, str], ...] = (
    (_CRDS, "the custom resources of the Multi-Cluster Services API"),
    (NAMESPACES, "the namespace of isthmus"),
    (Resource("", "v1", "serviceaccounts", "ServiceAccount"), "who the components are"),
    (Resource(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False), "what the agent may do"),
    (Resource(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False), "what the agent may do"),
    (Resource(_RBAC, "v1", "roles", "Role"), "what the agent may do in its namespace"),
    (Resource(_RBAC, "v1", "rolebindings", "RoleBinding"), "what the agent may do in its namespace"),
    (POLICIES, "which Services the agent may write"),
    (POLICY_BINDINGS, "which Services the agent may write"),
    (_DEPLOYMENTS, "agent, gateway and injector"),
    (_STATEFUL, "the registry"),
    (SERVICES, "where the components are reached"),
    (CONFIG_MAPS, "the components' settings"),
    (SECRETS, "the join token"),
    (Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"), "that a drain leaves a replica"),
    (Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"), "default deny in the namespace"),
    (_HOOKS, "the injection of sidecars"),
)
"""What an installation makes, and what for."""
_VERBS = ("get", "create", "patch")
_AT_ONCE = 8
_MOST_NODES = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Where to look: `configmap` is NAMESPACE/NAME of CoreDNS's Corefile."""

    kubeconfig: str
    context: str
    namespace: str
    configmap: str = "kube-system/coredns"
    suffix: str = "global"


async def look(where: Look, *, rights: bool) -> KubeFacts:
    """The facts of one API server; `rights`: also whether the caller could install, and not what runs there already.

    Raises nothing.
    """
    shown = where.context or where.kubeconfig
    settings = KubernetesSettings(kubeconfig=where.kubeconfig, context=where.context, namespace=where.namespace)
    try:
        client = await KubeClient.open(settings, log=log.get("fedctl"), clock=SystemClock())
    except IsthmusError as failure:
        return KubeFacts(context=shown, failure=failure)
    try:
        return await _Looker(client, where).facts(shown, rights=rights)
    finally:
        await client.close()


class _Looker:
    def __init__(self, client: KubeClient, where: Look) -> None:
        self._client, self._where = client, where
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def facts(self, shown: str, *, rights: bool) -> KubeFacts:
        client, where = self._client, self._where
        try:
            told = msgspec.json.decode(await client.version())
        except (IsthmusError, msgspec.MsgspecError) as failure:
            reason = failure if isinstance(failure, IsthmusError) else IsthmusError(str(failure))
            return KubeFacts(context=shown, server=client.host, failure=reason)
        async with asyncio.TaskGroup() as group:
            allowed = group.create_task(self._rights() if rights else _nothing(()), name="check-rights")
            definitions = group.create_task(self._or(self._crds()), name="check-crds")
            security = group.create_task(self._or(self._security()), name="check-security")
            corefile = group.create_task(self._corefile(), name="check-corefile")
            pods = group.create_task(self._or(self._pod_ranges()), name="check-nodes")
            services = group.create_task(self._or(self._service_ranges()), name="check-services")
            sidecars = group.create_task(self._native_sidecars(), name="check-sidecars")
            hooks = group.create_task(self._or(self._webhooks()), name="check-webhooks")
            workloads = group.create_task(self._or(self._workloads()), name="check-workloads")
            pods_without = injection.uninjected(client, where.namespace) if not rights else _nothing(None)
            without = group.create_task(self._or(pods_without), name="check-injection")
            named = group.create_task(self._or(self._cluster_name()), name="check-name")
        there, levels = security.result() or (None, {})
        text, missing = corefile.result()
        native, detail = sidecars.result()
        return KubeFacts(
            context=shown,
            server=client.host,
            version=_version(told),
            version_text=str(told.get("gitVersion", "")),
            rights=allowed.result(),
            crds=definitions.result(),
            namespace=where.namespace,
            namespace_there=there,
            pod_security=levels,
            corefile=text,
            corefile_missing=missing,
            suffix=where.suffix,
            pod_ranges=pods.result(),
            service_ranges=services.result(),
            native_sidecars=native,
            native_sidecars_detail=detail,
            webhooks=hooks.result(),
            workloads=workloads.result(),
            uninjected=without.result(),
            cluster_name=named.result() or "",
        )

    async def _or(self, work: Awaitable[T]) -> T | None:
        """What `work` finds; None where the API server does not tell it."""
        try:
            async with self._turns:
                return await work
        except (IsthmusError, msgspec.MsgspecError, KeyError, TypeError):
            return None

    async def _rights(self) -> Sequence[Right]:
        namespace = self._where.namespace
        corefile, _, _ = self._where.configmap.partition("/")
        asked = [
            (verb, resource, namespace if resource.namespaced else "", reason)
            for resource, reason in INSTALLED
            for verb in _VERBS
        ]
        asked += [(verb, CONFIG_MAPS, corefile, "the stub domain in CoreDNS") for verb in ("get", "update")]
        asked += [(verb, _DEPLOYMENTS, corefile, "restarting CoreDNS with it") for verb in ("list", "patch")]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._right(*one), name="check-right") for one in asked]
        return [task.result() for task in tasks]

    async def _right(self, verb: str, resource: Resource, namespace: str, reason: str) -> Right:
        attributes = {"verb": verb, "group": resource.group, "resource": resource.plural, "namespace": namespace}
        body = {
            "apiVersion": _REVIEWS.api_version,
            "kind": _REVIEWS.kind,
            "spec": {"resourceAttributes": attributes},
        }
        try:
            async with self._turns:
                made = msgspec.json.decode(await self._client.create(_REVIEWS, None, msgspec.json.encode(body)))
            allowed = bool(made.get("status", {}).get("allowed"))
        except (IsthmusError, msgspec.MsgspecError):
            allowed = False
        return Right(verb, str(resource), namespace, allowed, reason)

    async def _crds(self) -> Sequence[Crd]:
        found = []
        for document in map(yaml.safe_load, crds.manifests()):
            name = document["metadata"]["name"]
            wanted = tuple(version["name"] for version in document["spec"]["versions"])
            try:
                held = msgspec.json.decode(await self._client.get(_CRDS, None, name))
            except NotFound:
                found.append(Crd(name, None, wanted))
                continue
            served = tuple(v["name"] for v in held["spec"]["versions"] if v.get("served"))
            ours = any(e.get("manager") == MANAGER for e in held["metadata"].get("managedFields") or ())
            found.append(Crd(name, served, wanted, ours))
        return found

    async def _security(self) -> tuple[bool, dict[str, str]]:
        there, levels = False, {}
        async for page in self._client.pages(NAMESPACES):
            for raw in page.items:
                metadata = msgspec.json.decode(raw)["metadata"]
                labels = metadata.get("labels") or {}
                ours = metadata["name"] == self._where.namespace
                there = there or ours
                level = labels.get("pod-security.kubernetes.io/enforce", "")
                if level and (ours or labels.get(INJECT_LABEL) == "enabled"):
                    levels[metadata["name"]] = level
        return there, levels

    async def _corefile(self) -> tuple[str | None, str]:
        namespace, _, name = self._where.configmap.partition("/")
        try:
            held = msgspec.json.decode(await self._client.get(CONFIG_MAPS, namespace, name))
        except NotFound:
            return None, f"there is no ConfigMap {namespace}/{name}"
        except (IsthmusError, msgspec.MsgspecError) as failure:
            return None, f"the ConfigMap {namespace}/{name} cannot be read: {failure}"
        text = (held.get("data") or {}).get("Corefile")
        return (text, "") if isinstance(text, str) else (None, f"the ConfigMap {namespace}/{name} has no Corefile")

    async def _pod_ranges(self) -> tuple[str, ...]:
        found: set[str] = set()
        looked = 0
        async for page in self._client.pages(NODES):
            for raw in page.items:
                found.update(msgspec.json.decode(raw).get("spec", {}).get("podCIDRs") or ())
            looked += len(page.items)
            if looked >= _MOST_NODES:
                break
        return tuple(sorted(found))

    async def _service_ranges(self) -> tuple[str, ...]:
        found: set[str] = set()
        async for page in self._client.pages(_RANGES):
            for raw in page.items:
                found.update(msgspec.json.decode(raw).get("spec", {}).get("cidrs") or ())
        return tuple(sorted(found))

    async def _native_sidecars(self) -> tuple[bool | None, str]:
        """A dry run of a pod that has one: a server without them drops the field."""
        namespace = self._where.namespace
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "isthmus-check"},
            "spec": {
                "automountServiceAccountToken": False,
                "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
                "initContainers": [{**_container("sidecar"), "restartPolicy": "Always"}],
                "containers": [_container("main")],
            },
        }
        failure = ""
        for where in dict.fromkeys((namespace, "default")):
            body = msgspec.json.encode({**pod, "metadata": {"name": "isthmus-check", "namespace": where}})
            try:
                async with self._turns:
                    made = msgspec.json.decode(
                        await self._client.apply(
                            _PODS, where, "isthmus-check", body, dry_run=True, field_manager=MANAGER
                        )
                    )
                held = made["spec"]["initContainers"][0]
            except (IsthmusError, msgspec.MsgspecError, KeyError, IndexError) as error:
                failure = str(error)
                continue
            return held.get("restartPolicy") == "Always", ""
        return None, failure

    async def _webhooks(self) -> Sequence[Webhook]:
        found = []
        async for page in self._client.pages(_HOOKS, label_selector=LABEL):
            for raw in page.items:
                held = msgspec.json.decode(raw)
                for hook in held.get("webhooks") or ():
                    bundle = (hook.get("clientConfig") or {}).get("caBundle") or ""
                    found.append(Webhook(hook["name"], _ends(bundle), hook.get("failurePolicy", "Fail")))
        return found

    async def _workloads(self) -> Sequence[Workload]:
        found = []
        for resource in (_DEPLOYMENTS, _STATEFUL):
            async for page in self._client.pages(resource, namespace=self._where.namespace, label_selector=LABEL):
                found += [_workload(resource.kind, msgspec.json.decode(raw)) for raw in page.items]
        return sorted(found, key=lambda workload: workload.name)

    async def _cluster_name(self) -> str:
        served = await self._client.served(ABOUT)
        version = served.version("clusterproperties", ABOUT_VERSIONS)
        if version is None:
            return ""
        try:
            held = await self._client.get(cluster_properties(version), None, CLUSTER_PROPERTY)
        except NotFound:
            return ""
        return str(msgspec.json.decode(held).get("spec", {}).get("value", ""))


async def _nothing(value: T) -> T:
    return value


def _container(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "image": "isthmus-check",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }


def _version(told: dict[str, Any]) -> tuple[int, int] | None:
    """ "1" and "30+" of a version.Info."""
    try:
        return int(told["major"]), int("".join(c for c in told["minor"] if c.isdigit()))
    except (KeyError, ValueError, TypeError):
        return None


def _ends(bundle: str) -> int | None:
    """When the last certificate of a caBundle ends: as long as one is valid the API server can know the webhook."""
    try:
        chain: Iterable[bytes] = chain_from_pem(base64.b64decode(bundle))
    except (IsthmusError, binascii.Error, ValueError):
        return None
    ends = [certificate_from_der(der).not_valid_after_utc.timestamp() for der in chain]
    return int(max(ends)) * 1_000_000_000 if ends else None


def _workload(kind: str, held: dict[str, Any]) -> Workload:
    metadata, spec, status = held["metadata"], held.get("spec") or {}, held.get("status") or {}
    template = spec.get("template", {})
    containers = template.get("spec", {}).get("containers") or ()
    images = tuple(c.get("image", "") for c in containers)
    tagged = next((str(version) for image in images if (version := version_of_image(image)) is not None), "")
    conditions = status.get("conditions") or ()
    reason = next((c.get("message", "") for c in conditions if c.get("status") == "False"), "")
    wanted = spec.get("replicas")
    return Workload(
        kind=kind,
        name=metadata["name"],
        component=(metadata.get("labels") or {}).get(COMPONENT, ""),
        wanted=1 if wanted is None else wanted,
        ready=status.get("readyReplicas") or 0,
        images=images,
        reason=reason,
        version=tagged or (template.get("metadata", {}).get("labels") or {}).get(VERSION, ""),
    )
