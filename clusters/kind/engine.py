"""The Docker engine, by its command: the nodes of kind clusters, what is done to them, and why it refused.

Every error of Docker and kind that a person can act on is translated here, by `refusal`.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Literal

from clusters import disk
from clusters.command import Done, attempt
from clusters.kind.config import MARKS
from clusters.waiting import START
from federation.errors import Denied, IsthmusError, NotFound, StorageFailed, Unavailable

KIND_LABEL, ROLE_LABEL = "io.x-k8s.kind.cluster", "io.x-k8s.kind.role"

State = Literal["created", "running", "paused", "restarting", "removing", "exited", "dead"]
"""Of a container, as Docker names it."""

_PULL_SECONDS = 900.0

_REFUSALS: tuple[tuple[str, type[IsthmusError], str, str, str], ...] = (
    (
        r"cannot connect to the docker daemon|is the docker daemon running|error during connect",
        Unavailable,
        "docker_down",
        "Docker is installed, but its engine does not answer",
        "start it (systemctl start docker) and run the same command again",
    ),
    (
        r"permission denied while trying to connect|dial unix .*permission denied",
        Denied,
        "docker_denied",
        "this user may not use Docker",
        "run it as root or as a member of the group docker",
    ),
    (
        disk.SAID,
        StorageFailed,
        disk.CODE,
        "the disk is full",
        "make room (where the line says; `docker system df` shows what Docker holds) and run the same command again",
    ),
    (
        r"failed to pull image|no such image|pull access denied|manifest (for \S+ )?(unknown|not found)"
        r"|unable to find image|failed to resolve reference|error pulling image|net/http: tls handshake timeout"
        r"|registry-1\.docker\.io",
        NotFound,
        "kind_image_missing",
        "the node image is neither in Docker nor to be pulled",
        "give one that Docker has by --image or ISTHMUS_KIND_IMAGE (`docker images`)",
    ),
    (
        r"too many open files|failed to create fsnotify watcher|inotify",
        Unavailable,
        "too_few_inotify",
        "this machine has no inotify instances left for another node",
        "sysctl fs.inotify.max_user_instances=1024",
    ),
    (
        r"could not find an available.*address pool|pool overlaps with other one",
        Unavailable,
        "no_network",
        "Docker has no network left for the nodes",
        "remove networks that nobody uses: docker network prune",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A container that is a node of a kind cluster."""

    name: str
    cluster: str
    """For kind."""
    role: str
    state: State
    marks: tuple[str, ...]
    """What its mounts below MARKS are named: `<prefix>.<topology>` of the harness that made it."""
    address: str = ""
    """In the network of the nodes; empty while it does not run."""
    address6: str = ""
    server: str = ""
    """The URL of its API server on this machine, of a control plane."""
    gateways: tuple[str, ...] = ()
    """Where this machine is in that network: what asks the API server by its port on this machine comes from there."""


def refusal(done: Done) -> IsthmusError:
    """What a command of Docker or kind that failed means."""
    said = f"{done.err}\n{done.text[-2000:]}"
    for pattern, kind, code, message, hint in _REFUSALS:
        if re.search(pattern, said, re.IGNORECASE):
            return kind(f"{message}: {done.reason}", hint=hint, code=code)
    return Unavailable(f"{' '.join(done.words)[:120]}: {done.reason}", code=f"{Path(done.words[0]).name}_failed")


async def docker(*words: str, text: bytes = b"", seconds: float = START) -> Done:
    """`docker WORDS`; raises what `refusal` says, NotFound (`docker_missing`) and TimedOut."""
    if shutil.which("docker") is None:
        raise NotFound(
            "docker is not on PATH",
            hint="install a Docker engine (apt-get install docker.io, or docs.docker.com/engine/install)",
            code="docker_missing",
        )
    done = await attempt("docker", *words, text=text, seconds=seconds)
    if done.status:
        raise refusal(done)
    return done


async def check() -> None:
    """Whether the engine answers; raises as `docker` does."""
    await docker("version", "--format", "{{.Server.Version}}")


async def nodes(*, cluster: str = "") -> list[Node]:
    """The nodes of every kind cluster, or of one, whoever made it, in the order of their names."""
    label = f"label={KIND_LABEL}={cluster}" if cluster else f"label={KIND_LABEL}"
    ids = (await docker("ps", "--all", "--quiet", "--no-trunc", "--filter", label)).text.split()
    if not ids:
        return []
    done = await attempt("docker", "inspect", "--type=container", *ids)
    if done.status and "no such" not in done.err.lower():  # one that went between the two questions is gone
        raise refusal(done)
    return sorted((_node(one) for one in json.loads(done.out)), key=lambda n: n.name)


def _node(tree: dict[str, Any]) -> Node:
    labels = tree["Config"]["Labels"]
    found = list((tree["NetworkSettings"].get("Networks") or {}).values())
    network = found[0] if found else {}
    return Node(
        name=tree["Name"].lstrip("/"),
        cluster=labels[KIND_LABEL],
        role=labels.get(ROLE_LABEL, ""),
        state=tree["State"]["Status"],
        marks=tuple(
            mount["Destination"].removeprefix(f"{MARKS}/")
            for mount in tree.get("Mounts") or ()
            if mount["Destination"].startswith(f"{MARKS}/")
        ),
        address=network.get("IPAddress") or "",
        address6=network.get("GlobalIPv6Address") or "",
        server=_server(tree),
        gateways=tuple(g for g in (network.get("Gateway"), network.get("IPv6Gateway")) if g),
    )


def _server(tree: dict[str, Any]) -> str:
    """From what was asked for: a container that does not run has no port."""
    bindings = (tree["HostConfig"].get("PortBindings") or {}).get("6443/tcp") or ()
    return f"https://{bindings[0]['HostIp'] or '0.0.0.0'}:{bindings[0]['HostPort']}" if bindings else ""


async def execute(node: str, *command: str, text: bytes = b"", seconds: float = START) -> str:
    """What the command prints in the node, as root; raises Unavailable when it fails there."""
    return (await docker("exec", "--interactive", node, *command, text=text, seconds=seconds)).text


async def read(node: str, path: str) -> bytes | None:
    """A small file of a node in whatever state, or None where it is not."""
    done = await attempt("docker", "cp", f"{node}:{path}", "-")
    if done.status:
        if re.search(r"no such|could not find", done.err, re.IGNORECASE):
            return None
        raise refusal(done)
    with tarfile.open(fileobj=io.BytesIO(done.out)) as archive:
        member = archive.next()
        file = archive.extractfile(member) if member is not None else None
        return file.read() if file is not None else None


async def write(node: str, path: str, data: bytes) -> None:
    """Replace a file of a node that runs."""
    await execute(node, "sh", "-c", f"cat >{path}.new && mv {path}.new {path}", text=data)


async def start(names: Iterable[str]) -> None:
    await docker("start", *names)


async def pause(names: Iterable[str]) -> None:
    """Freeze every process of the nodes."""
    await docker("pause", *names)


async def unpause(names: Iterable[str]) -> None:
    await docker("unpause", *names)


async def kill(names: Iterable[str]) -> None:
    """End the nodes as a power cut would."""
    await docker("kill", *names)


async def remove(names: Sequence[str]) -> None:
    """Remove the nodes, in whatever state they are, with their disks."""
    if names:
        await docker("rm", "--force", "--volumes", *names)


async def networks(name: str = "kind") -> list[str]:
    """The subnets of a network of Docker; none where there is no such network yet."""
    done = await attempt("docker", "network", "inspect", name)
    if done.status:
        if re.search(r"no such network|not found", done.err, re.IGNORECASE):
            return []
        raise refusal(done)
    return [pool["Subnet"] for net in json.loads(done.out) for pool in net["IPAM"]["Config"] or () if "Subnet" in pool]


async def bridge(name: str = "kind") -> tuple[str, IPv4Network, str]:
    """Of a network of Docker the interface of this machine that is its switch, its range, and our address in it.

    Raises NotFound where there is no such network of IPv4.
    """
    (found,) = json.loads((await docker("network", "inspect", name)).out)
    interface = (found.get("Options") or {}).get("com.docker.network.bridge.name") or f"br-{found['Id'][:12]}"
    for pool in found["IPAM"]["Config"] or ():
        if "Gateway" in pool and ":" not in pool["Subnet"]:
            return interface, IPv4Network(pool["Subnet"]), pool["Gateway"]
    raise NotFound(f"the network {name} of Docker has no range of IPv4")


async def has_image(reference: str) -> bool:
    """Whether the engine has it already."""
    done = await attempt("docker", "image", "inspect", "--format", "{{.Id}}", reference)
    if done.status and not re.search(r"no such image|not found", done.err, re.IGNORECASE):
        raise refusal(done)
    return done.status == 0


async def bring_image(reference: str) -> None:
    """Pull it unless it is there; raises NotFound (`kind_image_missing`) where it cannot be had."""
    if await has_image(reference):
        return
    done = await attempt("docker", "pull", "--quiet", reference, seconds=_PULL_SECONDS, long=True)
    if done.status:
        if isinstance(refused := refusal(done), StorageFailed) or refused.error_code in (
            "docker_down",
            "docker_denied",
        ):
            raise refused
        raise NotFound(
            f"the node image {reference} is neither in Docker nor to be pulled: {done.reason}",
            hint="give one that Docker has by --image or ISTHMUS_KIND_IMAGE (`docker images`)",
            code="kind_image_missing",
        )


async def free_disk() -> int | None:
    """Free bytes where Docker keeps its data; None where that is not on this machine."""
    root = Path((await docker("info", "--format", "{{.DockerRootDir}}")).text.strip())
    try:
        return shutil.disk_usage(root).free
    except OSError:
        return None
