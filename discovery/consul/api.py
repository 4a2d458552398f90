"""py-consul's client over our connections: its knowledge of paths, parameters and payloads, our transport.

Its own transport (consul.aio) shows of the headers nothing but the index, has no limit of what it reads, takes the
token from the environment before the one it was given, and reads neither a token nor certificates again. Of its
methods, `catalog.register` must not be given a token: it would write it into the URL.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from consul import base
from consul.exceptions import ConsulException, NotFound

from discovery.consul.errors import Missing, Refused

if TYPE_CHECKING:
    from discovery.consul.client import ConsulClient

_Callback = Callable[[base.Response], Any]


class _Transport(base.HTTPClient):
    def __init__(self, client: ConsulClient) -> None:
        super().__init__()
        self._client = client

    async def _ask(
        self, callback: _Callback, method: str, path: str, params: Iterable[tuple[str, Any]] | None, data: str | bytes
    ) -> Any:
        body = data.encode() if isinstance(data, str) else data
        status, headers, answer = await self._client.send(
            method,
            path,
            query={key: str(value) for key, value in params or ()},
            body=body or None,
            what=f"{method} {path}",
            needs="the right for it",
        )
        try:
            return callback(base.Response(status, headers, answer.decode("utf-8", "replace")))
        except NotFound as error:
            raise Missing(f"{method} {path}: {str(error)[:200]}") from error
        except ConsulException as error:
            raise Refused(f"{method} {path}: {str(error)[:200]}") from error

    def get(
        self,
        callback: _Callback,
        path: str,
        params: Any = None,
        headers: dict[str, str] | None = None,
        raw: bool = False,
    ) -> Coroutine[Any, Any, Any]:
        return self._ask(callback, "GET", path, params, b"")

    def put(
        self,
        callback: _Callback,
        path: str,
        params: Any = None,
        data: str | bytes = "",
        headers: dict[str, str] | None = None,
    ) -> Coroutine[Any, Any, Any]:
        return self._ask(callback, "PUT", path, params, data)

    def delete(
        self,
        callback: _Callback,
        path: str,
        params: Any = None,
        data: str | bytes = "",
        headers: dict[str, str] | None = None,
    ) -> Coroutine[Any, Any, Any]:
        return self._ask(callback, "DELETE", path, params, data)

    def post(
        self,
        callback: _Callback,
        path: str,
        params: Any = None,
        data: str = "",
        headers: dict[str, str] | None = None,
    ) -> Coroutine[Any, Any, Any]:
        return self._ask(callback, "POST", path, params, data)

    def close(self) -> None:
        """The connections are the client's."""


class Api(base.Consul):
    """`session`, `kv`, `catalog`, `agent` … of py-consul; every method is a coroutine that raises our errors."""

    def __init__(self, client: ConsulClient) -> None:
        self._client = client
        super().__init__(host="127.0.0.1", port=8500, scheme="http", verify=True)  # nothing from the environment
        self.token = None  # nor this: the client has it

    def http_connect(
        self, host: str, port: int, scheme: str, verify: bool | str = True, cert: object = None
    ) -> _Transport:
        return _Transport(self._client)
