"""A small client for tests, benchmarks and the demo: Consul's HTTP API by its own paths, JSON as it is.

What Consul refuses is raised as an error of ours with its status; nothing is cached, so what is read is what is there.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp

from clusters.waiting import DEADLINE
from federation.errors import Conflict, Denied, InvalidInput, IsthmusError, NotFound, TimedOut, Unavailable

Object = dict[str, Any]

MOST_OPERATIONS = 128
"""Operations that one transaction may have (`/v1/txn`)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply: the JSON of its body (or its bytes where it is none), and Consul's headers without their X-Consul-."""

    body: Any
    headers: Mapping[str, str]

    @property
    def index(self) -> int:
        """Where the next blocking query goes on."""
        return int(self.headers.get("Index", 0))


class ConsulClient:
    """Use `async with connect(url, token) as client`."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url

    # --- any request -------------------------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, object] | None = None,
        timeout: float = DEADLINE,
    ) -> Answer:
        """`body` is sent as it is when it is bytes, otherwise as JSON. Raises the error that fits the status."""
        what = f"{method} {path}"
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        parameters = {name: str(value) for name, value in (query or {}).items()}
        try:
            async with self._session.request(
                method,
                f"{self._url}{path}",
                data=data,
                params=parameters,
                timeout=aiohttp.ClientTimeout(total=timeout),
            ) as reply:
                raw = await reply.read()
        except TimeoutError as error:
            raise TimedOut(f"{what}: no answer in {timeout:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{what}: {error}") from error
        if reply.status >= 300:
            raise refused(reply.status, what, raw)
        told = {k.removeprefix("X-Consul-"): v for k, v in reply.headers.items() if k.startswith("X-Consul-")}
        try:
            return Answer(json.loads(raw), told)
        except ValueError:
            return Answer(raw, told)

    async def get(self, path: str, **query: object) -> Any:
        """The JSON at `path`, such as "/v1/catalog/services"."""
        return (await self.request("GET", path, query=query)).body

    async def put(self, path: str, body: object = None, **query: object) -> Any:
        """PUT, and the JSON that comes back."""
        return (await self.request("PUT", path, body, query=query)).body

    async def block(self, path: str, index: int, *, wait: float = 60.0, **query: object) -> Answer:
        """A blocking query: answered when there is something newer than `index`, or after `wait` (s) and a little."""
        asked = {**query, "index": index, "wait": f"{wait:g}s"}
        return await self.request("GET", path, query=asked, timeout=wait * 17 / 16 + DEADLINE)

    # --- services of the agent that is asked -------------------------------------------------------------------------

    async def register(self, name: str, *, port: int, **service: object) -> None:
        """Register a service at the agent; `service` is the rest of it by Consul's own names (ID, Tags, Check …)."""
        await self.put("/v1/agent/service/register", {"Name": name, "Port": port, **service})

    async def deregister(self, service_id: str) -> None:
        """Raises NotFound."""
        await self.put(f"/v1/agent/service/deregister/{quote(service_id, safe='')}")

    async def set_check(self, check_id: str, status: str, output: str = "") -> None:
        """Set a TTL check of the agent to "passing", "warning" or "critical"; raises NotFound."""
        path = f"/v1/agent/check/update/{quote(check_id, safe='')}"
        await self.put(path, {"Status": status, "Output": output})

    # --- the catalog -------------------------------------------------------------------------------------------------

    async def transact(self, operations: Iterable[Object]) -> None:
        """Operations of `/v1/txn` in their order, in transactions of as many as one may have. Raises Conflict."""
        operations = list(operations)
        for start in range(0, len(operations), MOST_OPERATIONS):
            await self.put("/v1/txn", operations[start : start + MOST_OPERATIONS])

    # --- access ------------------------------------------------------------------------------------------------------

    async def token(self, rules: str, *, name: str) -> Object:
        """A token with a policy of its own, `rules` (HCL): its AccessorID, and its SecretID with which it is used."""
        policy = await self.put("/v1/acl/policy", {"Name": name, "Rules": rules})
        made: Object = await self.put("/v1/acl/token", {"Description": name, "Policies": [{"ID": policy["ID"]}]})
        return made

    async def revoke(self, accessor: str) -> None:
        """Delete a token by its AccessorID."""
        await self.request("DELETE", f"/v1/acl/token/{accessor}")

    # --- snapshots ---------------------------------------------------------------------------------------------------

    async def save_snapshot(self) -> bytes:
        """All that the servers hold."""
        data = (await self.request("GET", "/v1/snapshot")).body
        assert isinstance(data, bytes)  # noqa: S101 - it is a gzip
        return data

    async def restore_snapshot(self, data: bytes) -> None:
        """Replace all that the servers hold, sessions and indexes too."""
        await self.put("/v1/snapshot", data)


def node(name: str, address: str, **rest: object) -> Object:
    """An operation of `transact`: a node that has no agent."""
    return {"Node": {"Verb": "set", "Node": {"Node": name, "Address": address, **rest}}}


def service(at: str, name: str, *, port: int, verb: str = "set", **rest: object) -> Object:
    """An operation of `transact`: the instance with ID `rest["ID"]` (or the name) of a service on the node `at`."""
    described = {"ID": name, "Service": name, "Port": port, **rest}
    return {"Service": {"Verb": verb, "Node": at, "Service": described}}


def check(at: str, service_id: str, status: str, *, verb: str = "set") -> Object:
    """An operation of `transact`: the check `service:<ID>` of an instance on the node `at`."""
    described = {
        "Node": at,
        "ServiceID": service_id,
        "CheckID": f"service:{service_id}",
        "Name": "up",
        "Status": status,
    }
    return {"Check": {"Verb": verb, "Check": described}}


@asynccontextmanager
async def connect(url: str, token: str = "", *, tls: ssl.SSLContext | None = None) -> AsyncIterator[ConsulClient]:
    """A client of the agent at `url`. `tls`: for https, whom to trust and with which certificate to come."""
    headers = {"X-Consul-Token": token} if token else {}
    connector = aiohttp.TCPConnector(limit=0, ssl=tls or True)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        yield ConsulClient(session, url)


def trusting(authority: str, pair: Sequence[str] = ()) -> ssl.SSLContext:
    """A client's side of TLS from PEM files: whom it trusts, and its certificate and key where it has one."""
    context = ssl.create_default_context(cafile=authority)
    if pair:
        context.load_cert_chain(*pair)
    return context


def refused(status: int, what: str, data: bytes) -> IsthmusError:
    """The error of ours for what Consul answered."""
    text = f"{what}: {status} {data.decode(errors='replace').strip()[:300]}"
    kinds: dict[int, type[IsthmusError]] = {401: Denied, 403: Denied, 404: NotFound, 409: Conflict, 429: Unavailable}
    return kinds.get(status, Unavailable if status >= 500 else InvalidInput)(text)
