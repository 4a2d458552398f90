"""The services file of a VM: text in, definitions out (sidecar.vm.definition), or an error with its line.

docs/vm-services.md describes the file. Unknown keys are refused: a misspelt check would otherwise be none.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import msgspec
import yaml

from federation.errors import InvalidInput, IsthmusError
from federation.lines import Step, line_of, shown, steps
from federation.model.consumers import grants
from federation.model.ids import ServiceName, parse_label, parse_port
from federation.model.service import AppProtocol, Grant, Port, Protocol
from sidecar.vm.checks.machine import Policy
from sidecar.vm.definition import Check, Definition, Grpc, Http, Probe, Script, Tcp

MAX_BYTES = 256 * 1024
MAX_SERVICES, MAX_PORTS, MAX_CHECKS, MAX_ARGUMENTS = 64, 32, 16, 64
MAX_LABELS_BYTES = 16 * 1024
_MAX_DEPTH = 20
_SHORTEST = 0.1
_LONGEST = {"interval": 86_400.0, "timeout": 60.0}
"""Seconds. Whoever has not answered for a minute is not ready: a longer timeout would only tell so later."""
_MOST = 100

_DECLARED = {"tcp": "", "http": "http", "h2c": "kubernetes.io/h2c", "grpc": "grpc"}
"""app → the appProtocol that a Service of Kubernetes would have."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110, 5.6.2
_TARGET = re.compile(r"/[!-~]*\Z")
_RANGE = re.compile(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?\Z")

T = TypeVar("T")


class ServicesError(InvalidInput):
    """A services file that cannot be used: the line, and what is wrong there."""

    code = "services_malformed"

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


# --- what is written in it -------------------------------------------------------------------------------------------


class _Port(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    port: int
    name: str = ""
    target: int | None = None
    protocol: Literal["TCP", "UDP"] = "TCP"
    app: Literal["tcp", "http", "h2c", "grpc"] | None = None


class _Tcp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    port: int
    host: str = ""


class _Http(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    port: int
    host: str = ""
    path: str = "/"
    method: str = "GET"
    headers: dict[str, str] = {}
    expect: str = "200-299"


class _Grpc(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    port: int
    host: str = ""
    service: str = ""


class _Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    command: list[str]


class _Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tcp: _Tcp | None = None
    http: _Http | None = None
    grpc: _Grpc | None = None
    script: _Script | None = None
    interval: float = 10.0
    timeout: float = 5.0
    successes: int = 1
    failures: int = 3


class _Export(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    consumers: str


class _Service(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    namespace: str
    ports: list[_Port]
    address: str = ""
    host: str = "127.0.0.1"
    export: bool | _Export = False
    labels: dict[str, str] = {}
    checks: list[_Check] = []


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    services: list[_Service]


class _Wrong(Exception):
    """What is wrong, and the path that leads there."""

    def __init__(self, path: tuple[Step, ...], detail: str) -> None:
        super().__init__(detail)
        self.path, self.detail = path, detail


def parse(data: bytes) -> tuple[Definition, ...]:
    """The services in `data`, in its order; raises ServicesError."""
    if len(data) > MAX_BYTES:
        raise ServicesError(1, f"it has {len(data)} bytes; at most {MAX_BYTES} are read")
    root, tree = _yaml(data)
    try:
        return _definitions(_convert(tree))
    except _Wrong as error:
        text = f"{shown(error.path)}: {error.detail}" if error.path else error.detail
        raise ServicesError(line_of(root, error.path), text) from error


def _yaml(data: bytes) -> tuple[yaml.Node, object]:
    kind = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_nesting(data, kind)
        loader = kind(data)
        try:
            root = loader.get_single_node()
            if root is None:
                raise ServicesError(1, "it is empty; to offer nothing, write: services: []")
            return root, loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        detail = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ServicesError(mark.line + 1 if mark is not None else 1, f"no YAML: {detail}") from error
    except (ValueError, RecursionError) as error:
        raise ServicesError(1, f"no YAML: {error}") from error


def _check_nesting(data: bytes, kind: type) -> None:
    """Refuses what would take the stack, and references, which can stand for more than fits into memory."""
    depth = 0
    for event in yaml.parse(data, Loader=kind):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise ServicesError(line, "references (*name) are not taken: write it out")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                raise ServicesError(line, f"nested deeper than {_MAX_DEPTH}")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _convert(tree: object) -> _File:
    try:
        return msgspec.convert(tree, _File, strict=True)
    except msgspec.ValidationError as error:
        path, detail = steps(error)
        unknown = re.search(r"unknown field `(.+)`", detail)
        raise _Wrong((*path, unknown[1]) if unknown else path, detail) from error


# --- from one to the other -------------------------------------------------------------------------------------------


def _definitions(file: _File) -> tuple[Definition, ...]:
    _few(file.services, MAX_SERVICES, ("services",), "services")
    found: dict[ServiceName, Definition] = {}
    for index, given in enumerate(file.services):
        path: tuple[Step, ...] = ("services", index)
        made = _definition(given, path)
        if made.name in found:
            raise _Wrong((*path, "name"), f"{made.name} is given twice")
        found[made.name] = made
    return tuple(found.values())


def _definition(given: _Service, path: tuple[Step, ...]) -> Definition:
    name = ServiceName(
        _at((*path, "namespace"), parse_label, given.namespace, what="namespace"),
        _at((*path, "name"), parse_label, given.name, what="service"),
    )
    if given.address:
        _ip(given.address, (*path, "address"))
    _ip(given.host, (*path, "host"))
    ports, targets = _ports(given.ports, (*path, "ports"))
    size = sum(len(key.encode()) + len(value.encode()) for key, value in given.labels.items())
    if size > MAX_LABELS_BYTES:
        raise _Wrong((*path, "labels"), f"labels of {size} bytes; at most {MAX_LABELS_BYTES} are taken")
    given_to: tuple[Grant, ...] = ()
    if isinstance(given.export, _Export):
        given_to = _at((*path, "export", "consumers"), grants, given.export.consumers)
    _few(given.checks, MAX_CHECKS, (*path, "checks"), "checks")
    checks = (_check(check, given.host, (*path, "checks", index)) for index, check in enumerate(given.checks))
    return Definition(
        name=name,
        ports=ports,
        targets=targets,
        address=given.address,
        host=given.host,
        exported=given.export is not False,
        grants=given_to,
        labels=dict(sorted(given.labels.items())),
        checks=tuple(dict.fromkeys(checks)),
    )


def _ports(given: list[_Port], path: tuple[Step, ...]) -> tuple[tuple[Port, ...], dict[int, int]]:
    if not given:
        raise _Wrong(path, "at least one port is needed")
    _few(given, MAX_PORTS, path, "ports")
    ports: list[Port] = []
    targets: dict[int, int] = {}
    names: set[str] = set()
    for index, port in enumerate(given):
        here = (*path, index)
        _at((*here, "port"), parse_port, port.port, what="port")
        if port.target is not None:
            _at((*here, "target"), parse_port, port.target, what="port")
        if port.name:
            _at((*here, "name"), parse_label, port.name, what="port name")
        elif len(given) > 1:
            raise _Wrong(here, "a port without a name among several")
        if port.port in targets or port.name in names:
            raise _Wrong(here, "the port, or its name, is given twice")
        targets[port.port] = port.target or port.port
        names.add(port.name)
        ports.append(_port(port, here))
    return tuple(ports), dict(sorted(targets.items()))


def _port(given: _Port, path: tuple[Step, ...]) -> Port:
    """Without `app`, the beginning of the name tells, as it does for a Service of Kubernetes."""
    app = given.app or given.name.partition("-")[0]
    if given.protocol == "UDP":
        if given.app not in (None, "tcp"):
            raise _Wrong((*path, "app"), f"{given.app} is not spoken over UDP")
        app = "tcp"
    return Port(
        name=given.name,
        port=given.port,
        protocol=Protocol(given.protocol),
        app=AppProtocol(app) if app in _DECLARED else AppProtocol.OPAQUE,
        declared=_DECLARED[given.app] if given.app is not None else "",
    )


def _check(given: _Check, host: str, path: tuple[Step, ...]) -> Check:
    probes = [p for p in (given.tcp, given.http, given.grpc, given.script) if p is not None]
    if len(probes) != 1:
        raise _Wrong(path, "a check is exactly one of tcp, http, grpc and script")
    for key, longest in _LONGEST.items():
        value = getattr(given, key)
        if not _SHORTEST <= value <= longest:
            raise _Wrong((*path, key), f"{key} {value:g} is not {_SHORTEST:g} to {longest:g} seconds")
    for key in ("successes", "failures"):
        value = getattr(given, key)
        if not 1 <= value <= _MOST:
            raise _Wrong((*path, key), f"{key} {value} is not 1 to {_MOST}")
    return Check(
        probe=_probe(probes[0], host, path),
        policy=Policy(
            interval=given.interval, timeout=given.timeout, successes=given.successes, failures=given.failures
        ),
    )


def _probe(given: _Tcp | _Http | _Grpc | _Script, host: str, path: tuple[Step, ...]) -> Probe:
    if isinstance(given, _Script):
        return _script(given, (*path, "script", "command"))
    kind = type(given).__name__.lstrip("_").lower()
    here = (*path, kind)
    _at((*here, "port"), parse_port, given.port, what="port")
    if given.host:
        _ip(given.host, (*here, "host"))
    host = given.host or host
    if isinstance(given, _Tcp):
        return Tcp(host, given.port)
    if isinstance(given, _Grpc):
        if len(given.service) > 200 or not given.service.isprintable():
            raise _Wrong((*here, "service"), "no name of a service, of at most 200 characters")
        return Grpc(host, given.port, given.service)
    if not _TARGET.match(given.path):
        raise _Wrong((*here, "path"), f"{given.path[:80]!r} does not begin with / or has spaces in it")
    if not _TOKEN.match(given.method):
        raise _Wrong((*here, "method"), f"{given.method[:80]!r} is no method")
    for key, value in given.headers.items():
        if not _TOKEN.match(key) or not value.isprintable() or not value.isascii():
            raise _Wrong((*here, "headers"), f"{key[:80]!r} is no header, or its value has other than printable ASCII")
    headers = tuple(sorted((key.lower(), value) for key, value in given.headers.items()))
    return Http(host, given.port, given.path, given.method, headers, _expect(given.expect, (*here, "expect")))


def _expect(text: str, path: tuple[Step, ...]) -> tuple[tuple[int, int], ...]:
    ranges = []
    for item in text.split(","):
        found = _RANGE.match(item.strip())
        if found is None or int(found[2] or found[1]) < int(found[1]):
            raise _Wrong(path, f"{item.strip()[:20]!r} is no status or range of them, such as 200-299")
        ranges.append((int(found[1]), int(found[2] or found[1])))
    return tuple(ranges)


def _script(given: _Script, path: tuple[Step, ...]) -> Script:
    _few(given.command, MAX_ARGUMENTS, path, "arguments")
    if not given.command or not given.command[0].startswith("/"):
        raise _Wrong(path, "a list of arguments that begins with the absolute path of a program (there is no shell)")
    if any("\0" in argument for argument in given.command):
        raise _Wrong(path, "an argument with a NUL in it")
    return Script(tuple(given.command))


def _few(given: Sequence[object], most: int, path: tuple[Step, ...], what: str) -> None:
    if len(given) > most:
        raise _Wrong(path, f"{len(given)} {what}; at most {most} are taken")


def _ip(text: str, path: tuple[Step, ...]) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise _Wrong(path, f"{text[:80]!r} is no IP address") from None


def _at(path: tuple[Step, ...], read: Callable[..., T], value: object, **more: str) -> T:
    """`read(value)`, whose errors are those of the place `path`."""
    try:
        return read(value, **more)
    except IsthmusError as error:
        raise _Wrong(path, str(error)) from error
