"""Images put together from layers, and archives of them: for `docker load`, `kind load image-archive` and OCI tools."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any

from clusters.images.layers import Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image: what it is called, what it runs, and its layers, the lowest first."""

    reference: str
    """Such as isthmus:0.1.0."""
    config: bytes
    manifest: bytes
    layers: tuple[Layer, ...]

    @property
    def id(self) -> str:
        """What Docker calls the image's id: the digest of its configuration."""
        return f"sha256:{_digest(self.config)}"

    @property
    def digest(self) -> str:
        """The digest of its manifest: what `name@sha256:…` would name."""
        return f"sha256:{_digest(self.manifest)}"

    @property
    def size(self) -> int:
        """Bytes of its layers, not compressed."""
        return sum(layer.size for layer in self.layers)


def assemble(
    reference: str, layers: Sequence[Layer], settings: Mapping[str, Any], *, architecture: str, epoch: int
) -> Image:
    """An image of these layers; `settings` is the `config` of the OCI image specification (User, Env, Cmd …)."""
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = _json(
        {
            "architecture": architecture,
            "config": dict(settings),
            "created": created,
            "history": [{"created": created, "created_by": layer.name} for layer in layers],
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in layers]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": f"sha256:{layer.digest}",
                    "size": layer.size,
                }
                for layer in layers
            ],
        }
    )
    return Image(reference=reference, config=config, manifest=manifest, layers=tuple(layers))


_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def write(images: Sequence[Image], to: IO[bytes]) -> None:
    """Write images as one archive, an OCI layout that old Docker engines read, too (manifest.json)."""
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {
                **_descriptor(_MANIFEST, image.manifest),
                "annotations": {
                    "io.containerd.image.name": full_name(image.reference),
                    "org.opencontainers.image.ref.name": image.reference.rpartition(":")[2],
                },
            }
            for image in images
        ],
    }
    docker = [
        {
            "Config": f"blobs/sha256/{_digest(image.config)}",
            "RepoTags": [image.reference],
            "Layers": [f"blobs/sha256/{layer.digest}" for layer in image.layers],
        }
        for image in images
    ]
    small = {
        "index.json": _json(index),
        "manifest.json": _json(docker),
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        **{f"blobs/sha256/{_digest(blob)}": blob for image in images for blob in (image.config, image.manifest)},
    }
    with tarfile.open(fileobj=to, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        for name, content in sorted(small.items()):
            archive.addfile(_entry(name, len(content)), io.BytesIO(content))
        for digest, layer in sorted({layer.digest: layer for image in images for layer in image.layers}.items()):
            with layer.tar.open("rb") as tar:
                archive.addfile(_entry(f"blobs/sha256/{digest}", layer.size), tar)


def full_name(reference: str) -> str:
    """The name with the registry that Docker means when none is named."""
    first, *rest = reference.split("/")
    if not rest:
        return f"docker.io/library/{reference}"
    return reference if "." in first or ":" in first or first == "localhost" else f"docker.io/{reference}"


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry


def _descriptor(kind: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{_digest(blob)}", "size": len(blob)}


def _digest(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
