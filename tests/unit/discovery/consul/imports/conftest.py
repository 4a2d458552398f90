"""A datacenter in a few lines: catalog, sessions and transactions of Consul, as far as writing imports needs them."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from discovery.consul.client import Answer, Meta
from discovery.consul.errors import Forbidden, Unreachable
from discovery.consul.imports.actual import Actual
from discovery.consul.imports.catalog import Catalog, Fence
from discovery.consul.imports.desired import LocalGateway, Site, instances
from discovery.consul.imports.names import NameRule, claims
from discovery.consul.imports.plan import Change, plan
from federation.model.ids import ServiceName
from federation.model.service import Backend, Import, Locality, Port, Readiness

NODE = "isthmus-east"
FENCE = Fence("isthmus/east/leader", "session-of-the-leader")
DB = ServiceName("shop", "db")
SQL = Port(name="sql", port=5432)


def backend(cluster: str, ready: int = 1, *, ports: tuple[int, ...] = (5432,), **fields: Any) -> Backend:
    return Backend(cluster=cluster, ports=ports, readiness=(Readiness(Locality(), ready),), **fields)


def imported(*backends: Backend, **fields: Any) -> Import:
    base: dict[str, Any] = {"name": DB, "ports": (SQL,), "ips": ("241.0.0.1",)}
    made = {**base, **fields}
    made.setdefault("gateway_ports", {p.port: 10_000 + p.port % 1000 for p in made["ports"]})
    return Import(backends=backends or (backend("west"),), **made)


class Consul:
    """Transport and datacenter in one. `denied`: services that the token may not write; `down`: nothing answers."""

    def __init__(self) -> None:
        self.index = 10
        self.nodes: dict[str, dict[str, Any]] = {}
        self.services: dict[tuple[str, str], dict[str, Any]] = {}
        self.checks: dict[tuple[str, str], dict[str, Any]] = {}
        self.sessions: dict[str, dict[str, Any]] = {}
        self.locks = {FENCE.key: FENCE.session}
        self.denied: set[str] = set()
        self.garbled: set[str] = set()
        self.filtered = self.down = False
        self.transactions: list[list[dict[str, Any]]] = []
        self._news = asyncio.Event()

    # --- by hand -----------------------------------------------------------------------------------------------------

    def touch(self) -> int:
        self.index += 1
        self._news.set()
        self._news = asyncio.Event()
        return self.index

    def register(self, node: str, service: str, *, id: str = "", meta: Mapping[str, str] | None = None) -> None:
        """As somebody else does it."""
        index = self.touch()
        self.nodes.setdefault(node, {"Node": node, "Address": "192.0.2.1", "Meta": {}, "ModifyIndex": index})
        body = {"ID": id or service, "Service": service, "Tags": [], "Meta": dict(meta or {}), "Address": "192.0.2.1"}
        self.services[(node, id or service)] = {**body, "Port": 1, "ModifyIndex": index}

    def deregister(self, node: str, id: str) -> None:
        self.touch()
        del self.services[(node, id)]
        self.checks = {k: c for k, c in self.checks.items() if k[0] != node or c.get("ServiceID") != id}

    def edit(self, id: str, **fields: Any) -> None:
        self.services[(NODE, id)] |= {**fields, "ModifyIndex": self.touch()}

    def ours(self) -> dict[str, dict[str, Any]]:
        return {id_: s for (node, id_), s in self.services.items() if node == NODE}

    def resolve(self, service: str) -> list[tuple[str, int]]:
        """As DNS has it: what is not critical."""
        return sorted(
            (s["Address"], s["Port"])
            for (node, id_), s in self.services.items()
            if s["Service"] == service
            and not any(
                c["Status"] == "critical"
                for (n, _), c in self.checks.items()
                if n == node and c.get("ServiceID", "") in ("", id_)
            )
        )

    def end_session(self, id: str) -> None:
        session = self.sessions.pop(id)
        for check in self.checks.values():
            if check.get("Definition", {}).get("SessionName") == session["Name"]:
                check["Status"] = "critical"
        self.touch()

    # --- HTTP --------------------------------------------------------------------------------------------------------

    async def get(
        self, path: str, query: Mapping[str, str], *, what: str, needs: str, index: int = 0, wait: float = 0.0
    ) -> Answer:
        if self.down:
            raise Unreachable("Consul at 127.0.0.1:8500 cannot be reached")
        if index >= self.index:
            await self._news.wait()
        if path == "/v1/catalog/services":
            others = {s["Service"]: [] for s in self.services.values() if s["Meta"].get("isthmus-cluster") != "east"}
            return self._answer(others)
        if "filter" in query:
            return self._answer([])
        node = path.rpartition("/")[2]
        if path.startswith("/v1/catalog/node-services/"):
            found = [s for (n, _), s in sorted(self.services.items()) if n == node]
            return self._answer({"Node": self.nodes.get(node), "Services": found})
        return self._answer([c for (n, _), c in sorted(self.checks.items()) if n == node])

    def _answer(self, value: Any) -> Answer:
        return Answer(json.dumps(value).encode(), Meta(index=self.index, filtered=self.filtered))

    async def put(self, path: str, body: bytes, *, what: str, needs: str) -> tuple[int, bytes]:
        if self.down:
            raise Unreachable("Consul at 127.0.0.1:8500 cannot be reached")
        await asyncio.sleep(0)
        tree = json.loads(body) if body else {}
        if path == "/v1/txn":
            return self._transact(tree)
        if path == "/v1/session/create":
            if "session" in self.denied:
                raise Forbidden("our token may not do that", hint=f"its policy lacks {needs}")
            assert tree["Node"] in self.nodes, "a session needs its node"
            id_ = f"session-{self.touch()}"
            self.sessions[id_] = tree
            return 200, json.dumps({"ID": id_}).encode()
        if path.startswith("/v1/session/renew/"):
            return (200 if path.rpartition("/")[2] in self.sessions else 404), b""
        if path.startswith("/v1/session/destroy/"):
            self.end_session(path.rpartition("/")[2])
            return 200, b"true"
        assert path == "/v1/catalog/register", path
        check = tree["Check"]
        assert tree["Node"] in self.nodes
        self.checks[(tree["Node"], check["CheckID"])] = {**check, "ModifyIndex": self.touch()}
        return 200, b"true"

    def _transact(self, operations: list[dict[str, Any]]) -> tuple[int, bytes]:
        assert len(operations) <= 64
        self.transactions.append(operations)
        kept = {k: dict(getattr(self, k)) for k in ("nodes", "services", "checks")}
        results, errors = [], []
        for at, operation in enumerate(operations):
            ((kind, body),) = operation.items()
            name = body.get("Service", {}).get("Service", "") or body.get("Check", {}).get("ServiceName", "")
            if name in self.denied:
                what = f"Permission denied: token with AccessorID '1' lacks permission 'service:write' on \"{name}\""
                errors.append({"OpIndex": at, "What": what})
                continue
            if name in self.garbled:
                errors.append({"OpIndex": at, "What": "Invalid Service Meta"})
                continue
            result = getattr(self, f"_{kind.lower()}")(body)
            if isinstance(result, str):
                errors.append({"OpIndex": at, "What": result})
            elif result is not None:
                results.append(result)
        if errors:
            for k, v in kept.items():
                setattr(self, k, v)
            return 409, json.dumps({"Results": None, "Errors": errors}).encode()
        self.touch()
        return 200, json.dumps({"Results": results, "Errors": None}).encode()

    def _kv(self, body: dict[str, Any]) -> Any:
        assert body["Verb"] == "check-session"
        if self.locks.get(body["Key"]) != body["Session"]:
            return f'failed session check for key "{body["Key"]}"'
        return {"KV": {"Key": body["Key"], "Value": base64.b64encode(b"").decode()}}

    def _node(self, body: dict[str, Any]) -> Any:
        node = body["Node"]
        if self.nodes.get(node["Node"], {}).get("ModifyIndex", 0) != node["ModifyIndex"]:
            return f'failed to set node "{node["Node"]}", index is stale'
        if body["Verb"] == "delete-cas":
            self.services = {k: s for k, s in self.services.items() if k[0] != node["Node"]}
            self.checks = {k: c for k, c in self.checks.items() if k[0] != node["Node"]}
            del self.nodes[node["Node"]]
            return None
        self.nodes[node["Node"]] = {**node, "ModifyIndex": self.index + 1}
        return {"Node": self.nodes[node["Node"]]}

    def _service(self, body: dict[str, Any]) -> Any:
        service, key = body["Service"], (body["Node"], body["Service"]["ID"])
        held = self.services.get(key)
        if (held or {}).get("ModifyIndex", 0) != service["ModifyIndex"]:
            return f'failed to set service "{key[1]}" on node "{key[0]}", index is stale'
        if body["Verb"] == "delete-cas":
            del self.services[key]
            self.checks = {k: c for k, c in self.checks.items() if k[0] != key[0] or c.get("ServiceID") != key[1]}
            return None
        self.services[key] = {**service, "ModifyIndex": self.index + 1}
        return {"Service": self.services[key]}

    def _check(self, body: dict[str, Any]) -> Any:
        check = body["Check"]
        key = (check["Node"], check["CheckID"])
        if (check["Node"], check["ServiceID"]) not in self.services:
            return "Missing service registration"
        if self.checks.get(key, {}).get("ModifyIndex", 0) != check["ModifyIndex"]:
            return f'failed to set check "{key[1]}" on node "{key[0]}", index is stale'
        self.checks[key] = {**check, "ModifyIndex": self.index + 1}
        return {"Check": self.checks[key]}


class World:
    """plan and what carries it out, in turns, for one import at a time."""

    def __init__(self) -> None:
        self.consul = Consul()
        self.catalog = Catalog(self.consul, node=NODE, cluster="east")
        self.actual = Actual()
        self.site = Site(cluster="east", gateways=(LocalGateway(name="gw-1", address="10.0.0.1"),))
        self.rule = NameRule("shop")

    async def begin(self) -> None:
        registered = await self.catalog.registered()
        if registered.node is None:
            meta = {"isthmus-managed-by": "isthmus", "isthmus-cluster": "east"}
            await self.catalog.put_node(address="127.0.0.1", meta=meta, index=0, fence=FENCE)
        self.actual.replace(await self.catalog.registered())

    def planned(self, name: ServiceName, wanted: Import | None, *, deletable: bool = True) -> tuple[Change, ...]:
        named = claims(wanted, self.rule, self.actual.main(name)) if wanted is not None else {}
        made = instances(wanted, named, self.rule.plain(name), self.site) if wanted is not None else {}
        held = self.actual.of(name)
        held |= {id_: one for id_ in made if (one := self.actual.get(id_)) is not None}
        return plan(name, made, held, kept=named, absent=self.site.absent, deletable=deletable)

    async def round(self, name: ServiceName, wanted: Import | None, **how: Any) -> tuple[Change, ...]:
        changes = self.planned(name, wanted, **how)
        if changes:
            outcome = await self.catalog.transact([o for c in changes for o in c.operations], FENCE)
            assert not outcome.faults, outcome.faults
            for change in changes:
                assert self.actual.wrote(change, outcome.indexes)
        return changes

    async def settle(self, wanted: Import | None, name: ServiceName = DB, **how: Any) -> None:
        """One round does it, and what is remembered of it is what a reading finds."""
        await self.begin()
        await self.round(name, wanted, **how)
        assert self.planned(name, wanted, **how) == ()
        assert self.actual.replace(await self.catalog.registered()) == set()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def consul() -> Consul:
    return Consul()


@pytest.fixture
def make() -> SimpleNamespace:
    """What tests build imports from."""
    return SimpleNamespace(
        backend=backend,
        imported=imported,
        DB=DB,
        SQL=SQL,
        NODE=NODE,
        FENCE=FENCE,
        World=World,
        replace=dataclasses.replace,
    )
