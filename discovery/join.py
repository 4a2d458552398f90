"""Makes the state directory of a cluster's agent: its own root, the redeemed token, settings.yaml.

A cluster whose services are in an API server keeps its identity there, too; `replicate` makes further agents from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import yaml

from discovery import settings as parse
from discovery.consul.cache import NEW
from discovery.consul.settings import ConsulSettings
from discovery.kube import shared
from discovery.kube.client import KubeClient
from discovery.kube.settings import KubernetesSettings
from discovery.membership import LEFT
from discovery.report import keep_floor
from discovery.settings import (
    DEFAULT_LISTEN,
    SETTINGS_FILE,
    AgentSettings,
    ClusterDnsSettings,
    ClusterSetSettings,
    FilesSettings,
    VmsSettings,
)
from federation import log
from federation.aio.clock import Clock, SystemClock
from federation.aio.files import write_atomic, write_state
from federation.errors import AlreadyExists, Conflict, CorruptState, Denied, InvalidInput, StorageFailed
from federation.model.address import join_address, split_address
from federation.model.ids import SYSTEM_NAMESPACE, parse_label
from federation.model.service import Locality
from federation.model.wire import bundle_to_pb
from federation.registry import join as registry
from federation.settings import LocalitySettings
from federation.trust.authority import ROOT_FILE, Authority
from federation.trust.bundle import fingerprint
from federation.trust.keystore import read_secret, write_secret

EPOCH = "epoch.state"
KEYS = "keys"
REGISTRY_BUNDLE = "registry.bundle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A cluster that has joined."""

    cluster: str
    federation: str
    trust_domain: str
    fingerprint: str
    settings: Path


async def join(
    directory: Path,
    *,
    token: str,
    cluster: str,
    manifests: Path | None = None,
    kubernetes: KubernetesSettings | None = None,
    consul: ConsulSettings | None = None,
    listen: str | tuple[str, int] = DEFAULT_LISTEN,
    advertise: str = "",
    vms: str = "",
    dns: str = "",
    locality: Locality | None = None,
    metrics: str = "",
    metrics_port: int = 0,
    clusterset: ClusterSetSettings | None = None,
    identities: dict[int | str, list[str]] | None = None,
    clock: Clock | None = None,
    timeout: float = 10.0,
) -> Joined:
    """Join `cluster` and write `directory`/settings.yaml, with which `python -m discovery` starts.

    Services come from `manifests`, from `consul` or from `kubernetes`, which also keeps the identity for replicas.
    `vms`: see `let_in`; empty: no virtual machine is. `dns`: where the agent answers global names; empty: nowhere.
    `identities` defaults to: the processes of this user may be the gateway and any workload. Safe to repeat after a
    failure: the root is made once; a refusal leaves nothing. Raises AlreadyExists where an agent's settings are, what
    `registry.join` raises and, with `kubernetes`, the errors of discovery.kube.errors.
    """
    clock = clock or SystemClock()
    parse_label(cluster, what="cluster")
    directory = _absolute(directory)
    path = await _free(directory)
    if kubernetes is not None and kubernetes.kubeconfig:
        kubernetes = msgspec.structs.replace(kubernetes, kubeconfig=str(_absolute(Path(kubernetes.kubeconfig))))
    invitation = await registry.look_up(token, clock=clock, timeout=timeout)
    if invitation.cluster != cluster:
        raise InvalidInput(
            f"the token is for the cluster {invitation.cluster}, not for {cluster}",
            hint=f"ask for one with: fedctl token issue {cluster}",
            code="token_foreign",
        )
    place = locality or Locality()
    settings = parse.check(
        AgentSettings(
            cluster=cluster,
            federation=invitation.federation,
            registry=invitation.token.registry,  # the real one comes with the answer
            files=FilesSettings(folder=str(_absolute(manifests))) if manifests is not None else None,
            kubernetes=kubernetes,
            consul=consul.below(Path.cwd()) if consul is not None else None,
            directory=str(directory),
            listen=listen if isinstance(listen, str) else join_address(*listen),
            advertise=advertise,
            vms=let_in(vms) if vms else VmsSettings(),
            dns=ClusterDnsSettings(listen=dns),
            metrics=metrics or f"127.0.0.1:{metrics_port}",
            locality=LocalitySettings(region=place.region, zone=place.zone),
            clusterset=clusterset or ClusterSetSettings(),
            identities=identities if identities is not None else own_processes(),
        )
    )
    client = KubeClient(kubernetes, log=log.get("join"), clock=clock) if kubernetes is not None else None
    try:
        if client is not None and kubernetes is not None:
            await shared.reserve(client, kubernetes.namespace, root=root_of(directory))
        authority, joined = await _redeem(directory, token, invitation.trust_domain, place, clock, timeout)
        keep_floor(directory / EPOCH, joined.epoch_floor)
        if not joined.epoch_floor:  # the registry has never had a report of a cluster of this name
            write_atomic(directory / NEW, b"")
        bundle = bundle_to_pb(joined.registry_bundle).SerializeToString()
        write_state(directory / REGISTRY_BUNDLE, bundle)
        settings = msgspec.structs.replace(
            settings, registry=joined.registry_address or settings.registry, single_machine=joined.single_machine
        )
        text = render(settings)
        if client is not None and kubernetes is not None:
            identity = shared.Identity(
                settings=text, root=root_of(directory) or b"", registry=bundle, epoch=joined.epoch_floor
            )
            await shared.store(client, kubernetes.namespace, identity)
    finally:
        if client is not None:
            await client.close()
    (directory / LEFT).unlink(missing_ok=True)  # of an earlier membership with the same root
    write_atomic(path, text)  # last: what has settings is whole
    return Joined(
        cluster=cluster,
        federation=joined.federation,
        trust_domain=joined.trust_domain,
        fingerprint=fingerprint(authority.bundle),
        settings=path,
    )


async def replicate(
    directory: Path,
    *,
    kubernetes: KubernetesSettings,
    listen: str = DEFAULT_LISTEN,
    advertise: str = "",
    vms: str = "",
    dns: str = "",
    metrics: str = "127.0.0.1:0",
    clock: Clock | None = None,
) -> Joined:
    """Make another agent of the cluster whose identity is in the API server, in the new folder `directory`.

    It lets virtual machines in at `vms` (see `let_in`) and answers global names at `dns`, not where the first one does,
    which is another machine's; Pods it does not let in.
    Raises AlreadyExists where an agent's settings are, CorruptState, and the errors of discovery.kube.errors (NotFound
    where no cluster has joined).
    """
    clock = clock or SystemClock()
    directory = _absolute(directory)
    path = await _free(directory)
    if kubernetes.kubeconfig:
        kubernetes = msgspec.structs.replace(kubernetes, kubeconfig=str(_absolute(Path(kubernetes.kubeconfig))))
    client = KubeClient(kubernetes, log=log.get("join"), clock=clock)
    try:
        identity = await shared.load(client, kubernetes.namespace)
    finally:
        await client.close()
    try:
        first = msgspec.yaml.decode(identity.settings, type=AgentSettings)
    except msgspec.MsgspecError as error:
        where = f"{kubernetes.namespace}/{shared.NAME}"
        raise CorruptState(f"the settings in the Secret {where} are of another version: {error}") from error
    known = first.kubernetes or kubernetes
    settings = parse.check(
        msgspec.structs.replace(
            first,
            kubernetes=msgspec.structs.replace(
                known, kubeconfig=kubernetes.kubeconfig, context=kubernetes.context, namespace=kubernetes.namespace
            ),
            directory=str(directory),
            listen=listen,
            advertise=advertise,
            vms=msgspec.structs.replace(let_in(vms) if vms else VmsSettings(), services=first.vms.services),
            dns=msgspec.structs.replace(first.dns, listen=dns),
            pods=msgspec.structs.replace(first.pods, listen="", advertise=""),
            metrics=metrics,
            identities=own_processes(),
        )
    )
    await asyncio.to_thread(take, directory, identity)
    authority = Authority.open(directory / KEYS, trust_domain=settings.trust_domain, clock=clock)
    write_atomic(path, render(settings))
    return Joined(
        cluster=settings.cluster,
        federation=settings.federation,
        trust_domain=settings.trust_domain,
        fingerprint=fingerprint(authority.bundle),
        settings=path,
    )


def take(directory: Path, identity: shared.Identity, *, mounted: bool = False) -> None:
    """Keep in `directory` what the replicas of a cluster have in common; its settings are another matter. Blocks.

    `mounted`: see `make_folder`.
    """
    make_folder(directory, mounted=mounted)
    write_secret(directory / KEYS / ROOT_FILE, identity.root)
    keep_floor(directory / EPOCH, identity.epoch)
    write_state(directory / REGISTRY_BUNDLE, identity.registry)
    (directory / LEFT).unlink(missing_ok=True)  # of an earlier membership with the same root


def let_in(address: str) -> VmsSettings:
    """Virtual machines join where they dial HOST:PORT: an address of this machine, or a name that leads to it.

    Raises InvalidInput where nobody can dial it.
    """
    host, port = split_address(address, what="the address for virtual machines")
    try:
        own = ipaddress.ip_address(host)
    except ValueError:
        return VmsSettings(listen=join_address("0.0.0.0", port), advertise=address)
    if own.is_unspecified:
        raise InvalidInput(
            f"virtual machines cannot dial {address}", hint="give the address, or a name, at which they reach this one"
        )
    return VmsSettings(listen=address)


async def _redeem(
    directory: Path, token: str, trust_domain: str, place: Locality, clock: Clock, timeout: float
) -> tuple[Authority, registry.Joined]:
    new = await asyncio.to_thread(make_folder, directory)
    authority = Authority.open(directory / KEYS, trust_domain=trust_domain, clock=clock)
    try:
        return authority, await registry.join(token, authority, locality=place, clock=clock, timeout=timeout)
    except (InvalidInput, Denied, AlreadyExists, Conflict):
        # The registry has said no, so nobody knows this root. After a lost answer it would be needed for the next try.
        if new:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        raise


async def _free(directory: Path) -> Path:
    """Where the settings will be. Raises AlreadyExists."""
    path = directory / SETTINGS_FILE
    if await asyncio.to_thread(path.exists):
        raise AlreadyExists(
            f"{directory} holds an agent already", hint=f"choose another directory, or start it with {path}"
        )
    return path


def root_of(directory: Path) -> bytes | None:
    """Key and certificate of the root there, if there is one."""
    return read_secret(directory / KEYS / ROOT_FILE, hint="join in a new directory")


def own_processes() -> dict[int | str, list[str]]:
    """`processes_of` the user that this process has."""
    return processes_of(os.getuid())


def processes_of(user: int | str) -> dict[int | str, list[str]]:
    """The table of identities in which processes of this user, and nobody else, are the gateway and any workload."""
    return {user: [f"{SYSTEM_NAMESPACE}/gateway", "*/*"]}


def render(settings: AgentSettings) -> bytes:
    """The settings as a file in their own directory."""
    tree = msgspec.to_builtins(settings)
    tree["directory"] = "."  # the folder may be moved
    text = "# Settings of this cluster's agent; docs/settings.md explains each.\n"
    return (text + yaml.safe_dump(tree, sort_keys=False)).encode()


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def make_folder(directory: Path, *, mounted: bool = False) -> bool:
    """Make a state directory; whether it was not there before. Raises StorageFailed.

    `mounted`: it may be the root of a volume, which belongs to somebody else and is only this process's to see.
    """
    new = not directory.exists()
    try:
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        with contextlib.suppress(*((PermissionError,) if mounted else ())):
            directory.chmod(0o711)  # other users reach the identity socket in it, and nothing else
    except OSError as error:
        raise StorageFailed(f"cannot make {directory}: {error.strerror}") from error
    return new
