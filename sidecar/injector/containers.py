"""The containers, volumes and annotations that a pod gets. Pure; what each line is for stands beside it.

Every field of the security context is one that Pod Security "restricted" asks for. Only the container of the redirect
way breaks with that: it sets one rule in the pod's own network before anything else runs, and ends.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from sidecar.injector.options import (
    AUDIENCE,
    DNS_ADDRESS,
    METRICS_PORT,
    OUTBOUND_PORT,
    REDIRECT,
    SETTINGS,
    SIDECAR,
    TRUST,
    USER,
    Options,
    Resources,
    Way,
)
from sidecar.injector.wishes import Wishes
from sidecar.settings import REDIRECT_RANGE

FOLDER = "/etc/isthmus"
TOKENS = "/var/run/secrets/isthmus"
STATE = "/var/lib/isthmus"
VOLUMES = ("isthmus-settings", "isthmus-token", "isthmus-state", "isthmus-tmp")
GUARANTEED_CPU = "100m"
"""The limit in a pod whose other containers have limits for all, so that its class of service stays what it is."""
START_SECONDS = 120
"""Several times what a start takes on a busy node."""

_ZONE, _REGION = "topology.kubernetes.io/zone", "topology.kubernetes.io/region"
_LOCAL = ipaddress.IPv4Network("127.0.0.0/8")
Object = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was decided for a pod. `upstream`: who answers other names. `by_uid`: its name is none for a sidecar."""

    way: Way
    wishes: Wishes
    upstream: Sequence[str]
    listens: Sequence[int]
    metrics_port: int = METRICS_PORT
    outbound_port: int = OUTBOUND_PORT
    by_uid: bool = False
    guaranteed: bool = False


def notes(plan: Plan, options: Options) -> dict[str, str]:
    """Annotations with the settings and the trust anchor: kubelet shows them to the sidecar as files."""
    return {SETTINGS: settings(plan, options), TRUST: options.roots}


def settings(plan: Plan, options: Options) -> str:
    """The sidecar's settings file, but for what differs by pod: that comes by `arguments`."""
    made: Object = {
        "way": plan.way.value,
        "state_directory": f"{STATE}/sidecar",
        "suffix": options.suffix,
        "agent": {
            **({"trust_domain": options.trust_domain} if options.trust_domain else {}),
            "enrolment": list(options.enrolment),
            # Absolute: the files of the volume are links into a folder that is replaced when annotations change.
            "anchors": f"{FOLDER}/trust/root.pem",
            "service_account_token": f"{TOKENS}/token",
        },
        "dns": {"host": DNS_ADDRESS, "upstream": list(plan.upstream)},
        "metrics": {"port": plan.metrics_port},
        "names_limit": plan.wishes.names_limit,
        "log": {"level": plan.wishes.log_level},
    }
    if network := _range(plan.way, options):
        made["range"] = network
    if plan.way is Way.REDIRECT:
        made["outbound_port"] = plan.outbound_port
    elif plan.listens:
        made["listens"] = list(plan.listens)
    return yaml.safe_dump(made, sort_keys=False)


def init_containers(plan: Plan, options: Options) -> list[Object]:
    """Those that go before the pod's own: resolv.conf is of all of them, so all need its answers."""
    return [*([_redirect(plan, options)] if plan.way is Way.REDIRECT else []), _sidecar(plan, options)]


def volumes() -> list[Object]:
    """Files for the sidecar alone."""
    items = [_item("sidecar.yaml", SETTINGS), _item("trust/root.pem", TRUST)]
    return [
        {"name": "isthmus-settings", "downwardAPI": {"items": items}},
        {"name": "isthmus-token", "projected": {"sources": [{"serviceAccountToken": _token()}]}},
        # In memory: there are keys in it, and it is as long-lived as the pod.
        {"name": "isthmus-state", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
        {"name": "isthmus-tmp", "emptyDir": {}},
    ]


def _sidecar(plan: Plan, options: Options) -> Object:
    port = plan.metrics_port
    return {
        "name": SIDECAR,
        "image": options.image,
        "imagePullPolicy": options.image_pull_policy,
        # A native sidecar: it starts before the others and ends after them, and a Job ends without it.
        "restartPolicy": "Always",
        "command": [SIDECAR],
        "args": ["--settings", f"{FOLDER}/sidecar.yaml", *_arguments()],
        "env": _environment(plan),
        "ports": [{"name": "isthmus-metrics", "containerPort": port, "protocol": "TCP"}],
        # The workload starts when names are answered, the global ones too, unless their agent is away for long.
        "startupProbe": {
            "httpGet": {"path": "/startz", "port": port},
            "periodSeconds": 1,
            "timeoutSeconds": 3,
            "failureThreshold": START_SECONDS,
        },
        # There is no readiness: what is held is served on while the agent is away, and so is the pod.
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": port},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "resources": _resources(plan.wishes.resources, guaranteed=plan.guaranteed),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "isthmus-settings", "mountPath": FOLDER, "readOnly": True},
            {"name": "isthmus-token", "mountPath": TOKENS, "readOnly": True},
            {"name": "isthmus-state", "mountPath": STATE},
            {"name": "isthmus-tmp", "mountPath": "/tmp"},  # noqa: S108 - the container's own
        ],
    }


def _redirect(plan: Plan, options: Options) -> Object:
    network = _range(plan.way, options) or REDIRECT_RANGE
    return {
        "name": REDIRECT,
        "image": options.image,
        "imagePullPolicy": options.image_pull_policy,
        "command": [REDIRECT],
        "args": ["--network", network, "--port", str(plan.outbound_port)],
        "resources": _resources(plan.wishes.resources, guaranteed=plan.guaranteed),
        "securityContext": {
            # A capability is in effect only for root, where the file of the program does not carry it.
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": False,
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _range(way: Way, options: Options) -> str:
    """That of the options, where it is one for this way; empty: the way's own default."""
    if not options.range:
        return ""
    local = ipaddress.IPv4Network(options.range).subnet_of(_LOCAL)
    return options.range if local == (way is Way.LOOPBACK) else ""


def _arguments() -> list[str]:
    """What differs by pod: Kubernetes fills it in."""
    values = {
        "name": "POD_NAME",
        "namespace": "POD_NAMESPACE",
        "account": "POD_ACCOUNT",
        "metrics.host": "POD_IP",
        "locality.region": "NODE_REGION",
        "locality.zone": "NODE_ZONE",
    }
    return [part for key, variable in values.items() for part in ("--set", f"{key}=$({variable})")]


def _environment(plan: Plan) -> list[Object]:
    fields = {
        "POD_NAME": "metadata.uid" if plan.by_uid else "metadata.name",
        "POD_NAMESPACE": "metadata.namespace",
        "POD_ACCOUNT": "spec.serviceAccountName",
        "POD_IP": "status.podIP",
        # Kubernetes puts these labels of a node on its pods from 1.35 on; before that they are empty.
        "NODE_REGION": f"metadata.labels['{_REGION}']",
        "NODE_ZONE": f"metadata.labels['{_ZONE}']",
    }
    return [
        {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}
        for name, path in fields.items()
    ]


def _resources(given: Resources, *, guaranteed: bool) -> Object:
    if guaranteed:
        both = {"cpu": given.cpu_limit or GUARANTEED_CPU, "memory": given.memory_limit or given.memory}
        return {"requests": dict(both), "limits": dict(both)}
    limits = {key: text for key, text in (("cpu", given.cpu_limit), ("memory", given.memory_limit)) if text}
    made: Object = {"requests": {"cpu": given.cpu, "memory": given.memory}}
    if limits:
        made["limits"] = limits
    return made


def _item(path: str, annotation: str) -> Object:
    return {"path": path, "fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.annotations['{annotation}']"}}


def _token() -> Mapping[str, Any]:
    return {"audience": AUDIENCE, "expirationSeconds": 3600, "path": "token"}
