"""fedctl backup and restore: the registry, or a cluster's identity, in one file.

Both reach what they are about as every command does: by a folder of this machine, or by the pods of a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federation.aio.archive import Archive, pack, unpack
from federation.aio.clock import SystemClock
from federation.aio.files import write_atomic
from federation.cli.clients import home_of
from federation.cli.completion import known_clusters
from federation.cli.home import Home, Place
from federation.cli.output import Format, OutputOption, Printer
from federation.errors import AlreadyExists, Conflict, NotFound, StorageFailed, Unavailable

if TYPE_CHECKING:
    from discovery.kube.client import KubeClient
    from federation.registry.local import LocalClient

_BEGIN_SECONDS = 60.0
"""For a registry in a pod to serve again with what was restored."""

ClusterOption = Annotated[
    str,
    typer.Option(
        metavar="CLUSTER",
        help="The identity of this cluster instead of the registry.",
        autocompletion=known_clusters,
        show_default=False,
    ),
]
DirectoryOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="The folder of the registry or agent on this machine; default: where it is known to be."
    ),
]


def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the backup goes; it must be new.")],
    cluster: ClusterOption = "",
    directory: DirectoryOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Back up the registry (store, CA, operator's credential) while it runs, or a cluster's identity.

    The file is as secret as what it holds: who has it can be the registry, or the cluster.
    """
    if file.exists():
        raise AlreadyExists(f"{file} is there already", hint="a backup never replaces another one")
    home = home_of(context)
    archive = asyncio.run(_collect_cluster(home, cluster, directory) if cluster else _collect_registry(home, directory))
    data = pack(archive)
    write_atomic(file, data, mode=0o600)
    _print(output, archive, file, line=f"backup of {_named(archive)} in {file}, {len(data) / 1024:.0f} KiB")


def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `fedctl backup` wrote.")],
    cluster: ClusterOption = "",
    directory: DirectoryOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Also where there is something that it replaces.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Put a backup in place: of the registry, which may run, or of a cluster whose agents are lost.

    Agents that run go on meanwhile with what they have, report again, and follow the restored registry.
    """
    home = home_of(context)
    try:
        archive = unpack(file.read_bytes(), what=str(file))
    except OSError as error:
        raise StorageFailed(f"cannot read {file}: {error.strerror}") from error
    if cluster:
        note = asyncio.run(_restore_cluster(home, cluster, directory, archive, replace))
    else:
        note = asyncio.run(_restore_registry(home, directory, archive, replace))
    _print(output, archive, file, line=f"restored {_named(archive)}, as it was at {_made(archive)}", note=note)


def _print(output: Format, archive: Archive, file: Path, *, line: str, note: str = "") -> None:
    printer = Printer(output)
    manifest = archive.manifest
    found = {"kind": manifest.kind, "name": manifest.name, "made": _made(archive), "version": manifest.isthmus}
    printer.item({**found, "file": str(file), "files": sorted(archive.files)}, line=line)
    if note:
        printer.note(note)


def _made(archive: Archive) -> str:
    return datetime.fromtimestamp(archive.manifest.made_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _named(archive: Archive) -> str:
    kind = "the registry of" if archive.manifest.kind == "registry" else "the cluster"
    return f"{kind} {archive.manifest.name}"


# --- the registry ----------------------------------------------------------------------------------------------------


def _registry_folder(home: Home, directory: Path | None) -> Path | None:
    """Of a registry on this machine; None where it is in a pod. Raises NotFound."""
    if directory is not None:
        return directory.absolute()
    operator = home.operator_directory()
    if home.registry is not None:
        return None
    if operator.name == "operator" and (operator.parent / "settings.yaml").exists():
        return operator.parent
    raise NotFound(
        f"the registry whose credential is in {operator} is not on this machine",
        hint="run this where its folder is, with --directory DIR; for one in a pod: fedctl registry use --context NAME",
        code="no_registry",
    )


@contextlib.asynccontextmanager
async def _running(home: Home, folder: Path | None) -> AsyncIterator[LocalClient]:
    """The registry as it serves in its folder, or in its pod."""
    from federation.registry.local import SOCKET, LocalClient

    if folder is not None:
        yield LocalClient(folder / SOCKET)
        return
    from federation.cli.pods import bridged

    assert home.registry is not None  # noqa: S101 - see `_registry_folder`
    async with bridged(home.registry, "registry") as bridge:
        with bridge.explaining():
            yield LocalClient(bridge.socket, what=f"the registry in {bridge.pod}")


async def _collect_registry(home: Home, directory: Path | None) -> Archive:
    folder = _registry_folder(home, directory)
    try:
        async with _running(home, folder) as registry:
            return unpack(await registry.backup(), what="what the registry sent")
    except Unavailable:
        if folder is None:
            raise
    from federation.registry.backup import collect_stopped

    return await asyncio.to_thread(collect_stopped, folder)


async def _restore_registry(home: Home, directory: Path | None, archive: Archive, replace: bool) -> str:
    folder = _registry_folder(home, directory)
    try:
        async with _running(home, folder) as registry:
            await registry.restore(pack(archive), replace=replace)
    except Unavailable:
        if folder is None:
            raise
        await asyncio.to_thread(_restore_stopped, folder, archive, replace)
        return f"start it with: fedctl registry serve {folder}"
    if home.registry is not None and folder is None:
        await _follow(home)
    return "the registry serves it; see `fedctl status`"


def _restore_stopped(folder: Path, archive: Archive, replace: bool) -> None:
    from federation.registry import backup as parts
    from federation.registry.init import SETTINGS_FILE, STORE_FILE
    from federation.registry.settings import load
    from federation.store.schema import connect
    from federation.trust.keystore import private_directory

    settings = load(folder / SETTINGS_FILE) if (folder / SETTINGS_FILE).exists() else None
    parts.check(archive, federation=settings.federation if settings is not None else "")
    if (folder / STORE_FILE).exists():
        connect(folder / STORE_FILE).close()  # Conflict where a registry uses it
        if not replace:
            raise Conflict(
                f"{folder} holds a registry",
                hint="with --replace the backup takes its place; what is there now is kept in before-restore",
                code="would_overwrite",
            )
    private_directory(folder)
    parts.stage(folder, archive)
    parts.finish(folder)


async def _follow(home: Home) -> None:
    """The restored registry has another CA than the one that was replaced: fetch the credential again."""
    from federation.cli.pods import fetch_credential

    assert home.registry is not None  # noqa: S101 - the caller has looked
    async with asyncio.timeout(_BEGIN_SECONDS):
        while True:
            await asyncio.sleep(0.5)  # the old one is about to end
            try:
                return await fetch_credential(home.operator_directory(), home.registry)
            except Unavailable:
                continue


# --- a cluster -------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _api_server(place: Place) -> AsyncIterator[KubeClient]:
    from discovery.kube.client import KubeClient
    from discovery.kube.settings import KubernetesSettings
    from federation import log
    from federation.cli.pods import check_context

    check_context(place)
    settings = KubernetesSettings(kubeconfig=place.kubeconfig, context=place.context)
    client = KubeClient(settings, log=log.get("fedctl"), clock=SystemClock())
    try:
        yield client
    finally:
        await client.close()


async def _collect_cluster(home: Home, cluster: str, directory: Path | None) -> Archive:
    from discovery import backup as parts

    where = directory or home.cluster(cluster)
    if isinstance(where, Path):
        return await asyncio.to_thread(parts.collect_folder, where, cluster, clock=SystemClock())
    async with _api_server(where) as client:
        return await parts.collect_objects(client, where.namespace, cluster, clock=SystemClock())


async def _restore_cluster(home: Home, cluster: str, directory: Path | None, archive: Archive, replace: bool) -> str:
    from discovery import backup as parts

    where = directory or home.cluster(cluster)
    parts.check(archive, cluster, in_pods=not isinstance(where, Path))
    if isinstance(where, Path):
        await asyncio.to_thread(_restore_folder, where, archive, replace)
        return f"start its agent with: isthmus-agent --settings {where / 'settings.yaml'}"
    async with _api_server(where) as client:
        await parts.restore_objects(client, where.namespace, archive, replace=replace)
    pods = f"-n {where.namespace} -l app.kubernetes.io/part-of=isthmus,app.kubernetes.io/component=agent"
    return f"agents that wait to join take it now; those that run with another identity: kubectl delete pods {pods}"


def _restore_folder(folder: Path, archive: Archive, replace: bool) -> None:
    from discovery.backup import restore_folder
    from discovery.folder import in_use

    if in_use(folder):
        raise Conflict(
            f"an agent runs in {folder}", hint="end it first; it would write over what is restored", code="agent_runs"
        )
    restore_folder(folder, archive, replace=replace)


def register(app: typer.Typer) -> None:
    """Add the two verbs to `app`."""
    app.command("backup", epilog="Examples: fedctl backup registry.tar; fedctl backup east.tar --cluster east")(backup)
    app.command(
        "restore", epilog="Examples: fedctl restore registry.tar --replace; fedctl restore east.tar --cluster east"
    )(restore)
