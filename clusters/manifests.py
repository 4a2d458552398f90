"""Writes the ordinary Kubernetes manifests that a cluster of plain hosts consists of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One copy of a workload: where it listens, and whether the manifest calls it ready."""

    address: str
    port: int
    ready: bool = True
    zone: str = ""


def service(namespace: str, name: str, *, port: int, app: str) -> dict[str, object]:
    """A Service with the one port `port` of appProtocol `app` ("http", "tcp" …)."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"ports": [{"name": app, "port": port, "protocol": "TCP", "appProtocol": app}]},
    }


def slice_(namespace: str, name: str, *, app: str, copies: Sequence[Copy]) -> dict[str, object]:
    """An EndpointSlice of the Service `name`; all copies have the port of the first."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": namespace,
            "name": f"{name}-1",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": app, "protocol": "TCP", "port": copies[0].port if copies else 1, "appProtocol": app}],
        "endpoints": [
            {"addresses": [c.address], "conditions": {"ready": c.ready}, **({"zone": c.zone} if c.zone else {})}
            for c in copies
        ],
    }


def export(namespace: str, name: str) -> dict[str, object]:
    """A ServiceExport of the Service `name`."""
    return {
        "apiVersion": "multicluster.x-k8s.io/v1beta1",
        "kind": "ServiceExport",
        "metadata": {"namespace": namespace, "name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
    }


def endpoints_path(folder: Path, service: str) -> Path:
    """The file that holds a service's EndpointSlice: apart from the Service, because it changes far more often."""
    return folder / f"{service}-endpoints.yaml"


def path(folder: Path, document: dict[str, Any]) -> Path:
    """The file of an object: a Service and its ServiceExport share one."""
    metadata = document["metadata"]
    if document["kind"] == "EndpointSlice":
        return endpoints_path(folder, metadata["labels"]["kubernetes.io/service-name"])
    return folder / f"{metadata['name']}.yaml"


def write_http_service(folder: Path, namespace: str, name: str, *, port: int, copy: Copy) -> None:
    """An exported HTTP Service with one copy, as two files."""
    *first, last = exported(namespace, name, port=port, app="http", copy=copy)
    write(folder / f"{name}.yaml", *first)
    write(endpoints_path(folder, name), last)


def exported(namespace: str, name: str, *, port: int, app: str, copy: Copy) -> list[dict[str, object]]:
    """A Service with one copy, and its export."""
    return [
        service(namespace, name, port=port, app=app),
        export(namespace, name),
        slice_(namespace, name, app=app, copies=[copy]),
    ]


def write(path: Path, *documents: dict[str, object]) -> None:
    """Replace the file at `path` in one step, as a configuration manager would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, render(*documents))


def render(*documents: dict[str, object]) -> bytes:
    """The documents as one YAML file."""
    return yaml.safe_dump_all(documents, sort_keys=False).encode()


def replace(path: Path, data: bytes) -> None:
    """Put `data` in place of the file at `path` by a rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
