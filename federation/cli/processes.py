"""What a unit has to know of a process, from the settings of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from federation.model.address import split_address

if TYPE_CHECKING:
    from gateway.settings import GatewaySettings
    from sidecar.vm.units import Process

_LOW = 1024


def process_of(kind: str, settings: Path, *, root: Path, programs: str) -> Process:
    """The process with these settings, a path of the host whose `/` is `root`.

    Raises InvalidSettings for settings that it would refuse itself.
    """
    where = str(settings.absolute())
    process = PROCESSES[kind](root / where.lstrip("/"), where, programs)
    return replace(
        process,
        state=_inside(root, process.state),
        writes=tuple(_inside(root, path) for path in process.writes),
        reads=tuple(_inside(root, path) for path in process.reads),
    )


def _inside(root: Path, path: str) -> str:
    """The path as that host has it, where the settings were read by way of `root`."""
    resolved = root.resolve()
    if resolved != Path("/") and Path(path).is_relative_to(resolved):
        return f"/{Path(path).relative_to(resolved)}"
    return path


def _registry(path: Path, where: str, programs: str) -> Process:
    from federation.registry.settings import load
    from sidecar.vm.units import Process

    found = load(path)
    ports = [
        split_address(text, what=key)[1] for key, text in (("listen", found.listen), ("enrolment", found.enrolment))
    ]
    return Process(kind="registry", settings=where, state=found.directory, programs=programs, low_ports=_low(*ports))


def _agent(path: Path, where: str, programs: str) -> Process:
    from discovery.settings import load
    from sidecar.vm.units import USER, Process

    found = load(path)
    ports = [split_address(found.listen, what="listen")[1]]
    if found.dns.listen:
        ports.append(split_address(found.dns.listen, what="dns.listen")[1])
    writes = [found.files.folder] if found.files is not None else []
    reads: list[str] = []
    if (consul := found.consul) is not None:
        reads += filter(None, (consul.token_file, consul.ca_file, consul.cert_file, consul.key_file))
        if consul.rules:
            writes.append(str(Path(consul.rules).parent))  # it is replaced by a file that is written beside it
    return Process(
        kind="agent",
        settings=where,
        state=found.directory,
        programs=programs,
        user=USER,
        low_ports=_low(*ports),
        writes=tuple(path for path in dict.fromkeys(writes) if not Path(path).is_relative_to(found.directory)),
        reads=tuple(reads),
    )


def _gateway(path: Path, where: str, programs: str) -> Process:
    from gateway.settings import read

    return gateway_process(read(path), path=where, programs=programs)


def gateway_process(
    settings: GatewaySettings, *, path: str, programs: str, credentials: tuple[tuple[str, str], ...] = ()
) -> Process:
    """How the gateway with these settings is started."""
    from sidecar.vm.units import USER, Process

    local = bool(settings.agent_directory)
    return Process(
        kind="gateway",
        settings=path,
        state=settings.state_directory,
        programs=programs,
        user=USER if local else "",
        low_ports=_low(settings.listen_port),
        local_agent=local,
        drain=settings.drain_seconds,
        credentials=credentials,
    )


def _sidecar(path: Path, where: str, programs: str) -> Process:
    from sidecar.settings import read
    from sidecar.vm.setup import sidecar_process

    return sidecar_process(read(path), path=where, programs=programs)


def _low(*ports: int) -> bool:
    return any(0 < port < _LOW for port in ports)


PROCESSES: dict[str, Callable[[Path, str, str], Process]] = {
    "registry": _registry,
    "agent": _agent,
    "gateway": _gateway,
    "sidecar": _sidecar,
}
