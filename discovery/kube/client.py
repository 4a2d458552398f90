"""One API server: raw JSON in and out, errors translated, every wait bounded.

discovery.kube.connection knows where it is and as whom we speak; discovery.kube.watch keeps lists and watches going.
Objects stay bytes here: who asks for them decodes the fields that it needs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec

from discovery.kube.connection import Connection, connect, unreachable
from discovery.kube.errors import NotFound, ServerFailed, Unauthorised, translate
from discovery.kube.lines import Lines
from discovery.kube.resources import Resource, Served
from discovery.kube.settings import KubernetesSettings
from federation.aio.clock import Clock
from federation.errors import IsthmusError, Unavailable
from federation.log import Logger

if TYPE_CHECKING:
    import aiohttp

FIELD_MANAGER = "isthmus"
_JSON = "application/json"
_APPLY = "application/apply-patch+yaml"  # JSON is YAML
_CONNECT_SECONDS, _READ_SECONDS, _TOTAL_SECONDS = 5.0, 15.0, 60.0
_MOST_GRACE_SECONDS = 15.0
_RELOAD_SECONDS = 5.0
_SERVED_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list. `remaining`: objects on later pages, None where the server does not say."""

    items: list[msgspec.Raw]
    resource_version: str
    remaining: int | None = None


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    token: str = msgspec.field(default="", name="continue")
    remaining_item_count: int | None = None


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Version(msgspec.Struct):
    version: str


class _Group(msgspec.Struct):
    versions: list[_Version] = []


class _Kind(msgspec.Struct):
    name: str


class _Kinds(msgspec.Struct):
    resources: list[_Kind] | None = None


_list = msgspec.json.Decoder(_List)
_group = msgspec.json.Decoder(_Group)
_kinds = msgspec.json.Decoder(_Kinds)


class KubeClient:
    """Connects when it is first asked for something. Every method raises the errors of discovery.kube.errors, and
    InvalidSettings as long as the configuration cannot be used."""

    def __init__(self, settings: KubernetesSettings, *, log: Logger, clock: Clock) -> None:
        self._settings, self._log, self._clock = settings, log, clock
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._connected = float("-inf")
        self._served: dict[str, tuple[float, Served]] = {}
        self._closed = False

    @classmethod
    async def open(cls, settings: KubernetesSettings, *, log: Logger, clock: Clock) -> KubeClient:
        """A client whose configuration has been read. Raises InvalidSettings, Unauthorised."""
        client = cls(settings, log=log, clock=clock)
        await client.connected()
        return client

    @property
    def host(self) -> str:
        """The server's URL; empty as long as the configuration was not read."""
        return self._connection.host if self._connection else ""

    async def connected(self) -> Connection:
        """The connection; the configuration is read if it was not. Raises InvalidSettings, Unauthorised."""
        async with self._connecting:
            if self._closed:
                raise Unavailable("the connection to the API server is closed")
            if self._connection is None:
                self._connection = await connect(self._settings)
                self._connected = self._clock.monotonic()
            return self._connection

    async def close(self) -> None:
        self._closed = True
        async with self._connecting:
            if self._connection is not None:
                await self._connection.close()
                self._connection = None

    # --- reading -----------------------------------------------------------------------------------------------------

    async def get(self, resource: Resource, namespace: str | None, name: str) -> bytes:
        """One object."""
        return await self._ask("GET", "get", resource, namespace, name)

    async def pages(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        limit: int = 500,
    ) -> AsyncIterator[Page]:
        """All objects, as they are at one moment, in pages. Raises Gone when that moment has become too old."""
        token = ""
        while True:
            query = {"limit": str(limit)}
            if label_selector:
                query["labelSelector"] = label_selector
            if token:
                query["continue"] = token
            body = await self._ask("GET", "list", resource, namespace, query=query)
            try:
                page = _list.decode(body)
            except msgspec.MsgspecError as error:
                raise ServerFailed(f"no list of {resource}: {error}") from error
            if not page.metadata.resource_version:
                raise ServerFailed(f"a list of {resource} without a resourceVersion")
            token = page.metadata.token
            yield Page(page.items or [], page.metadata.resource_version, page.metadata.remaining_item_count)
            if not token:
                return

    async def watch(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        resource_version: str,
        timeout_seconds: float,
    ) -> AsyncIterator[bytes]:
        """Raw lines of a watch since `resource_version`, bookmarks among them, until the server ends it.

        The first one is empty: the server has accepted the watch. Raises Gone; and Unreachable when it was cut in the
        midst of a line or has not ended some seconds after `timeout_seconds`, as the server was asked to.
        """
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(max(1, int(timeout_seconds))),
        }
        if label_selector:
            query["labelSelector"] = label_selector
        lines = Lines()
        total = timeout_seconds + min(_MOST_GRACE_SECONDS, max(2.0, timeout_seconds / 3))
        async with self._request("GET", "watch", resource, namespace, query=query, total=total, read=None) as response:
            yield b""
            async for chunk in response.content.iter_any():
                for line in lines.feed(chunk):
                    yield line
            if lines.partial:
                raise unreachable(ConnectionError("a watch was cut in the midst of a line"), self.host)

    async def version(self) -> bytes:
        """What the server says of itself (version.Info)."""
        return await self._discover("/version")

    async def served(self, group: str, *, refresh: bool = False) -> Served:
        """What the server has of an API group; asked again after some seconds, and at once where it had nothing."""
        known = self._served.get(group)
        now = self._clock.monotonic()
        if known is not None and known[1].plurals and not refresh and now < known[0] + _SERVED_SECONDS:
            return known[1]
        plurals: dict[str, frozenset[str]] = {}
        try:
            versions = _group.decode(await self._discover(f"/apis/{group}")).versions
            for version in versions:
                kinds = _kinds.decode(await self._discover(f"/apis/{group}/{version.version}"))
                plurals[version.version] = frozenset(k.name for k in kinds.resources or () if "/" not in k.name)
        except NotFound:
            pass
        except msgspec.MsgspecError as error:
            raise ServerFailed(f"no description of the API group {group}: {error}") from error
        served = Served(group, plurals)
        self._served[group] = (now, served)
        return served

    # --- writing -----------------------------------------------------------------------------------------------------

    async def apply(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        body: bytes,
        *,
        subresource: str = "",
        force: bool = True,
        dry_run: bool = False,
        field_manager: str = FIELD_MANAGER,
    ) -> bytes:
        """Server-side apply of `body` (JSON); a resourceVersion or uid in its metadata is a precondition."""
        query = {"fieldManager": field_manager, "force": "true" if force else "false"}
        if dry_run:
            query["dryRun"] = "All"
        return await self._ask(
            "PATCH", "patch", resource, namespace, name, subresource=subresource, query=query, body=body, kind=_APPLY
        )

    async def create(
        self, resource: Resource, namespace: str | None, body: bytes, *, field_manager: str = FIELD_MANAGER
    ) -> bytes:
        """Create the object that `body` is. Raises AlreadyExists."""
        return await self._ask(
            "POST", "create", resource, namespace, query={"fieldManager": field_manager}, body=body, kind=_JSON
        )

    async def update(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        body: bytes,
        *,
        subresource: str = "",
        field_manager: str = FIELD_MANAGER,
    ) -> bytes:
        """Replace the object; Conflict unless it still has the resourceVersion that `body` has."""
        return await self._ask(
            "PUT",
            "update",
            resource,
            namespace,
            name,
            subresource=subresource,
            query={"fieldManager": field_manager},
            body=body,
            kind=_JSON,
        )

    async def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: str = "Background",
        dry_run: bool = False,
    ) -> bytes:
        """Delete the object; Conflict when it has another uid or resourceVersion, NotFound when it is gone."""
        options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if preconditions := {k: v for k, v in (("uid", uid), ("resourceVersion", resource_version)) if v}:
            options["preconditions"] = preconditions
        if dry_run:
            options["dryRun"] = ["All"]
        return await self._ask(
            "DELETE", "delete", resource, namespace, name, body=msgspec.json.encode(options), kind=_JSON
        )

    # --- requests ----------------------------------------------------------------------------------------------------

    async def _discover(self, path: str) -> bytes:
        async with self._send("GET", path, verb="get", resource=None, what=path) as response:
            return await response.read()

    async def _ask(
        self,
        method: str,
        verb: str,
        resource: Resource,
        namespace: str | None,
        name: str = "",
        *,
        subresource: str = "",
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        kind: str = "",
    ) -> bytes:
        async with self._request(
            method, verb, resource, namespace, name, subresource=subresource, query=query, body=body, kind=kind
        ) as response:
            return await response.read()

    @contextlib.asynccontextmanager
    async def _request(
        self,
        method: str,
        verb: str,
        resource: Resource,
        namespace: str | None,
        name: str = "",
        *,
        subresource: str = "",
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        kind: str = "",
        total: float = _TOTAL_SECONDS,
        read: float | None = _READ_SECONDS,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        path = resource.path(namespace, name, subresource) + (f"?{urlencode(query)}" if query else "")
        what = f"{verb} {resource}" + (f" {namespace}/{name}" if namespace and name else f" {name}" if name else "")
        async with self._send(
            method,
            path,
            verb=verb,
            resource=resource,
            what=what,
            subresource=subresource,
            body=body,
            kind=kind,
            total=total,
            read=read,
        ) as response:
            yield response

    @contextlib.asynccontextmanager
    async def _send(
        self,
        method: str,
        path: str,
        *,
        verb: str,
        resource: Resource | None,
        what: str,
        subresource: str = "",
        body: bytes | None = None,
        kind: str = "",
        total: float = _TOTAL_SECONDS,
        read: float | None = _READ_SECONDS,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response to a request that succeeded. Credentials that are refused are read again, once."""
        import aiohttp
        from yarl import URL

        again = False
        while True:
            connection = await self.connected()
            headers = {"Accept": _JSON, **({"Content-Type": kind} if kind else {}), **await connection.headers()}
            timeout = aiohttp.ClientTimeout(total=total, sock_connect=_CONNECT_SECONDS, sock_read=read)
            try:
                async with asyncio.timeout(_READ_SECONDS):  # also a watch begins to answer at once
                    response = await connection.session.request(
                        method,
                        URL(connection.host + path, encoded=True),
                        data=body,
                        headers=headers,
                        timeout=timeout,
                        allow_redirects=False,
                        **connection.options,
                    )
                async with response:
                    if response.status < 300:
                        try:
                            yield response
                        finally:
                            _end(response)
                        return
                    failure = translate(
                        response.status,
                        await response.read(),
                        verb=verb,
                        resource=resource,
                        what=what,
                        subresource=subresource,
                        retry_after=_seconds(response.headers.get("Retry-After", "")),
                    )
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise unreachable(error, connection.host) from error
            if again or not isinstance(failure, Unauthorised) or not await self._reload(connection):
                raise failure
            again = True

    async def _reload(self, refused: Connection) -> bool:
        """Read the configuration again because its credentials were refused; False when that was done just now."""
        async with self._connecting:
            if self._connection is not refused:
                return self._connection is not None  # somebody else has done it
            if self._clock.monotonic() < self._connected + _RELOAD_SECONDS:
                return False
            self._connected = self._clock.monotonic()
            try:
                fresh = await connect(self._settings)
            except IsthmusError as error:
                self._log.warning("credentials not read again", error=str(error))
                return False
            self._connection = fresh
            self._log.info("credentials read again", server=fresh.host)
        await refused.close()
        return True


def _end(response: aiohttp.ClientResponse) -> None:
    """A watch that is left in the midst: TLS would wait half a minute for a goodbye that a dead peer never says."""
    connection = response.connection
    if connection is not None and connection.transport is not None and not response.content.at_eof():
        connection.transport.abort()


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0
