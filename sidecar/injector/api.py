"""The few things that the injector asks of its API server, as the service account of its pod.

A full client would take more memory than all else here (docs/adr/0028-injection.md).
"""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from federation.errors import AlreadyExists, Conflict, Denied, IsthmusError, NotFound, StorageFailed, Unavailable
from sidecar.injector.settings import ApiSettings

SECONDS = 10.0
_JSON = "application/json"
PATCH = "application/json-patch+json"
METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""To be sent as Accept: lists without what the objects are about."""
_ERRORS: dict[int, type[IsthmusError]] = {401: Denied, 403: Denied, 404: NotFound, 422: Conflict}


class Api:
    """Use `async with Api(settings) as api`."""

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Api:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = _JSON,
        accept: str = _JSON,
        form: Any = Any,
    ) -> Any:
        """The reply's JSON, of which a `form` (a msgspec.Struct) takes its fields alone.

        Raises Denied, NotFound, AlreadyExists, Conflict, Unavailable, StorageFailed."""
        assert self._session is not None, "used outside of its block"  # noqa: S101
        headers = {"Accept": accept, "Authorization": f"Bearer {await asyncio.to_thread(self._token)}"}
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            async with self._session.request(
                method,
                self._settings.server.rstrip("/") + path,
                data=json.dumps(body).encode() if body is not None else None,
                headers=headers,
                ssl=await asyncio.to_thread(self._context),
                allow_redirects=False,
            ) as response:
                data = await response.read()
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise Unavailable(
                f"the API server at {self._settings.server} cannot be reached: {text}", code="kube_unreachable"
            ) from error
        if status >= 300:
            raise _refused(status, f"{method} {path.partition('?')[0]}", data)
        try:
            return msgspec.json.decode(data, type=form)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Unavailable(f"{method} {path}: the API server's answer is not understood: {error}") from error

    def _token(self) -> str:
        try:
            return Path(self._settings.token_file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StorageFailed(f"cannot read the service account's token {self._settings.token_file}") from error

    def _context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._settings.ca_file)
        except OSError as error:
            raise StorageFailed(f"cannot read the API server's authority {self._settings.ca_file}") from error


def _refused(status: int, what: str, data: bytes) -> IsthmusError:
    try:
        told = json.loads(data)
        message, reason = str(told.get("message", "")), str(told.get("reason", ""))
    except (ValueError, AttributeError):
        message, reason = data[:200].decode(errors="replace"), ""
    text = f"{what}: {status} {' '.join(message.split())}"
    if status == 409:
        return AlreadyExists(text) if reason == "AlreadyExists" else Conflict(text)
    return _ERRORS.get(status, Unavailable)(text)
