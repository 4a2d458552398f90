"""An API server in a few lines: what plan gives is carried out on a dictionary, so that decisions are tested alone."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from discovery.kube.client import Page
from discovery.kube.errors import AlreadyExists, Conflict, NotFound
from discovery.kube.resources import MCS, Resource, Served
from discovery.mcs.desired import Desired, LocalGateway, Namespace, Site
from discovery.mcs.held import Held, Kind, read
from discovery.mcs.plan import Actual, Verb, Write, plan
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Backend, Import, Locality, Port, Protocol, Readiness

ECHO = ServiceName("shop", "echo")
HTTP = Port(name="http", port=80, app=AppProtocol.HTTP, declared="http")
DNS = Port(name="dns", port=53, protocol=Protocol.UDP)
NOW = "2026-01-01T00:00:00Z"


def backend(cluster: str, ready: int = 1, *, ports: tuple[int, ...] = (80,), **fields: Any) -> Backend:
    return Backend(cluster=cluster, ports=ports, readiness=(Readiness(Locality(), ready),), **fields)


def imported(*backends: Backend, **fields: Any) -> Import:
    base: dict[str, Any] = {"name": ECHO, "ports": (HTTP,), "ip_families": ("IPv4",)}
    return Import(backends=backends or (backend("west"),), **{**base, **fields})


class Api:
    """Objects by (kind, namespace, name); assigns uids, versions and addresses, keeps foreign labels."""

    def __init__(self) -> None:
        self.objects: dict[tuple[Kind, str, str], dict[str, Any]] = {}
        self.version = itertools.count(1)
        self.writes: list[Write] = []
        self.addresses = itertools.count(1)

    def held(self, kind: Kind, name: str, namespace: str = "shop") -> Held | None:
        found = self.objects.get((kind, namespace, name))
        return read(kind, json.dumps(found).encode()) if found is not None else None

    def of(self, kind: Kind) -> dict[str, dict[str, Any]]:
        return {name: body for (k, _, name), body in self.objects.items() if k is kind}

    def actual(self, name: ServiceName = ECHO) -> Actual:
        service = next((self.held(Kind.SERVICE, n, name.namespace) for n in self.of(Kind.SERVICE)), None)
        slices = {n: self.held(Kind.SLICE, n, name.namespace) for n in self.of(Kind.SLICE)}
        return Actual(
            import_=self.held(Kind.IMPORT, name.name, name.namespace),
            service=service,
            slices={n: h for n, h in slices.items() if h is not None},
        )

    def do(self, write: Write) -> None:
        self.writes.append(write)
        key = (write.kind, write.namespace, write.name)
        old = self.objects.get(key)
        if write.verb is Verb.CREATE:
            assert old is None, f"{write} would overwrite"
        else:
            assert old is not None, f"{write}: there is none"
            assert write.resource_version == old["metadata"]["resourceVersion"], f"{write} is of another version"
        if write.verb is Verb.DELETE:
            del self.objects[key]
            return
        body = json.loads(json.dumps(write.body))
        version = str(next(self.version))
        if write.verb is Verb.STATUS:
            assert old is not None
            old["status"] = body["status"]
            old["metadata"]["resourceVersion"] = version
            return
        meta = body["metadata"]
        meta |= {"resourceVersion": version, "uid": old["metadata"]["uid"] if old else f"uid-{version}"}
        if old is not None:
            body["status"] = old.get("status", {})
            ours = old["metadata"].get("managed", {})
            for field in ("labels", "annotations"):
                kept = {k: v for k, v in old["metadata"].get(field, {}).items() if k not in ours.get(field, ())}
                meta[field] = {**kept, **meta.get(field, {})}
        meta["managed"] = {f: list(write.body["metadata"].get(f, ())) for f in ("labels", "annotations")}
        if write.kind is Kind.SERVICE and "clusterIPs" not in body["spec"]:
            ip = f"10.96.0.{next(self.addresses)}"
            body["spec"] |= {"clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"]}
        self.objects[key] = body

    def edit(self, kind: Kind, name: str, change: Any, namespace: str = "shop") -> None:
        """By hand."""
        found = self.objects[(kind, namespace, name)]
        change(found)
        found["metadata"]["resourceVersion"] = str(next(self.version))


class World:
    """A cluster, what is imported into it, and the loop of plan and apply."""

    def __init__(self) -> None:
        self.api = Api()
        self.site = Site(gateways=(LocalGateway("10.1.0.1", "a"),))
        self.namespace = Namespace.ACTIVE
        self.settled: frozenset[str] | None = None
        self.now = NOW
        self.ips: tuple[str, ...] = ()

    def round(self, wanted: Import | None, *, stamp: bool = False) -> tuple[Write, ...]:
        """One plan, carried out."""
        actual = self.api.actual()
        ips: tuple[str, ...] = ()
        ports = {}
        if wanted is not None and not wanted.headless:
            ports = {p.port: 10_000 + p.port for p in wanted.ports if p.protocol is Protocol.TCP}
            self.ips = actual.service.ips if actual.service is not None else self.ips
            ips = self.ips
            wanted = _with(wanted, ips, ports)
        desired = Desired(
            name=ECHO, namespace=self.namespace, import_=wanted, ports=ports, ips=ips, settled=self.settled
        )
        writes = plan(desired, actual, self.site, now=self.now, stamp=stamp)
        for write in writes:
            self.api.do(write)
        return writes

    def settle(self, wanted: Import | None, *, stamp: bool = False) -> int:
        """Rounds until there is nothing to do."""
        for number in range(12):
            if not self.round(wanted, stamp=stamp):
                return number
        raise AssertionError(f"no end of writes: {[str(w) for w in self.api.writes[-6:]]}")


class FakeServer:
    """What a KubeClient is asked for, on a dictionary: uids, versions, addresses, preconditions, watches.

    `fail` may raise before a request is carried out, `after` change what it made; `requests` are (verb, kind, name).
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.fail: Callable[[str, str, dict[str, Any]], None] = lambda verb, kind, body: None
        self.after: Callable[[str, str, dict[str, Any]], None] = lambda verb, kind, made: None
        self.versions = {"v1beta1": frozenset({"serviceimports", "serviceexports"})}
        self.version, self.addresses = itertools.count(1), itertools.count(1)
        self._watches: list[tuple[str, asyncio.Queue[bytes]]] = []

    def of(self, kind: str) -> dict[str, dict[str, Any]]:
        return {name: body for (k, _, name), body in self.objects.items() if k == kind}

    def writes(self) -> list[str]:
        return [f"{verb} {kind}" for verb, kind, _ in self.requests if verb not in ("get", "list", "dry run")]

    def edit(self, kind: str, name: str, change: Callable[[dict[str, Any]], Any], namespace: str = "shop") -> None:
        """By hand."""
        found = self.objects[(kind, namespace, name)]
        change(found)
        self._changed("MODIFIED", kind, found)

    def remove(self, kind: str, name: str, namespace: str = "shop") -> None:
        """By hand, or by the garbage collector."""
        self._changed("DELETED", kind, self.objects.pop((kind, namespace, name)))

    def _changed(self, event: str, kind: str, found: dict[str, Any]) -> None:
        found["metadata"]["resourceVersion"] = str(next(self.version))
        line = json.dumps({"type": event, "object": found}).encode()
        for watched, lines in self._watches:
            if watched == kind:
                lines.put_nowait(line)

    async def _begin(self, verb: str, resource: Resource, name: str, body: dict[str, Any] | None = None) -> None:
        self.requests.append((verb, resource.kind, name))
        await asyncio.sleep(0)
        self.fail(verb, resource.kind, body or {})

    def _existing(self, resource: Resource, namespace: str | None, name: str) -> dict[str, Any]:
        found = self.objects.get((resource.kind, namespace or "", name))
        if found is None:
            raise NotFound(f"{resource.plural} {name} not found")
        return found

    def _answer(self, event: str, resource: Resource, found: dict[str, Any], verb: str) -> bytes:
        self._changed(event, resource.kind, found)
        answer = json.dumps(found).encode()
        self.after(verb, resource.kind, found)
        return answer

    async def served(self, group: str) -> Served:
        return Served(group, self.versions if group == MCS else {})

    async def pages(self, resource: Resource, **_: Any) -> AsyncIterator[Page]:
        await self._begin("list", resource, "")
        items = [json.dumps(body).encode() for (kind, _, _), body in self.objects.items() if kind == resource.kind]
        yield Page([msgspec.Raw(item) for item in items], str(next(self.version)))

    async def watch(self, resource: Resource, **_: Any) -> AsyncIterator[bytes]:
        lines: asyncio.Queue[bytes] = asyncio.Queue()
        self._watches.append((resource.kind, lines))
        yield b""
        while True:
            yield await lines.get()

    async def get(self, resource: Resource, namespace: str | None, name: str) -> bytes:
        await self._begin("get", resource, name)
        return json.dumps(self._existing(resource, namespace, name)).encode()

    async def create(self, resource: Resource, namespace: str | None, body: bytes) -> bytes:
        made = json.loads(body)
        name = made["metadata"]["name"]
        await self._begin("create", resource, name, made)
        if (resource.kind, namespace or "", name) in self.objects:
            raise AlreadyExists(f"{name} already exists")
        owned = {f"f:{k}": {} for k in made["metadata"].get("labels", {})}
        made["metadata"] |= {
            "uid": f"uid-{next(self.version)}",
            "managedFields": [
                {"manager": "isthmus", "operation": "Update", "fieldsV1": {"f:metadata": {"f:labels": owned}}}
            ],
        }
        self._address(resource, made)
        self.objects[(resource.kind, namespace or "", name)] = made
        return self._answer("ADDED", resource, made, "create")

    def _address(self, resource: Resource, made: dict[str, Any]) -> None:
        if resource.kind == "Service" and "clusterIPs" not in made["spec"]:
            ip = f"10.96.0.{next(self.addresses)}"
            made["spec"] |= {"clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"]}

    async def apply(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        body: bytes,
        *,
        subresource: str = "",
        dry_run: bool = False,
        force: bool = True,
    ) -> bytes:
        given = json.loads(body)
        if dry_run:
            await self._begin("dry run", resource, name, given)
            return json.dumps({**given, "spec": {**given["spec"], "ipFamilies": ["IPv4"]}}).encode()
        await self._begin(subresource or "apply", resource, name, given)
        found = self._existing(resource, namespace, name)
        for key in ("uid", "resourceVersion"):
            if given["metadata"].get(key, found["metadata"][key]) != found["metadata"][key]:
                raise Conflict(f"{name} was changed")
        if subresource:
            found["status"] = given["status"]
        else:
            for field in ("labels", "annotations"):
                found["metadata"].setdefault(field, {}).update(given["metadata"].get(field, {}))
            found["metadata"]["ownerReferences"] = given["metadata"].get("ownerReferences", [])
            found.update({k: v for k, v in given.items() if k not in ("metadata", "status")})
        return self._answer("MODIFIED", resource, found, subresource or "apply")

    async def update(self, resource: Resource, namespace: str | None, name: str, body: bytes) -> bytes:
        given = json.loads(body)
        await self._begin("update", resource, name, given)
        found = self._existing(resource, namespace, name)
        if given["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
            raise Conflict(f"{name} was changed")
        found.clear()
        found.update(given)
        return self._answer("MODIFIED", resource, found, "update")

    async def delete(
        self, resource: Resource, namespace: str | None, name: str, *, uid: str = "", resource_version: str = ""
    ) -> bytes:
        await self._begin("delete", resource, name)
        found = self._existing(resource, namespace, name)
        if (uid or found["metadata"]["uid"]) != found["metadata"]["uid"]:
            raise Conflict(f"{name} is another one")
        self.remove(resource.kind, name, namespace or "")
        return b"{}"


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


def _with(wanted: Import, ips: tuple[str, ...], ports: dict[int, int]) -> Import:
    return dataclasses.replace(wanted, ips=ips, gateway_ports=ports)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def kit() -> Any:
    """For tests of many examples."""
    return SimpleNamespace(World=World, backend=backend, imported=imported)


@pytest.fixture(name="imported")
def _imported() -> Any:
    return imported


@pytest.fixture(name="backend")
def _backend() -> Any:
    return backend
