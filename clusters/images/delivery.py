"""Hands images on: to a file, to the Docker engine, to the nodes of kind clusters."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from clusters import disk
from clusters.images.archive import Image, full_name, write
from clusters.images.builder import Builder
from clusters.progress import silent
from federation import __version__
from federation.errors import IsthmusError, StorageFailed, Unavailable

_SECONDS = 300.0


class LoadFailed(IsthmusError):
    """Docker or kind did not take an image."""

    code = "load_failed"
    exit_status = 6


def save(images: Sequence[Image], path: Path) -> None:
    """Write images to one archive, whole or not at all; raises StorageFailed."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".image-", delete=False) as file:
            made = Path(file.name)
            try:
                write(images, file)
            except BaseException:
                made.unlink()
                raise
        made.chmod(0o644)
        made.rename(path)
    except OSError as error:
        raise StorageFailed(f"cannot write {path}: {error.strerror or error}") from error


def load(images: Sequence[Image]) -> None:
    """Load images into the Docker engine, those that it has not; raises Unavailable without one, LoadFailed."""
    missing = [image for image in images if not _docker_has(image)]
    if missing:
        _feed(missing, ["docker", "load", "--quiet"])


def load_into_kind(images: Sequence[Image], cluster: str) -> None:
    """Load images into every node of a kind cluster; raises Unavailable when there is no such cluster, LoadFailed.

    By `docker exec` into the node's containerd, as `kind load image-archive` does, but without its file.
    """
    nodes = _run(
        ["docker", "ps", "--filter", f"label=io.x-k8s.kind.cluster={cluster}", "--format", "{{.Names}}"]
    ).split()
    if not nodes:
        raise Unavailable(f"there is no kind cluster {cluster}", hint="kind get clusters")
    for node in sorted(nodes):
        missing = [image for image in images if not _node_has(node, image)]
        if missing:
            importing = ["ctr", "--namespace=k8s.io", "images", "import", "--snapshotter=overlayfs", "-"]
            _feed(missing, ["docker", "exec", "--interactive", node, *importing])


def bring(
    clusters: Sequence[str],
    *variants: str,
    version: str = __version__,
    changes: Mapping[str, tuple[str, str]] | None = None,
) -> None:
    """Build images of this source and load them into the nodes of kind clusters; `version`, `changes`: of a Builder."""
    builder = Builder(say=silent, version=version, changes=changes or {})
    images = [builder.image(name) for name in variants]
    for cluster in clusters:
        load_into_kind(images, cluster)


def _docker_has(image: Image) -> bool:
    done = _call(["docker", "image", "inspect", "--format", "{{.Id}}", image.reference])
    # With its own store an engine calls an image by its configuration, with containerd's by its manifest.
    return done.returncode == 0 and done.stdout.strip() in (image.id, image.digest)


def _node_has(node: str, image: Image) -> bool:
    name = full_name(image.reference)
    done = _call(["docker", "exec", node, "ctr", "--namespace=k8s.io", "images", "ls", f"name=={name}"])
    return done.returncode == 0 and image.digest in done.stdout.split()


def _feed(images: Sequence[Image], command: Sequence[str]) -> None:
    """Stream an archive to a command's input; raises LoadFailed with what it said, StorageFailed (`no_disk`)."""
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said)
        except OSError as error:
            raise Unavailable(f"{command[0]} cannot be run: {error.strerror}", hint="is Docker installed?") from error
        with process:
            assert process.stdin is not None  # noqa: S101 - PIPE was asked for
            try:
                write(images, process.stdin)
                process.stdin.close()
            except BrokenPipeError:
                pass  # it has ended, and has said why
            except BaseException:
                process.kill()
                raise
            status = process.wait(timeout=_SECONDS)
        if status:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines() or [f"status {status}"]
            if disk.is_full(lines[-1]):
                hint = "make room (`docker system df` shows what Docker holds) and run the same command again"
                raise StorageFailed(f"{' '.join(command[:2])}: {lines[-1]}", hint=hint, code=disk.CODE)
            raise LoadFailed(f"{' '.join(command[:2])} did not take {images[0].reference}: {lines[-1]}")


def _run(command: Sequence[str]) -> str:
    done = _call(command)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise Unavailable(f"{' '.join(command[:2])}: {lines[-1]}")
    return done.stdout


def _call(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except OSError as error:
        raise Unavailable(f"{command[0]} cannot be run: {error.strerror}", hint="is Docker installed?") from error
