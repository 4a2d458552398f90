"""Where fedctl finds the registry and the clusters that this person operates: one small file, written by fedctl itself.

`contexts.yaml` in the home folder (ISTHMUS_HOME or --home, by default ~/.config/isthmus) names the folder of the
operator's credential and, per cluster, the state folder of its agent on this machine, or the kubeconfig, context and
namespace by which its agent's pods are reached. It holds no secret.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import yaml

from federation import settings
from federation.aio.files import write_atomic
from federation.errors import InvalidSettings, NotFound, StorageFailed
from federation.model.ids import SYSTEM_NAMESPACE, parse_label


class Place(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where pods of Isthmus are. `context` empty: the kubeconfig's current one."""

    kubeconfig: str
    context: str = ""
    namespace: str = SYSTEM_NAMESPACE

    def __str__(self) -> str:
        return f"{self.namespace} of {self.context or 'the current context'} in {self.kubeconfig}"


class RegistryPlace(Place, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the registry's pod is, from which the operator's credential was fetched."""

    bridge: bool = False
    """Its own address cannot be dialled from here: by way of the API server."""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    operator: str = ""
    registry: RegistryPlace | None = None
    clusters: dict[str, str | Place] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """The contexts of one person; `operator` is None until a registry was initialised or its credential was added."""

    directory: Path
    operator: Path | None = None
    registry: RegistryPlace | None = None
    clusters: dict[str, Path | Place] = field(default_factory=dict)

    @classmethod
    def load(cls, directory: Path) -> Home:
        """Read `directory`/contexts.yaml; raises InvalidSettings for a damaged one."""
        path = directory / "contexts.yaml"
        if not path.exists():
            return cls(directory=directory)
        try:
            file = settings.load(path, _File)
        except InvalidSettings as error:
            raise InvalidSettings(
                error.message,
                hint=f"repair {path}, or move it away: `fedctl registry use` and `fedctl cluster use` write it anew",
            ) from error
        return cls(
            directory=directory,
            operator=Path(file.operator) if file.operator else None,
            registry=file.registry,
            clusters={
                parse_label(name, what="cluster"): Path(where) if isinstance(where, str) else where
                for name, where in file.clusters.items()
            },
        )

    def save(self) -> None:
        """Write the file; raises StorageFailed."""
        tree: dict[str, Any] = {"operator": str(self.operator) if self.operator else ""}
        if self.registry is not None:
            tree["registry"] = msgspec.to_builtins(self.registry)
        tree["clusters"] = {
            name: str(where) if isinstance(where, Path) else msgspec.to_builtins(where)
            for name, where in sorted(self.clusters.items())
        }
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StorageFailed(f"cannot make {self.directory}: {error.strerror}") from error
        write_atomic(self.directory / "contexts.yaml", yaml.safe_dump(tree, sort_keys=False).encode())

    def update(self, change: Callable[[Home], Home]) -> None:
        """Write what `change` makes of the file as it is now: another fedctl may have written since. Raises
        InvalidSettings, StorageFailed."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageFailed(f"cannot write in {self.directory}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            change(Home.load(self.directory)).save()
        finally:
            os.close(descriptor)

    def with_operator(self, directory: Path, *, registry: RegistryPlace | None = None) -> Home:
        """`registry`: where the credential in `directory` comes from, if that is a pod."""
        return replace(self, operator=directory.absolute(), registry=registry)

    def with_cluster(self, name: str, where: Path | Place) -> Home:
        return replace(self, clusters={**self.clusters, name: where.absolute() if isinstance(where, Path) else where})

    def without_cluster(self, name: str) -> Home:
        return replace(self, clusters={n: d for n, d in self.clusters.items() if n != name})

    def operator_directory(self) -> Path:
        """Raises NotFound where this person has no registry yet."""
        if self.operator is None:
            raise NotFound(
                "no registry is known here",
                code="no_registry",
                hint="run `fedctl registry init DIR`, or `fedctl registry use DIR` with an operator's credential",
            )
        return self.operator

    def cluster(self, name: str) -> Path | Place:
        """The state folder of the cluster's agent, or where its pods are; raises NotFound."""
        parse_label(name, what="cluster")
        try:
            return self.clusters[name]
        except KeyError:
            known = ", ".join(sorted(self.clusters)) or "none"
            raise NotFound(
                f"no agent of a cluster {name!r} is known here (known: {known})",
                code="unknown_cluster",
                hint=f"run this where the agent runs, or `fedctl cluster use {name} DIR` with its state folder; "
                f"for an agent in a pod: fedctl cluster use {name} --context NAME",
            ) from None
