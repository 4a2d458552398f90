"""A small client for tests and the demo: objects of any kind as plain dicts or YAML, by the API's own paths.

Which resource a kind is, the API server is asked once per group and version. What the server refuses is raised as an
error of ours with its status; no object is cached, so what is read is what is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import yaml
from kubernetes_asyncio.client import ApiClient
from kubernetes_asyncio.config import new_client_from_config

from clusters.waiting import DEADLINE, START, until
from federation.errors import (
    AlreadyExists,
    Conflict,
    Denied,
    InvalidInput,
    IsthmusError,
    NotFound,
    TimedOut,
    Unavailable,
)

Object = dict[str, Any]
"""A Kubernetes object as its JSON has it."""

FIELD_MANAGER = "isthmus-harness"

_JSON, _APPLY, _MERGE = "application/json", "application/apply-patch+yaml", "application/merge-patch+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """Where objects of one kind are found."""

    version: str
    plural: str
    namespaced: bool

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """The path of one object, of all of a namespace, or (neither given) of all there are."""
        parts = ["api" if "/" not in self.version else "apis", self.version]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", quote(namespace)]
        parts.append(self.plural)
        parts += [quote(part) for part in (name, subresource) if part is not None]
        return "/" + "/".join(parts)


class KubeClient:
    """Use `async with connect(kubeconfig) as client`."""

    def __init__(self, api: ApiClient) -> None:
        self.api = api
        self._resources: dict[tuple[str, str], Resource] = {}

    # --- any request -------------------------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, object] | None = None,
        content_type: str = _JSON,
        timeout: float = 30.0,
    ) -> Any:
        """The reply's JSON, or its text where it is none. Raises the error of ours that fits the status."""
        try:
            async with asyncio.timeout(timeout):
                response = await self.api.call_api(
                    path,
                    method,
                    query_params=list((query or {}).items()),
                    header_params={"Content-Type": content_type, "Accept": "application/json, */*"},
                    body=body,
                    auth_settings=["BearerToken"],
                    _preload_content=False,
                )
                async with response:
                    data = await response.read()
        except TimeoutError as error:
            raise TimedOut(f"{method} {path}: no answer in {timeout:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{method} {path}: {error}") from error
        if response.status >= 300:
            raise refused(response.status, f"{method} {path}", data)
        try:
            return json.loads(data)
        except ValueError:
            return data.decode(errors="replace")

    async def resource(self, version: str, kind: str) -> Resource:
        """Where objects of `kind` are, such as ("discovery.k8s.io/v1", "EndpointSlice"); raises NotFound."""
        if (version, kind) not in self._resources:
            listed = await self.request("GET", f"/{'apis' if '/' in version else 'api'}/{version}")
            for one in listed["resources"]:
                if "/" not in one["name"]:
                    found = Resource(version=version, plural=one["name"], namespaced=one["namespaced"])
                    self._resources[version, one["kind"]] = found
        try:
            return self._resources[version, kind]
        except KeyError:
            raise NotFound(f"the API server has no {kind} of {version}", code="no_such_kind") from None

    # --- objects -----------------------------------------------------------------------------------------------------

    async def apply(
        self, *objects: Object | str, manager: str = FIELD_MANAGER, subresource: str | None = None
    ) -> list[Object]:
        """Server-side apply of each object (dicts, or YAML with one or more documents); returns what is there then."""
        query = {"fieldManager": manager, "force": "true"}
        done = []
        for one in parse(objects):
            path = await self._path(one, subresource)
            done.append(await self.request("PATCH", path, one, query=query, content_type=_APPLY))
        return done

    async def create(self, *objects: Object | str) -> list[Object]:
        """POST each object; raises AlreadyExists. `generateName` works."""
        done = []
        for one in parse(objects):
            resource = await self.resource(one["apiVersion"], one["kind"])
            namespace = one["metadata"].get("namespace", "default")
            done.append(await self.request("POST", resource.path(namespace), one))
        return done

    async def replace(self, one: Object, *, subresource: str | None = None) -> Object:
        """PUT the object with the resourceVersion that it carries; raises Conflict when it is no longer that."""
        done: Object = await self.request("PUT", await self._path(one, subresource), one)
        return done

    async def get(self, version: str, kind: str, name: str, namespace: str | None = None) -> Object:
        """Raises NotFound."""
        found: Object = await self.request("GET", (await self.resource(version, kind)).path(namespace, name))
        return found

    async def list(self, version: str, kind: str, namespace: str | None = None, **query: object) -> list[Object]:
        """All objects of the kind, in one namespace or everywhere; `labelSelector=...` and the like narrow it."""
        resource = await self.resource(version, kind)
        found: list[Object] = (await self.request("GET", resource.path(namespace), query=query))["items"]
        return found

    async def patch(
        self,
        version: str,
        kind: str,
        name: str,
        namespace: str | None = None,
        *,
        merge: Mapping[str, object],
        subresource: str | None = None,
    ) -> Object:
        """JSON merge patch; raises NotFound, Conflict."""
        path = (await self.resource(version, kind)).path(namespace, name, subresource)
        done: Object = await self.request("PATCH", path, dict(merge), content_type=_MERGE)
        return done

    async def delete(
        self, version: str, kind: str, name: str, namespace: str | None = None, *, propagation: str = "Background"
    ) -> None:
        """Ask for the deletion; finalizers and garbage collection go their own way. Raises NotFound."""
        path = (await self.resource(version, kind)).path(namespace, name)
        await self.request("DELETE", path, {"propagationPolicy": propagation})

    async def delete_all(self, version: str, kind: str, namespace: str) -> None:
        """Delete every object of the kind in the namespace by one request."""
        await self.request("DELETE", (await self.resource(version, kind)).path(namespace))

    async def _path(self, one: Object, subresource: str | None) -> str:
        resource = await self.resource(one["apiVersion"], one["kind"])
        metadata = one["metadata"]
        return resource.path(metadata.get("namespace", "default"), metadata["name"], subresource)

    # --- namespaces, CRDs and accounts -------------------------------------------------------------------------------

    async def create_namespace(self, name: str, **labels: str) -> None:
        """Raises AlreadyExists."""
        metadata = {"name": name, "labels": labels}
        await self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})

    async def remove_namespace(self, name: str, *, kinds: Iterable[tuple[str, str]] = ()) -> None:
        """Delete the namespace, if there is one, and the objects of `kinds` in it, faster than its controller does.

        Objects of other kinds would be orphaned: for them `delete` the namespace and let the controller do it.
        """
        path = (await self.resource("v1", "Namespace")).path(None, name)
        # First of all the namespace: nothing can be created in one that is being deleted.
        try:
            await self.request("DELETE", path)
        except NotFound:
            return
        await asyncio.gather(*(self.delete_all(version, kind, name) for version, kind in kinds))
        empty = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {"finalizers": []}}
        with contextlib.suppress(NotFound):  # the controller was faster
            await self.request("PUT", f"{path}/finalize", empty)

    async def install_crds(self, *manifests: Object | str) -> None:
        """Apply CustomResourceDefinitions and wait until lists of their kinds are answered in every version."""
        documents = parse(manifests)
        await self.apply(*documents)
        for one in documents:
            spec = one["spec"]
            for version in spec["versions"]:
                path = f"/apis/{spec['group']}/{version['name']}/{spec['names']['plural']}"
                await self.until(partial(self.request, "GET", path, query={"limit": 1}))

    async def token(
        self, namespace: str, account: str, *, seconds: int = 3600, audiences: Iterable[str] = (), pod: str = ""
    ) -> str:
        """A token of a service account (TokenRequest), bound to its Pod `pod` if that is named."""
        spec: dict[str, Any] = {"expirationSeconds": seconds, "audiences": list(audiences)}
        if pod:
            uid = (await self.get("v1", "Pod", pod, namespace))["metadata"]["uid"]
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = f"/api/v1/namespaces/{quote(namespace)}/serviceaccounts/{quote(account)}/token"
        token: str = (await self.request("POST", path, body))["status"]["token"]
        return token

    # --- waiting and watching ----------------------------------------------------------------------------------------

    async def until(self, condition: Callable[[], Awaitable[Any]], *, timeout: float = DEADLINE, what: str = "") -> Any:
        """As `clusters.waiting.until`, but NotFound and Unavailable count as not yet; the last of them is the hint."""
        last: IsthmusError | None = None

        async def tolerant() -> Any:
            nonlocal last
            try:
                return await condition()
            except (NotFound, Unavailable) as error:
                last = error
                return None

        try:
            return await until(tolerant, seconds=timeout, what=what)
        except TimedOut as error:
            raise TimedOut(error.message, hint=last.message if last else "") from last

    async def gone(
        self, version: str, kind: str, name: str, namespace: str | None = None, *, timeout: float = START
    ) -> None:
        """Wait until the object does not exist; raises TimedOut."""

        async def missing() -> bool:
            try:
                await self.get(version, kind, name, namespace)
            except NotFound:
                return True
            return False

        await until(missing, seconds=timeout, what=f"the end of {kind} {name}")


@asynccontextmanager
async def connect(kubeconfig: Path) -> AsyncIterator[KubeClient]:
    """A client for the kubeconfig's current context."""
    api = await new_client_from_config(config_file=str(kubeconfig), persist_config=False)
    async with api:
        yield KubeClient(api)


def parse(objects: Iterable[Object | str]) -> list[Object]:
    """Dicts as they are, YAML as the documents in it; raises InvalidInput for what is no Kubernetes object."""
    found: list[Object] = []
    for one in objects:
        found += [one] if isinstance(one, dict) else [document for document in yaml.safe_load_all(one) if document]
    for one in found:
        if not isinstance(one, dict) or not {"apiVersion", "kind", "metadata"} <= one.keys():
            raise InvalidInput(f"no Kubernetes object: {str(one)[:100]}")
    return found


class Gone(IsthmusError):
    """410: the resourceVersion or continue token is older than what the server remembers."""

    code = "gone"


def refused(status: int, what: str, data: bytes) -> IsthmusError:
    """The error of ours for what the API server answered."""
    try:
        told = json.loads(data)
        message, reason = str(told.get("message", "")), str(told.get("reason", ""))
    except (ValueError, AttributeError):
        message, reason = data.decode(errors="replace")[:300], ""
    text = f"{what}: {status} {message}"
    if status == 409:
        return AlreadyExists(text) if reason == "AlreadyExists" else Conflict(text)
    kinds: dict[int, type[IsthmusError]] = {401: Denied, 403: Denied, 404: NotFound, 410: Gone, 429: Unavailable}
    return kinds.get(status, Unavailable if status >= 500 else InvalidInput)(text)
