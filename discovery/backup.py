"""A cluster's identity in one archive: its root, what it believes of others, and which machines it lets in.

From the state folder of an agent, or from the API server in which its pods share it. What agents learn again by
themselves (views, reports) is not in it. Who has it can speak for the cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from discovery.join import EPOCH, KEYS, REGISTRY_BUNDLE, make_folder
from discovery.kube import pinboard, shared, vmboard
from discovery.kube.client import KubeClient
from discovery.kube.errors import NotFound
from discovery.kube.resources import CONFIG_MAPS, SECRETS, Resource
from discovery.kube.types import MANAGER
from discovery.settings import SETTINGS_FILE
from discovery.sources.manifests import MANAGED_BY
from discovery.vms.table import VMS
from federation import __version__, errors
from federation.aio.archive import Archive, Manifest
from federation.aio.clock import Clock
from federation.aio.files import write_atomic
from federation.errors import Conflict, InvalidInput, StorageFailed
from federation.trust.authority import ROOT_FILE
from federation.trust.keystore import private_directory

KIND = "cluster"
_ROOT = f"{KEYS}/{ROOT_FILE}"
_FILES = (_ROOT, REGISTRY_BUNDLE, EPOCH, "pins.state", "allocations.state", "gateways.state", VMS, SETTINGS_FILE)
"""Of a state folder; the last one is written last, because what has settings is whole. An agent that knew no gateway
would tell everybody that its cluster has none, until they have found it again."""
_NEEDED = (_ROOT, REGISTRY_BUNDLE, SETTINGS_FILE)
_OBJECTS: Mapping[str, tuple[Resource, str]] = {
    "configmap-pins.json": (CONFIG_MAPS, pinboard.NAME),
    "configmap-vms.json": (CONFIG_MAPS, vmboard.NAME),
    "secret-identity.json": (SECRETS, shared.NAME),
}
"""Of a namespace, by their file; the Secret is written last, because agents begin with it."""
_IDENTITY = "secret-identity.json"


class _Object(msgspec.Struct):
    data: dict[str, str] | None = None


def _manifest(cluster: str, clock: Clock) -> Manifest:
    return Manifest(kind=KIND, name=cluster, made_ns=clock.wall_ns(), isthmus=__version__)


def collect_folder(folder: Path, cluster: str, *, clock: Clock) -> Archive:
    """From an agent's state folder, whether it runs or not. Blocks. Raises NotFound (not_joined), StorageFailed."""
    files: dict[str, bytes] = {}
    for name in _FILES:
        try:
            files[name] = (folder / name).read_bytes()
        except FileNotFoundError:
            if name in _NEEDED:
                raise errors.NotFound(f"{folder} holds no cluster that has joined", code="not_joined") from None
        except OSError as error:
            raise StorageFailed(f"cannot read {folder / name}: {error.strerror}") from error
    return Archive(manifest=_manifest(cluster, clock), files=files)


async def collect_objects(client: KubeClient, namespace: str, cluster: str, *, clock: Clock) -> Archive:
    """From the API server of a cluster whose agents run in pods. Raises NotFound where none has joined, and the errors
    of discovery.kube.errors."""
    await shared.load(client, namespace)
    files = {}
    for file, (resource, name) in _OBJECTS.items():
        try:
            found = msgspec.json.decode(await client.get(resource, namespace, name), type=_Object)
        except NotFound:
            continue  # nobody was pinned, no machine was let in
        files[file] = msgspec.json.encode(found.data or {})
    return Archive(manifest=_manifest(cluster, clock), files=files)


def check(archive: Archive, cluster: str, *, in_pods: bool) -> None:
    """Whether it is this cluster's, and made where it goes. Raises InvalidInput."""
    manifest = archive.manifest
    if manifest.kind != KIND:
        raise InvalidInput(
            f"this is the backup of a {manifest.kind}, {manifest.name}",
            hint="restore it without --cluster",
            code="other_backup",
        )
    if manifest.name != cluster:
        raise InvalidInput(f"this is the backup of the cluster {manifest.name}, not of {cluster}", code="other_backup")
    if (_IDENTITY in archive.files) != in_pods:
        made, goes = ("pods", "a folder") if not in_pods else ("a folder", "pods")
        raise InvalidInput(f"this backup was made of {made}, and cannot be restored to {goes}", code="other_backup")


def restore_folder(folder: Path, archive: Archive, *, replace: bool) -> None:
    """Write the identity into a state folder whose agent does not run. Blocks.

    Raises Conflict (would_overwrite without `replace`), StorageFailed.
    """
    held = (folder / _ROOT).exists()
    if held and not replace:
        raise _would_overwrite(f"{folder} holds the identity of a cluster")
    make_folder(folder)
    try:
        (folder / SETTINGS_FILE).unlink(missing_ok=True)  # not whole until it is here again
    except OSError as error:
        raise StorageFailed(f"cannot write {folder}: {error.strerror}") from error
    for name in _FILES:
        if name in archive.files:
            if "/" in name:
                private_directory((folder / name).parent)
            write_atomic(folder / name, archive.files[name])


async def restore_objects(client: KubeClient, namespace: str, archive: Archive, *, replace: bool) -> None:
    """Write the identity into the API server. Raises Conflict (would_overwrite without `replace`), and the errors of
    discovery.kube.errors."""
    if not replace and await shared.look(client, namespace) is not None:
        raise _would_overwrite(f"there is a Secret {namespace}/{shared.NAME}")
    for file, (resource, name) in _OBJECTS.items():
        if file in archive.files:
            await _put(client, resource, namespace, name, msgspec.json.decode(archive.files[file], type=dict[str, str]))


async def _put(client: KubeClient, resource: Resource, namespace: str, name: str, data: dict[str, str]) -> None:
    metadata = {"name": name, "namespace": namespace, "labels": {MANAGED_BY: MANAGER}}
    body = msgspec.json.encode(
        {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "data": data}
    )
    try:
        await client.create(resource, namespace, body)
    except errors.AlreadyExists:
        await client.update(resource, namespace, name, body)  # without a version: whatever is there


def _would_overwrite(what: str) -> Conflict:
    return Conflict(what, hint="with --replace the backup takes its place", code="would_overwrite")
