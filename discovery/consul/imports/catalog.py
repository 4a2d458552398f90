"""The requests to Consul that writing imports needs, and what their answers mean.

Writing is one transaction at a time (/v1/txn), which begins with the proof that this agent still holds the lock of the
leader: what a former leader sent before it stood still is refused by the servers themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import msgspec

from discovery.consul.client import Answer
from discovery.consul.errors import Forbidden, ServerFailed
from discovery.consul.imports.desired import CLUSTER, MANAGED_BY, MANAGER
from discovery.consul.imports.held import Registered, check_id, read
from discovery.consul.imports.plan import DropInstance, Operation, PutCheck, PutInstance
from federation.errors import Denied

NODE_CHECK = "isthmus-agent"
"""The check of the node: it is passing while the session of the agent that leads is alive."""
TXN_OPERATIONS = 64
"""What a transaction has at most, the proof included (Consul takes 128; 64 before 1.12)."""

READS = 'service_prefix "" { policy = "read" } and node_prefix "" { policy = "read" }'

_json = msgspec.json.Encoder()


class Transport(Protocol):
    """One datacenter's HTTP API. `what` is asked for, in words; `needs` is the rule of an ACL policy for it.

    Raises the errors of discovery.consul.errors.
    """

    async def get(
        self, path: str, query: Mapping[str, str], *, what: str, needs: str, index: int = 0, wait: float = 0.0
    ) -> Answer:
        """With `index`: the answer comes when there is something newer, or after `wait` seconds."""
        ...

    async def put(self, path: str, body: bytes, *, what: str, needs: str) -> tuple[int, bytes]:
        """Status and body; 404 and 409 are answers, too."""
        ...


class Fence(NamedTuple):
    """The lock of the leader, and the session of this agent that holds it."""

    key: str
    session: str


class Lost(Denied):
    """This agent does not hold the lock of the leader any more."""

    code = "consul_not_leading"


class Fault(NamedTuple):
    """Why an operation, and so the transaction, was refused."""

    at: int
    what: str

    @property
    def denied(self) -> bool:
        """The token lacks a right."""
        return "Permission denied" in self.what

    @property
    def raced(self) -> bool:
        """What was to be changed is not as it was seen."""
        return "index is stale" in self.what or "Missing service" in self.what or "Missing node" in self.what


class Outcome(NamedTuple):
    """Of a transaction: nothing was done where there are `faults` (of the operations, counted from 0)."""

    indexes: Mapping[tuple[str, str], int]
    """(kind, id) → ModifyIndex of what was put."""
    faults: tuple[Fault, ...] = ()


class _Error(msgspec.Struct, rename="pascal"):
    what: str = ""
    op_index: int = 0


class _Put(msgspec.Struct, rename="pascal"):
    id: str = msgspec.field(name="ID", default="")
    check_id: str = msgspec.field(name="CheckID", default="")
    modify_index: int = 0


class _Result(msgspec.Struct, rename="pascal"):
    service: _Put | None = None
    check: _Put | None = None


class _Txn(msgspec.Struct, rename="pascal"):
    results: list[_Result] | None = None
    errors: list[_Error] | None = None


class _Session(msgspec.Struct):
    id: str = msgspec.field(name="ID")


_txn = msgspec.json.Decoder(_Txn)
_session = msgspec.json.Decoder(_Session)
_names = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)


class Catalog:
    """Reads and writes the node of our imports in one datacenter. Every method raises as Transport does."""

    def __init__(self, transport: Transport, *, node: str, cluster: str) -> None:
        self._transport, self.node, self._cluster = transport, node, cluster
        self._services = f"/v1/catalog/node-services/{quote(node, safe='')}"
        self._checks = f"/v1/health/node/{quote(node, safe='')}"
        self._writes_node = f'node "{node}" {{ policy = "write" }}'
        self.writes = 0
        """Operations that were sent."""

    # --- reading -----------------------------------------------------------------------------------------------------

    async def registered(self) -> Registered:
        """All under the node, as the leader of the servers has it."""
        services = await self._get(self._services, {"consistent": ""})
        checks = await self._get(self._checks, {"consistent": ""})
        return read(services.body, checks.body, cluster=self._cluster)

    async def services_changed(self, *, index: int, wait: float, stale: bool = False) -> Answer:
        """Comes when a service of the node has changed. It carries none of them: the node may have thousands."""
        return await self._get(self._services, {"filter": 'ID == ""'}, index=index, wait=wait)

    async def checks_changed(self, *, index: int, wait: float, stale: bool = False) -> Answer:
        """The same for its checks. Consul has one index for those of all nodes, so it may be another node's."""
        return await self._get(self._checks, {"filter": 'CheckID == ""'}, index=index, wait=wait)

    async def others(self, *, index: int, wait: float, stale: bool = False) -> Answer:
        """The services that anybody else registers; `names` reads it."""
        ours = f'ServiceMeta["{MANAGED_BY}"] == "{MANAGER}" and ServiceMeta["{CLUSTER}"] == "{self._cluster}"'
        return await self._get("/v1/catalog/services", {"filter": f"not ({ours})"}, index=index, wait=wait)

    async def _get(self, path: str, query: Mapping[str, str], *, index: int = 0, wait: float = 0.0) -> Answer:
        what = f"what is registered under {self.node}" if self.node in path else "the services of others"
        answer = await self._transport.get(path, query, what=what, needs=READS, index=index, wait=wait)
        if answer.meta.filtered:  # what is registered, and by whom, has to be known before anything is written
            raise forbidden("the token does not see the whole catalog", READS)
        return answer

    # --- writing -----------------------------------------------------------------------------------------------------

    async def transact(self, operations: Sequence[Operation], fence: Fence | None) -> Outcome:
        """All of `operations`, or none. Raises Lost, Denied, Unavailable."""
        return await self._transact([self._encode(one) for one in operations], fence)

    async def put_node(self, *, address: str, meta: Mapping[str, str], index: int, fence: Fence) -> Outcome:
        """The node itself, in the version that was seen (0: there is none)."""
        body = {"Node": self.node, "Address": address, "Meta": dict(meta), "ModifyIndex": index}
        return await self._transact([{"Node": {"Verb": "cas", "Node": body}}], fence)

    async def drop_node(self, index: int, fence: Fence | None) -> Outcome:
        """Remove the node in the version that was seen, and the checks and sessions on it."""
        body = {"Node": self.node, "ModifyIndex": index}
        return await self._transact([{"Node": {"Verb": "delete-cas", "Node": body}}], fence)

    async def prove(self, fence: Fence) -> None:
        """Raises Lost where this agent does not hold the lock of the leader."""
        await self._transact([], fence)

    async def put_node_check(self, session_name: str) -> None:
        """The check of the node, passing: it turns critical when the last session of that name ends on the node.

        It goes by itself: transactions do not carry the name of a session.
        """
        self.writes += 1
        check = {
            "CheckID": NODE_CHECK,
            "Name": "The agent of Isthmus lives",
            "Type": "session",
            "Status": "passing",
            "Output": "",
            "Definition": {"SessionName": session_name},
        }
        body = {"Node": self.node, "SkipNodeUpdate": True, "Check": check}
        await self._transport.put(
            "/v1/catalog/register", _json.encode(body), what="the check of our node", needs=self._writes_node
        )

    async def begin_session(self, name: str, ttl: float) -> str:
        """A session on the node; its id."""
        body = {
            "Node": self.node,
            "Name": name,
            "TTL": f"{int(ttl * 1000)}ms",
            "Checks": [],
            "NodeChecks": [],
            "LockDelay": "1s",
        }
        _, answer = await self._session("create", _json.encode(body))
        try:
            return _session.decode(answer).id
        except msgspec.MsgspecError as error:
            raise ServerFailed(f"no session: {error}") from error

    async def renew_session(self, session: str) -> bool:
        """False: there is no such session any more."""
        status, _ = await self._session(f"renew/{quote(session, safe='')}", b"")
        return status != 404

    async def _session(self, path: str, body: bytes) -> tuple[int, bytes]:
        needs = f'session "{self.node}" {{ policy = "write" }}'
        return await self._transport.put(f"/v1/session/{path}", body, what="a session of our node", needs=needs)

    async def _transact(self, encoded: list[dict[str, Any]], fence: Fence | None) -> Outcome:
        proof = [] if fence is None else [_proof(fence)]
        self.writes += len(encoded)
        needs = f'{self._writes_node} and service_prefix "" {{ policy = "write" }}'
        body = _json.encode(proof + encoded)
        _, answer = await self._transport.put("/v1/txn", body, what="a transaction", needs=needs)
        try:
            decoded = _txn.decode(answer)
        except msgspec.MsgspecError as error:
            raise ServerFailed(f"no answer to a transaction: {error}") from error
        faults = tuple(Fault(e.op_index - len(proof), " ".join(e.what.split())[:300]) for e in decoded.errors or ())
        for fault in faults:
            if fault.at < 0 and fence is not None:
                if fault.denied:
                    raise forbidden("the token may not read the lock", f'key "{fence.key}" {{ policy = "write" }}')
                raise Lost(f"this agent does not lead any more: {fault.what}")
        indexes = {}
        for result in decoded.results or ():
            if result.service is not None:
                indexes[("service", result.service.id)] = result.service.modify_index
            if result.check is not None:
                indexes[("check", result.check.check_id)] = result.check.modify_index
        return Outcome(indexes, faults)

    def _encode(self, operation: Operation) -> dict[str, Any]:
        if isinstance(operation, PutInstance):
            one = operation.instance
            service = {
                "ID": one.id,
                "Service": one.service,
                "Address": one.address,
                "Port": one.port,
                "Tags": list(one.tags),
                "Meta": dict(one.meta),
                "Weights": {"Passing": one.weight, "Warning": 1},
                "ModifyIndex": operation.index,
            }
            return {"Service": {"Verb": "cas", "Node": self.node, "Service": service}}
        if isinstance(operation, DropInstance):
            service = {"ID": operation.id, "Service": operation.service, "ModifyIndex": operation.index}
            return {"Service": {"Verb": "delete-cas", "Node": self.node, "Service": service}}
        assert isinstance(operation, PutCheck)  # noqa: S101 - the three kinds there are
        check = {
            "Node": self.node,
            "CheckID": check_id(operation.id),
            "Name": "An endpoint is ready",
            "Status": operation.status,
            "Output": operation.output,
            "ServiceID": operation.id,
            "ServiceName": operation.service,
            "ModifyIndex": operation.index,
        }
        return {"Check": {"Verb": "cas", "Check": check}}


def _proof(fence: Fence) -> dict[str, Any]:
    return {"KV": {"Verb": "check-session", "Key": fence.key, "Session": fence.session}}


def names(answer: Answer) -> frozenset[str]:
    """Of the services in an answer to `others`, in lower case. Raises msgspec.MsgspecError."""
    return frozenset(name.lower() for name in _names.decode(answer.body) or ())


def forbidden(message: str, needs: str) -> Forbidden:
    """What the token may not do, and the rule that its policy lacks."""
    return Forbidden(message, hint=f"its policy lacks {needs}")
