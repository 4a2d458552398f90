"""Decides whether a pod gets a sidecar, and which; and gives it. Pure: a pod and the cluster's options in, a pod out.

Pods stay the dicts of their JSON, so that a field that is newer than this code is kept. The next modules in the flow
are sidecar.injector.admission (an API server asks) and sidecar.injector.manifests (a person has a file).
"""

from __future__ import annotations

import copy
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from federation.errors import InvalidInput, InvalidName
from federation.model.ids import parse_domain
from sidecar.injector import containers
from sidecar.injector.containers import Plan
from sidecar.injector.options import (
    DISABLED,
    DNS_ADDRESS,
    DNS_PORT,
    ENABLED,
    INJECT,
    INJECTED,
    METRICS_PORT,
    OUTBOUND_PORT,
    SIDECAR,
    WAY,
    Options,
    Way,
)
from sidecar.injector.resolution import Resolution, resolution
from sidecar.injector.wishes import METRICS, OUTBOUND, Wishes, read

NEVER = ("kube-system", "kube-public", "kube-node-lease")
"""Namespaces of what a cluster stands on, our own beside them: none of it may wait for us."""
SYSCTL = "net.ipv4.ip_unprivileged_port_start"
"""Within the pod's own network; among those that kubelet, and Pod Security "restricted", call safe."""
_GENERATED = 58
"""Characters of a generateName that are kept before the five that are drawn."""
_STATEFUL = 52
"""Characters of a workload's name to which any controller can add its own and still have a DNS label."""
Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`pod` as it is to be. `way` None: nothing was changed, because of `reason`. `warnings`: for the pod's author."""

    pod: dict[str, Any]
    way: Way | None = None
    reason: str = ""
    warnings: tuple[str, ...] = ()


def inject(pod: Object, *, namespace: str, options: Options, owner: str = "") -> Decision:
    """The pod, or the template of pods, with what it needs; who asks has seen that pod or namespace opted in.

    `owner`: the name of the workload, where `pod` is its template. Repeating it changes nothing. Raises InvalidInput
    with one line for its author: annotation_invalid, pod_conflict.
    """
    reason = left_alone(pod, namespace, options.own_namespace)
    if reason:
        return Decision(pod=copy.deepcopy(dict(pod)), reason=reason)
    wishes = read(_annotations(pod), options)
    spec: Object = pod.get("spec") or {}
    names = resolution(spec, namespace, options.dns)
    way, warning = _way(wishes.way or options.way, spec, names, wishes)
    if warning:
        wishes = replace(wishes, warnings=(*wishes.warnings, warning))
    made = copy.deepcopy(dict(pod))
    if way is Way.GATEWAY:
        _through_gateway(made, names, options)
    else:
        _with_sidecar(made, _plan(made, way, wishes, names, owner), names, options)
    _annotate(made, {INJECTED: options.version, WAY: way.value})
    return Decision(pod=made, way=way, warnings=wishes.warnings)


def left_alone(pod: Object, namespace: str, own_namespace: str) -> str:
    """Why nothing is done to the pod; empty where something is. Raises InvalidInput (annotation_invalid)."""
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    label = (metadata.get("labels") or {}).get(INJECT)
    if label is not None and label not in (*ENABLED, *DISABLED):
        raise InvalidInput(
            f"label {INJECT} is {str(label)[:60]!r}", hint="write enabled or disabled", code="annotation_invalid"
        )
    if namespace in (*NEVER, own_namespace):
        return f"nothing is injected in namespace {namespace}"
    if label in DISABLED:
        return f"its label {INJECT} says {label}"
    if injected(pod):
        return f"it was injected before, by version {_annotations(pod).get(INJECTED, 'unknown')}"
    if spec.get("hostNetwork"):
        return "its network is its node's (hostNetwork)"
    if "kubernetes.io/config.mirror" in _annotations(pod):
        return "it is a static pod of its node"
    system = (spec.get("os") or {}).get("name") or (spec.get("nodeSelector") or {}).get("kubernetes.io/os")
    if system not in (None, "linux"):
        return f"it is for {system}"
    return ""


def injected(pod: Object) -> bool:
    """Whether the pod has what we would give it: its containers tell, an annotation alone may have been copied."""
    if any(one.get("name") == SIDECAR for one in _containers(pod.get("spec") or {})):
        return True
    annotations = _annotations(pod)
    return INJECTED in annotations and annotations.get(WAY) == Way.GATEWAY.value


def _way(wanted: Way, spec: Object, names: Resolution, wishes: Wishes) -> tuple[Way, str]:
    """The way, and a warning where it is not the one that was wanted: two cannot both answer DNS in one pod."""
    if wanted is Way.GATEWAY:
        return wanted, ""
    holder = next((name for name, port in _declared(spec) if port == DNS_PORT), "")
    if holder:
        why = f"container {holder} listens on port {DNS_PORT} itself"
    elif DNS_PORT in wishes.listens:
        why = f"the pod listens on port {DNS_PORT} itself"
    elif any(_is_loopback(server) for server in names.servers):
        why = "its dnsConfig names a nameserver in the pod itself"
    else:
        return wanted, ""
    return Way.GATEWAY, f"{why}: it gets no sidecar, and its calls go through the gateway"


def _plan(pod: Object, way: Way, wishes: Wishes, names: Resolution, owner: str) -> Plan:
    spec: Object = pod.get("spec") or {}
    _check_volumes(spec)
    listens = sorted({port for _, port in _declared(spec)}.union(wishes.listens))
    metrics = _port(wishes.metrics_port, METRICS_PORT, listens, METRICS)
    outbound = OUTBOUND_PORT
    if way is Way.REDIRECT:
        outbound = _port(wishes.outbound_port, OUTBOUND_PORT, [*listens, metrics], OUTBOUND)
    return Plan(
        way=way,
        wishes=wishes,
        upstream=wishes.upstream or names.servers,
        listens=listens,
        metrics_port=metrics,
        outbound_port=outbound,
        by_uid=_nameless(pod.get("metadata") or {}, owner),
        guaranteed=_guaranteed(spec),
    )


def _with_sidecar(pod: dict[str, Any], plan: Plan, names: Resolution, options: Options) -> None:
    spec = pod["spec"] = dict(pod.get("spec") or {})
    spec["initContainers"] = [*containers.init_containers(plan, options), *(spec.get("initContainers") or [])]
    spec["volumes"] = [*(spec.get("volumes") or []), *containers.volumes()]
    spec["dnsPolicy"], spec["dnsConfig"] = "None", names.at(DNS_ADDRESS)
    spec["securityContext"] = _low_ports(spec.get("securityContext") or {})
    _annotate(pod, containers.notes(plan, options))


def _through_gateway(pod: dict[str, Any], names: Resolution, options: Options) -> None:
    """The cluster's own DNS leads to the gateway; where it does not, another server is named that does."""
    if options.gateway_dns and not any(_is_loopback(server) for server in names.servers):
        spec = pod["spec"] = dict(pod.get("spec") or {})
        spec["dnsPolicy"], spec["dnsConfig"] = "None", names.at(options.gateway_dns)


def _low_ports(context: Object) -> dict[str, Any]:
    """Whoever is in the pod may listen below 1024: the sidecar has to, on 53, and is not root."""
    sysctls = list(context.get("sysctls") or [])
    for one in sysctls:
        if one.get("name") == SYSCTL:
            if str(one.get("value")).strip() in map(str, range(DNS_PORT + 1)):
                return dict(context)
            raise InvalidInput(
                f"securityContext.sysctls sets {SYSCTL} to {str(one.get('value'))[:20]!r}, and the sidecar has to "
                f"listen on port {DNS_PORT}",
                hint=f"leave it out, set it to 0, or annotate {WAY}: gateway",
                code="pod_conflict",
            )
    return {**context, "sysctls": [*sysctls, {"name": SYSCTL, "value": "0"}]}


def _check_volumes(spec: Object) -> None:
    for volume in spec.get("volumes") or []:
        if volume.get("name") in containers.VOLUMES:
            raise InvalidInput(
                f"the pod has a volume {volume['name']}, and no sidecar that it would be for",
                hint="volumes named isthmus-… are made by the injection: take it out, or give it another name",
                code="pod_conflict",
            )


def _port(wanted: int | None, usual: int, taken: Sequence[int], annotation: str) -> int:
    """`usual`, or the next one that the workload does not have."""
    if wanted is None:
        return next(port for port in range(usual, 65536) if port not in taken)
    if wanted in taken:
        raise InvalidInput(
            f"annotation {annotation} is {wanted}, and something in the pod listens there",
            hint="choose another port, or leave the annotation out",
            code="annotation_invalid",
        )
    return wanted


def _declared(spec: Object) -> list[tuple[str, int]]:
    """The ports that containers say they listen on, with the container's name; probes tell of some more."""
    found: list[tuple[str, int]] = []
    for one in _containers(spec):
        ports = [port.get("containerPort") for port in one.get("ports") or []]
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            for way in ("httpGet", "tcpSocket", "grpc"):
                ports.append(((one.get(probe) or {}).get(way) or {}).get("port"))
        found += [(str(one.get("name")), port) for port in ports if isinstance(port, int)]
    return found


def _containers(spec: Object) -> Iterable[Object]:
    return (one for key in ("initContainers", "containers") for one in spec.get(key) or [])


def _guaranteed(spec: Object) -> bool:
    """Whether the pod's class of service is Guaranteed, as far as its containers say it."""
    found = list(_containers(spec))
    return bool(found) and all(_fixed(one.get("resources") or {}) for one in found)


def _fixed(resources: Object) -> bool:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    return all(key in limits and requests.get(key, limits[key]) == limits[key] for key in ("cpu", "memory"))


def _nameless(metadata: Object, owner: str) -> bool:
    """Whether the pod's name may be one that a sidecar cannot have, a label being too long: its uid always can be."""
    if name := metadata.get("name"):
        return not _is_name(str(name))
    if base := metadata.get("generateName"):
        return not _is_name(f"{str(base)[:_GENERATED]}00000")
    return not _is_name(owner or "pod") or len(owner) > _STATEFUL


def _is_name(text: str) -> bool:
    try:
        parse_domain(text, what="name")
    except InvalidName:
        return False
    return True


def _is_loopback(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def _annotations(pod: Object) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (pod.get("metadata") or {}).get("annotations") or {}
    return found


def _annotate(pod: dict[str, Any], values: Mapping[str, str]) -> None:
    metadata = pod["metadata"] = dict(pod.get("metadata") or {})
    metadata["annotations"] = {**(metadata.get("annotations") or {}), **values}
