"""Folders of manifests, and waiting without fixed sleeps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from clusters.waiting import until


def manifest(name: str, *addresses: str, export: bool = True, port: int = 80, ready: bool = True) -> str:
    """A Service with its EndpointSlice and, if asked for, its ServiceExport, as one YAML file."""
    text = (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n"
        f"spec:\n  ports:\n  - {{name: http, port: {port}, appProtocol: http}}\n"
    )
    if addresses:
        text += (
            f"---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n"
            f"  namespace: shop\n  labels: {{kubernetes.io/service-name: {name}}}\naddressType: IPv4\n"
            "ports:\n- {name: http, port: 8080}\nendpoints:\n"
        )
        text += "".join(f"- addresses: [{a}]\n  conditions: {{ready: {str(ready).lower()}}}\n" for a in addresses)
    if export:
        text += (
            "---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n"
            f"metadata: {{name: {name}, namespace: shop}}\n"
        )
    return text


def write(folder: Path, name: str, text: str) -> None:
    """As editors and configuration management do it: written beside, renamed."""
    beside = folder.parent / f".{name}.tmp"
    beside.write_text(text)
    beside.replace(folder / name)


@pytest.fixture(name="manifest")
def _manifest() -> Callable[..., str]:
    return manifest


@pytest.fixture(name="write")
def _write() -> Callable[[Path, str, str], None]:
    return write


@pytest.fixture(name="until")
def _until() -> Callable[..., Awaitable[Any]]:
    return until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "manifests"
    path.mkdir()
    return path
