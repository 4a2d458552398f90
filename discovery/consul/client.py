"""One Consul: raw JSON in and out with what its headers say, errors translated, every wait bounded.

Reads go straight through aiohttp, for the headers and for a limit of what is read; py-consul, which shows neither, has
its say where an API is more than a GET: `ConsulClient.api` is its client on top of the same connections
(discovery.consul.api). aiohttp is imported when a connection is opened, so only an agent with Consul pays for it.
The token travels in the header X-Consul-Token and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from discovery.consul.errors import Forbidden, TokenMissing, TooLarge, translate, unreachable
from discovery.consul.settings import READS, ConsulSettings, split_url
from discovery.consul.token import TokenFile
from federation.aio.clock import Clock
from federation.errors import InvalidSettings, Unavailable
from federation.log import Logger
from federation.model.address import join_address
from federation.model.cluster import Problem

if TYPE_CHECKING:
    import aiohttp

    from discovery.consul.api import Api

_CONNECT_SECONDS, _READ_SECONDS = 5.0, 15.0
_GRACE_SECONDS = 10.0
"""For a blocking query, beyond the time in which Consul is to answer it: without a leader it waits for seven seconds
before it says so."""
_CREDENTIALS_SECONDS = 5.0
"""Files of credentials are read again at most so often; the token's is looked at so often."""
_BUFFER = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What the headers of an answer say. `last_contact`: seconds since the answering server heard of its leader."""

    index: int
    known_leader: bool = True
    last_contact: float = 0.0
    filtered: bool = False
    """X-Consul-Results-Filtered-By-ACLs: the token may not see all there is."""
    default_deny: bool = False
    """X-Consul-Default-ACL-Policy: who has no token may see nothing, unless the anonymous token may."""
    streamed: bool = False
    """X-Consul-Query-Backend: streaming. Consul answers from a view of its agent, and then says neither that it knows
    its leader nor that ACLs have filtered (seen in 1.22; its code sets neither)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Body and headers of a read."""

    body: bytes
    meta: Meta


class ConsulClient:
    """Connects when it is first asked for something. Every method raises the errors of discovery.consul.errors, and
    InvalidSettings while certificates or keys cannot be used."""

    def __init__(self, settings: ConsulSettings, *, clock: Clock, log: Logger) -> None:
        self._settings, self._clock, self._log = settings, clock, log
        scheme, host, port = split_url(settings.address)
        self.host = join_address(host, port)
        """HOST:PORT."""
        self._base = f"{scheme}://{self.host}"
        self._session: aiohttp.ClientSession | None = None
        self._token = TokenFile(settings.token_file, log=log)
        self._waiting: set[asyncio.Timeout] = set()
        """Of the blocking queries that are under way."""
        self._read_at = float("-inf")
        self._renewing = asyncio.Lock()
        self._reads = asyncio.Semaphore(READS)
        self._closed = False
        self._api: Api | None = None

    async def close(self) -> None:
        """End all connections."""
        self._closed = True
        await self._drop()

    @property
    def api(self) -> Api:
        """py-consul's client over these connections: sessions, keys and values, registrations.

        Its methods are coroutines and raise our errors. What it returns is untyped.
        """
        if self._api is None:
            from discovery.consul.api import Api

            self._api = Api(self)
        return self._api

    # --- the token ---------------------------------------------------------------------------------------------------

    async def follow_token(self, on_problem: Callable[[], None] = lambda: None) -> None:
        """Read the token again whenever its file changes, until cancelled: Consul does not refuse lists to one that may
        see too little, it shortens them. `on_problem` is called when `problems` are others."""
        if not self._token.path:
            return
        while True:
            await self._clock.sleep(_CREDENTIALS_SECONDS)
            if self._session is None or not await asyncio.to_thread(self._token.changed):
                continue
            before = self.problems()
            async with self._renewing:
                await self._renew_token()
            if self.problems() != before:
                on_problem()

    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with how the token is kept and sent, whatever Consul says to it."""
        found = [self._token.problem] if self._token.problem is not None else []
        if self._settings.sends_plain_token:
            detail = (
                "the token goes to it unencrypted: set consul.address to https:// and consul.ca_file, or "
                "consul.plain_token to true where nobody else listens on that network"
            )
            found.append(Problem("consul_plain_token", f"Consul at {self.host}", detail))
        return tuple(found)

    async def _token_changed(self, refused: str) -> bool:
        """Read the token again; whether it is another one than that which was refused."""
        async with self._renewing:
            if self._token.value == refused:
                with contextlib.suppress(TokenMissing):
                    await self._renew_token()
            return self._token.value != refused

    async def _renew_token(self) -> None:
        """Read the token. With another one all blocking queries are asked anew: by the old one Consul may answer less
        at the same index. Raises TokenMissing."""
        if await asyncio.to_thread(self._token.read) and self._session is not None:
            self._log.info("the token has been read again", file=self._token.path)
            now = asyncio.get_running_loop().time()
            waiting, self._waiting = self._waiting, set()
            for query in waiting:
                query.reschedule(now)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def services(
        self, datacenter: str, *, filter: str = "", index: int = 0, wait: float = 0.0, stale: bool = False
    ) -> Answer:
        """Names and tags of the services; with `filter` (of Consul's expressions) of those that have such instances."""
        query = {"filter": filter} if filter else {}
        return await self._read(
            "/v1/catalog/services",
            query,
            datacenter,
            what=f"services of {datacenter}",
            needs="node:read and service:read",
            index=index,
            wait=wait,
            stale=stale,
        )

    async def health(
        self, datacenter: str, service: str, *, index: int = 0, wait: float = 0.0, stale: bool = False
    ) -> Answer:
        """The instances of a service with their checks and nodes."""
        return await self._read(
            f"/v1/health/service/{_quoted(service)}",
            {},
            datacenter,
            what=f"instances of {service[:80]} in {datacenter}",
            needs="node:read and service:read",
            index=index,
            wait=wait,
            stale=stale,
        )

    async def checks(
        self, datacenter: str, state: str, *, index: int = 0, wait: float = 0.0, stale: bool = False
    ) -> Answer:
        """The checks that are "warning" or "critical"."""
        return await self._read(
            f"/v1/health/state/{state}",
            {},
            datacenter,
            what=f"{state} checks of {datacenter}",
            needs="node:read and service:read",
            index=index,
            wait=wait,
            stale=stale,
        )

    async def nodes(self, datacenter: str, *, stale: bool = False) -> Answer:
        """All nodes with their instances (discovery.consul.census); long, and Consul takes a moment for it."""
        return await self._read(
            "/v1/internal/ui/nodes",
            {},
            datacenter,
            what=f"nodes of {datacenter}",
            needs="node:read and service:read",
            index=0,
            wait=0.0,
            stale=stale,
        )

    async def key(self, datacenter: str, key: str, *, index: int = 0, wait: float = 0.0) -> Answer | None:
        """A key of the KV store as it is (a list of one, JSON); None where there is none."""
        try:
            return await self._read(
                f"/v1/kv/{_quoted(key)}",
                {},
                datacenter,
                what=f"the key {key}",
                needs="key:read",
                index=index,
                wait=wait,
                missing_ok=True,
            )
        except _Missing:
            return None

    async def read(
        self,
        path: str,
        query: Mapping[str, str],
        datacenter: str,
        *,
        what: str,
        needs: str,
        index: int = 0,
        wait: float = 0.0,
        stale: bool = False,
    ) -> Answer:
        """Any other read."""
        return await self._read(path, query, datacenter, what=what, needs=needs, index=index, wait=wait, stale=stale)

    async def _read(
        self,
        path: str,
        query: Mapping[str, str],
        datacenter: str,
        *,
        what: str,
        needs: str,
        index: int,
        wait: float,
        stale: bool = False,
        missing_ok: bool = False,
    ) -> Answer:
        params = dict(query)
        if datacenter:
            params["dc"] = datacenter
        if stale:
            params["stale"] = ""
        if index > 0 and wait > 0:
            blocking = params | {"index": str(index), "wait": f"{int(wait * 1000)}ms"}
            asking = asyncio.timeout(None)
            self._waiting.add(asking)
            try:
                async with asking:
                    return await self._get(path, blocking, wait * 17 / 16 + _GRACE_SECONDS, what, needs, missing_ok)
            except TimeoutError:  # only by `_renew_token`: what takes too long is Unreachable
                pass
            finally:
                self._waiting.discard(asking)
        async with self._reads:
            return await self._get(path, params, _READ_SECONDS, what, needs, missing_ok)

    async def _get(
        self, path: str, params: Mapping[str, str], seconds: float, what: str, needs: str, missing_ok: bool
    ) -> Answer:
        async with self._send("GET", path, params, seconds=seconds, what=what, needs=needs, missing_ok=missing_ok) as (
            response
        ):
            body = await self._body(response, what)
            return Answer(body, read_meta(response.headers))

    async def _body(self, response: aiohttp.ClientResponse, what: str) -> bytes:
        most = self._settings.max_bytes
        if (response.content_length or 0) > most:
            raise TooLarge(f"{what}: an answer of {response.content_length} bytes; at most {most} are read")
        parts, size = [], 0
        async for part in response.content.iter_any():
            size += len(part)
            if size > most:
                raise TooLarge(f"{what}: an answer of more than {most} bytes", hint="raise consul.max_bytes")
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # --- writing -----------------------------------------------------------------------------------------------------

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        what: str,
        needs: str,
        seconds: float = _READ_SECONDS,
        passes: Collection[int] = (404,),
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Any request: status, headers and body of an answer that is no error. Those of `passes` are none here."""
        async with self._send(
            method, path, query or {}, seconds=seconds, what=what, needs=needs, body=body, passes=passes
        ) as response:
            return response.status, response.headers, await self._body(response, what)

    # --- requests ----------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        seconds: float,
        what: str,
        needs: str,
        body: bytes | None = None,
        missing_ok: bool = False,
        passes: Collection[int] = (),
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response to a request that succeeded. A token that is refused is read again, once."""
        import aiohttp
        from yarl import URL

        url = URL(self._base + path, encoded=True).with_query(query)
        again = False
        while True:
            session = await self._connected()
            token = self._token.value
            headers = {"X-Consul-Token": token} if token else {}
            timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS)
            try:
                response = await session.request(
                    method,
                    url,
                    data=body,
                    headers=headers,
                    timeout=timeout,
                    allow_redirects=False,
                    server_hostname=self._settings.server_name or None,
                )
                async with response:
                    if response.status < 300 or response.status in passes:
                        yield response
                        return
                    if missing_ok and response.status == 404:
                        raise _Missing
                    data = await response.content.read(4096)
                    failure = translate(response.status, data, what=what, needs=needs, secret=token)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                if self._closed:
                    raise Unavailable("the connection to Consul is closed") from None
                await self._tls_failed(session, error)
                raise unreachable(error, self.host) from error
            if again or not isinstance(failure, Forbidden) or not await self._token_changed(token):
                raise failure
            again = True

    async def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            async with self._renewing:
                if self._closed:
                    raise Unavailable("the connection to Consul is closed")
                if self._session is None:
                    await self._renew_token()
                    self._session = self._open(await asyncio.to_thread(_tls, self._settings))
                    self._read_at = self._clock.monotonic()
        return self._session

    def _open(self, context: ssl.SSLContext | None) -> aiohttp.ClientSession:
        import aiohttp

        connector = aiohttp.TCPConnector(limit=self._settings.connections, ssl=context or True, keepalive_timeout=60.0)
        return aiohttp.ClientSession(
            connector=connector,
            read_bufsize=_BUFFER,
            auto_decompress=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "isthmus"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def _tls_failed(self, session: aiohttp.ClientSession, error: Exception) -> None:
        """Certificates are renewed on disk: they are read again when the server, or we, no longer accept them."""
        if not self._base.startswith("https") or isinstance(error, TimeoutError) or session is not self._session:
            return
        if self._clock.monotonic() >= self._read_at + _CREDENTIALS_SECONDS:
            await self._drop()

    async def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class _Missing(Exception):
    """404 where that is an answer."""


def read_meta(headers: Mapping[str, str]) -> Meta:
    """What the headers say; what is missing or garbled is taken for the better, as older versions lack some of them."""
    return Meta(
        index=_number(headers.get("X-Consul-Index", "")),
        known_leader=headers.get("X-Consul-KnownLeader", "true").lower() != "false",
        last_contact=_number(headers.get("X-Consul-LastContact", "")) / 1000,
        filtered=headers.get("X-Consul-Results-Filtered-By-ACLs", "").lower() == "true",
        default_deny=headers.get("X-Consul-Default-ACL-Policy", "").lower() == "deny",
        streamed=headers.get("X-Consul-Query-Backend", "").lower() == "streaming",
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _tls(settings: ConsulSettings) -> ssl.SSLContext | None:
    """In a thread: it reads files. Raises InvalidSettings."""
    if not settings.address.startswith("https://"):
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise InvalidSettings(f"consul.ca_file {settings.ca_file} cannot be used: {_plain(error)}") from error
    if settings.cert_file:
        try:
            context.load_cert_chain(settings.cert_file, settings.key_file)
        except (OSError, ssl.SSLError) as error:
            raise InvalidSettings(
                f"consul.cert_file {settings.cert_file} and its key cannot be used: {_plain(error)}"
            ) from error
    return context


def _plain(error: Exception) -> str:
    return str(getattr(error, "strerror", "") or getattr(error, "reason", "") or error)[:200]
