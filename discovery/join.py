"""Makes the state directory of a cluster's agent: its own root, the redeemed token, settings.yaml."""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import yaml

from discovery import settings as parse
from discovery.report import keep_floor
from discovery.settings import (
    DEFAULT_LISTEN,
    SETTINGS_FILE,
    AgentSettings,
    ClusterSetSettings,
    FilesSettings,
)
from federation.aio.clock import Clock, SystemClock
from federation.aio.files import write_atomic, write_state
from federation.errors import AlreadyExists, Conflict, Denied, InvalidInput, StorageFailed
from federation.model.address import join_address
from federation.model.ids import SYSTEM_NAMESPACE, parse_label
from federation.model.service import Locality
from federation.model.wire import bundle_to_pb
from federation.registry import join as registry
from federation.settings import LocalitySettings
from federation.trust.authority import Authority
from federation.trust.bundle import fingerprint

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
    manifests: Path,
    listen: str | tuple[str, int] = DEFAULT_LISTEN,
    advertise: str = "",
    locality: Locality | None = None,
    metrics: str = "",
    metrics_port: int = 0,
    clusterset: ClusterSetSettings | None = None,
    identities: dict[int, list[str]] | None = None,
    clock: Clock | None = None,
    timeout: float = 10.0,
) -> Joined:
    """Join `cluster` and write `directory`/settings.yaml, with which `python -m discovery` starts.

    `identities` defaults to: the processes of this user may be the gateway and any workload. Safe to repeat after a
    failure: the root is made once; a refusal leaves nothing. Raises AlreadyExists where an agent's settings are, and
    what `registry.join` raises.
    """
    clock = clock or SystemClock()
    parse_label(cluster, what="cluster")
    directory, manifests = _absolute(directory), _absolute(manifests)
    path = directory / SETTINGS_FILE
    if await asyncio.to_thread(path.exists):
        raise AlreadyExists(
            f"{directory} holds an agent already", hint=f"choose another directory, or start it with {path}"
        )
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
            files=FilesSettings(folder=str(manifests)),
            directory=str(directory),
            listen=listen if isinstance(listen, str) else join_address(*listen),
            advertise=advertise,
            metrics=metrics or f"127.0.0.1:{metrics_port}",
            locality=LocalitySettings(region=place.region, zone=place.zone),
            clusterset=clusterset or ClusterSetSettings(),
            identities=identities if identities is not None else {os.getuid(): [f"{SYSTEM_NAMESPACE}/gateway", "*/*"]},
        )
    )
    new = await asyncio.to_thread(_make, directory)
    authority = Authority.open(directory / KEYS, trust_domain=invitation.trust_domain, clock=clock)
    try:
        joined = await registry.join(token, authority, locality=place, clock=clock, timeout=timeout)
    except (InvalidInput, Denied, AlreadyExists, Conflict):
        # The registry has said no, so nobody knows this root. After a lost answer it would be needed for the next try.
        if new:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        raise
    keep_floor(directory / EPOCH, joined.epoch_floor)
    write_state(directory / REGISTRY_BUNDLE, bundle_to_pb(joined.registry_bundle).SerializeToString())
    settings = msgspec.structs.replace(
        settings, registry=joined.registry_address or settings.registry, single_machine=joined.single_machine
    )
    tree = msgspec.to_builtins(settings)
    tree["directory"] = "."  # the folder may be moved
    text = "# Settings of this cluster's agent; docs/settings.md explains each.\n" + yaml.safe_dump(
        tree, sort_keys=False
    )
    write_atomic(path, text.encode())  # last: what has settings is whole
    return Joined(
        cluster=cluster,
        federation=joined.federation,
        trust_domain=joined.trust_domain,
        fingerprint=fingerprint(authority.bundle),
        settings=path,
    )


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _make(directory: Path) -> bool:
    """Whether it was not there before."""
    new = not directory.exists()
    try:
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        directory.chmod(0o711)  # other users reach the identity socket in it, and nothing else
    except OSError as error:
        raise StorageFailed(f"cannot make {directory}: {error.strerror}") from error
    return new
