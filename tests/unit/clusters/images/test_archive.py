"""Images put together: what Docker and OCI tools read of an archive."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from clusters.images.archive import Image, assemble, full_name, write
from clusters.images.layers import Layer


def layer(folder: Path, name: str) -> Layer:
    tar = folder / name
    tar.write_bytes(name.encode() * 700)
    digest = hashlib.sha256(tar.read_bytes()).hexdigest()
    return Layer(name=name, tar=tar, digest=digest, size=tar.stat().st_size)


def image(folder: Path, reference: str, *names: str) -> Image:
    layers = [layer(folder, name) for name in names]
    return assemble(reference, layers, {"User": "65532:65532"}, architecture="amd64", epoch=86400)


def archived(*images: Image) -> tuple[bytes, dict[str, bytes]]:
    made = io.BytesIO()
    write(images, made)
    made.seek(0)
    with tarfile.open(fileobj=made) as archive:
        members = archive.getmembers()
        assert len({member.name for member in members}) == len(members)
        assert {member.mtime for member in members} == {0}
        return made.getvalue(), {member.name: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr]


def test_an_archive_is_read_by_docker_and_by_oci_tools(tmp_path: Path) -> None:
    made = image(tmp_path, "isthmus:0.1.0", "base", "code")
    _, files = archived(made)

    for name, content in files.items():
        if name.startswith("blobs/sha256/"):
            assert name == f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"
    (docker,) = json.loads(files["manifest.json"])
    assert docker["RepoTags"] == ["isthmus:0.1.0"]
    config: dict[str, Any] = json.loads(files[docker["Config"]])
    assert config["config"]["User"] == "65532:65532"
    assert config["created"] == "1970-01-02T00:00:00Z"
    assert [files[name] for name in docker["Layers"]] == [b"base" * 700, b"code" * 700]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{name.rpartition('/')[2]}" for name in docker["Layers"]]
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert entry["digest"] == made.digest
    assert entry["annotations"]["io.containerd.image.name"] == "docker.io/library/isthmus:0.1.0"
    manifest = json.loads(files[f"blobs/{made.digest.replace(':', '/')}"])
    assert manifest["config"]["digest"] == made.id
    assert [one["digest"] for one in manifest["layers"]] == config["rootfs"]["diff_ids"]
    assert [one["size"] for one in manifest["layers"]] == [2800, 2800]
    assert made.size == 5600


def test_images_share_layers(tmp_path: Path) -> None:
    one, other = image(tmp_path, "a:1", "base", "x"), image(tmp_path, "b:1", "base", "y")
    data, files = archived(one, other)

    assert [entry["RepoTags"] for entry in json.loads(files["manifest.json"])] == [["a:1"], ["b:1"]]
    assert list(files.values()).count(b"base" * 700) == 1
    assert archived(one, other)[0] == data


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("isthmus:0.1.0", "docker.io/library/isthmus:0.1.0"),
        ("nicolaka/netshoot:v0.15", "docker.io/nicolaka/netshoot:v0.15"),
        ("registry.example.com/isthmus:1", "registry.example.com/isthmus:1"),
        ("localhost/isthmus:1", "localhost/isthmus:1"),
        ("host:5000/isthmus:1", "host:5000/isthmus:1"),
    ],
)
def test_full_names(reference: str, expected: str) -> None:
    assert full_name(reference) == expected
