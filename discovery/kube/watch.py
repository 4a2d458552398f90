"""Keeps what an API server holds of one resource: list once, then watch for ever, and list again only when told to.

    list (pages) ─ replace ┐
    watch (lines) ─ put, delete ┴→ Handler, usually a Store, which tells its listeners which keys changed

A watch is resumed where it ended, also after hours. Only "410 Gone" leads to another list. A list never deletes because
it came back empty: a server that lacks all, or more than half, of what is held is asked again before it is believed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from typing import Generic, Protocol, TypeAlias, TypeVar

import msgspec

from discovery.kube.client import Page
from discovery.kube.errors import Forbidden, Gone, NotFound, ServerFailed, TooMany, parse_status, translate
from discovery.kube.resources import Resource
from federation.aio.backoff import Backoff
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.errors import IsthmusError
from federation.log import Logger
from federation.model.cluster import Problem

Key: TypeAlias = tuple[str, str]
"""(namespace, name); the namespace is empty for what has none."""

FEW = 10
"""Of up to this many objects some may vanish between two lists without a second look, though not all."""
_YIELD_EVERY = 100
_LASTING_SECONDS = 1.0
_ANY_RESOURCE = "Kubernetes"
"""Subject of problems that concern the whole API server."""
_QUIET_FAILURES = 1
"""So many failures in a row are ordinary: a server restarts, a connection is cut."""


class Object(Protocol):
    """What every decoded object says of itself."""

    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def resource_version(self) -> str: ...


T = TypeVar("T", bound=Object)
T_co = TypeVar("T_co", covariant=True)


class Decoder(Protocol[T_co]):
    """A msgspec.json.Decoder, or what makes something smaller of its result. Raises msgspec.MsgspecError."""

    def decode(self, data: bytes | msgspec.Raw, /) -> T_co: ...


class Handler(Protocol[T]):
    """Who is told what a Reflector sees. `objects` is what it holds now."""

    @property
    def objects(self) -> Mapping[Key, T]: ...

    def replace(self, objects: Iterable[T], resource_version: str, *, keep: Collection[Key] = ()) -> None:
        """After a complete list: hold exactly `objects`, and what is held of `keep` (there, but unreadable)."""
        ...

    def put(self, obj: T) -> None: ...
    def delete(self, namespace: str, name: str) -> None: ...


class Reader(Protocol):
    """What a Reflector needs of a KubeClient."""

    def pages(
        self, resource: Resource, *, namespace: str | None = None, label_selector: str = "", limit: int = 500
    ) -> AsyncIterator[Page]: ...

    def watch(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        resource_version: str,
        timeout_seconds: float,
    ) -> AsyncIterator[bytes]: ...


class Store(Generic[T]):
    """Holds objects by key and tells its listeners which keys changed, in the same turn of the event loop."""

    def __init__(self, on_change: Callable[[Collection[Key]], None] | None = None) -> None:
        self.objects: dict[Key, T] = {}
        self._listeners = [on_change] if on_change else []

    def listen(self, on_change: Callable[[Collection[Key]], None]) -> None:
        """Call `on_change` with the keys that were put, changed or deleted; never with none."""
        self._listeners.append(on_change)

    def replace(self, objects: Iterable[T], resource_version: str, *, keep: Collection[Key] = ()) -> None:
        """Hold exactly `objects` and what is held of `keep`."""
        old = self.objects
        new = {(obj.namespace, obj.name): obj for obj in objects}
        for key in keep:
            if key in old:
                new.setdefault(key, old[key])
        self.objects = new
        changed = old.keys() - new.keys()
        changed |= {key for key, obj in new.items() if old.get(key) is not obj and old.get(key) != obj}
        self._tell(changed)

    def put(self, obj: T) -> None:
        """Hold `obj` unless a newer version of it is held (an answer to a write may be ahead of the watch)."""
        key = (obj.namespace, obj.name)
        held = self.objects.get(key)
        if held is not None and older(obj.resource_version, held.resource_version):
            return
        self.objects[key] = obj
        if held != obj:
            self._tell((key,))

    def delete(self, namespace: str, name: str) -> None:
        if self.objects.pop((namespace, name), None) is not None:
            self._tell(((namespace, name),))

    def _tell(self, keys: Collection[Key]) -> None:
        if keys:
            for listener in self._listeners:
                listener(keys)


def older(version: str, than: str) -> bool:
    """Whether a resourceVersion is older; False where they are no numbers (Kubernetes 1.35 says that they are)."""
    return version.isdigit() and than.isdigit() and int(version) < int(than)


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _Any(msgspec.Struct):
    metadata: _Meta


_event = msgspec.json.Decoder(_Event)
_any = msgspec.json.Decoder(_Any)


class Reflector(Generic[T]):
    """Keeps `handler` in step with one resource. `synced` once it has a complete list; `problem` while it cannot."""

    def __init__(
        self,
        client: Reader,
        resource: Resource,
        decoder: Decoder[T],
        handler: Handler[T],
        *,
        clock: Clock,
        rng: random.Random,
        log: Logger,
        lists: asyncio.Semaphore,
        label_selector: str = "",
        namespace: str | None = None,
        resolve: Callable[[], Awaitable[Resource]] | None = None,
        page: int = 500,
        watch_seconds: float = 45.0,
        confirm_seconds: float = 2.0,
    ) -> None:
        """`lists` is shared: one list at a time is in memory. `resolve` says before each list which version of the
        resource is served, and raises NotFound where none is."""
        self.resource = resource
        self.synced: Latest[bool] = Latest(False)
        self.problem: Latest[Problem | None] = Latest(None)
        self.last_progress = clock.monotonic()
        """When the server last said something (monotonic)."""
        self.lists_done = 0
        self._client, self._decoder, self._handler = client, decoder, handler
        self._clock, self._rng, self._log, self._lists = clock, rng, log.bind(resource=str(resource)), lists
        self._selector, self._namespace, self._resolve = label_selector, namespace, resolve
        self._page, self._watch_seconds, self._confirm = page, watch_seconds, confirm_seconds
        self._version = ""
        self._backoff = Backoff(base=0.1, cap=5.0, uniform=rng.uniform)
        self._failures = 0
        self._unreadable: dict[Key, str] = {}

    @property
    def version(self) -> int:
        """The resourceVersion up to which everything has been seen; 0 before the first list."""
        return int(self._version) if self._version.isdigit() else 0

    async def run(self) -> None:
        """List and watch until cancelled; what goes wrong is a Problem and is tried again."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except Gone as error:
                self._log.info("resourceVersion too old, listing again", error=error.message)
                self._version = ""
                delay = self._rng.uniform(0.1, 2.0) if self._failures == 0 else self._backoff.next()
                self._failures += 1
                await self._clock.sleep(delay)
            except IsthmusError as error:
                await self._clock.sleep(self._failed(error))

    # --- listing -----------------------------------------------------------------------------------------------------

    async def _list(self) -> None:
        """A complete list into the handler. Raises what reading raises."""
        if self._resolve is not None:
            self.resource = await self._resolve()
        async with self._lists:
            objects, keep, version = await self._read()
            missing = self._missing(objects, keep)
            if missing:
                self._log.warning("a list lacks much of what is held; asking again", missing=missing)
                of = len(self._handler.objects)
                detail = f"a list lacks {missing} of {of} objects; held until a second one agrees"
                self.problem.set(Problem("removal_held", str(self.resource), detail))
                del objects
                await self._clock.sleep(self._confirm)
                objects, keep, version = await self._read()
            self._handler.replace(objects, version, keep=keep)
        self._version = version
        self.lists_done += 1
        self._backoff.reset()
        self._accepted()
        if not self.synced.value:
            self.synced.set(True)

    def _missing(self, objects: Collection[T], keep: Collection[Key]) -> int:
        """How many held objects a list lacks, if these are all, or more than half of more than FEW."""
        held = self._handler.objects
        there = sum((obj.namespace, obj.name) in held for obj in objects) + sum(key in held for key in keep)
        missing = len(held) - there
        return missing if there == 0 or (len(held) > FEW and missing > there) else 0

    async def _read(self) -> tuple[list[T], set[Key], str]:
        """(objects, keys of those that cannot be read, resourceVersion). What is held alike is taken from
        there, so that a second list needs little memory."""
        objects: list[T] = []
        version = ""
        self._unreadable.clear()
        held = self._handler.objects
        pages = self._client.pages(
            self.resource, namespace=self._namespace, label_selector=self._selector, limit=self._page
        )
        async with contextlib.aclosing(pages) as reading:  # type: ignore[type-var]
            async for page in reading:
                self.last_progress = self._clock.monotonic()
                version = page.resource_version
                for count, raw in enumerate(page.items):
                    if count % _YIELD_EVERY == _YIELD_EVERY - 1:
                        await asyncio.sleep(0)
                    obj = self._decode(raw)
                    if obj is None:
                        continue
                    known = held.get((obj.namespace, obj.name))
                    objects.append(known if known is not None and known == obj else obj)
        return objects, set(self._unreadable), version

    def _decode(self, raw: msgspec.Raw) -> T | None:
        """The object; None when it cannot be read, which is a Problem and leaves what is held as it is."""
        try:
            return self._decoder.decode(raw)
        except msgspec.MsgspecError as error:
            try:
                meta = _any.decode(raw).metadata
            except msgspec.MsgspecError:
                meta = _Meta()
            self._log.warning("object not readable", namespace=meta.namespace, name=meta.name, error=str(error))
            self._unreadable[(meta.namespace, meta.name)] = str(error)
            return None

    # --- watching ----------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Follow one watch to its end. Raises Gone, and what reading raises."""
        began = self._clock.monotonic()
        lines = self._client.watch(
            self.resource,
            namespace=self._namespace,
            label_selector=self._selector,
            resource_version=self._version,
            timeout_seconds=self._watch_seconds * self._rng.uniform(0.8, 1.0),
        )
        count = 0
        try:
            async with contextlib.aclosing(lines) as reading:  # type: ignore[type-var]
                async for line in reading:
                    self.last_progress = self._clock.monotonic()
                    if not line:
                        self._accepted()
                        continue
                    self._take(line)
                    count += 1
                    if count % _YIELD_EVERY == 0:
                        await asyncio.sleep(0)
        finally:
            lasted = self._clock.monotonic() - began
            if lasted >= _LASTING_SECONDS:
                self._backoff.reset()
        self.last_progress = self._clock.monotonic()
        if lasted < _LASTING_SECONDS:
            await self._clock.sleep(self._backoff.next())  # a server that ends every watch at once

    def _take(self, line: bytes) -> None:
        """One event of a watch. Raises Gone, and what an ERROR says."""
        try:
            event = _event.decode(line)
            if event.type == "ERROR":
                raise self._error(event.object)
            if event.type == "BOOKMARK":
                self._bookmark(_any.decode(event.object).metadata.resource_version)
            elif event.type == "DELETED":
                self._deleted(_any.decode(event.object).metadata)
            else:
                self._changed(event.object)
        except msgspec.MsgspecError as error:
            raise ServerFailed(f"no event of a watch of {self.resource}: {error}") from error

    def _bookmark(self, version: str) -> None:
        if older(version, self._version):  # etcd was restored: what happened since would never be told
            raise Gone(f"watch {self.resource}: the server is at {version}, we are at {self._version}")
        self._version = version or self._version

    def _deleted(self, meta: _Meta) -> None:
        if not older(meta.resource_version, self._version):
            self._unreadable.pop((meta.namespace, meta.name), None)
            self._handler.delete(meta.namespace, meta.name)
            self._version = meta.resource_version or self._version

    def _changed(self, raw: msgspec.Raw) -> None:
        obj = self._decode(raw)
        version = _any.decode(raw).metadata.resource_version if obj is None else obj.resource_version
        if not older(version, self._version):
            if obj is not None:
                if self._unreadable:
                    self._unreadable.pop((obj.namespace, obj.name), None)
                self._handler.put(obj)
            self._version = version or self._version

    def _error(self, raw: msgspec.Raw) -> IsthmusError:
        code = parse_status(raw).code or 500
        return translate(code, raw, verb="watch", resource=self.resource, what=f"watch {self.resource}")

    # --- how it goes -------------------------------------------------------------------------------------------------

    def _accepted(self) -> None:
        """The server has begun to answer."""
        if self._failures:
            self._log.info("watching again")
        self._failures = 0
        self._tell(None)

    def _failed(self, error: IsthmusError) -> float:
        """Note it; the delay before the next attempt."""
        self._failures += 1
        lasting = isinstance(error, Forbidden) or (isinstance(error, NotFound) and error.kind_missing)
        if isinstance(error, NotFound) and error.kind_missing and self._version:
            self._version = ""  # the version that was watched is no longer served
        if self._failures > _QUIET_FAILURES or lasting or not self.synced.value:
            self._tell(error)
        delay = self._backoff.next()
        return max(delay, error.retry_after) if isinstance(error, TooMany) else delay

    def _tell(self, error: IsthmusError | None) -> None:
        problem = None
        if error is not None:
            subject = str(self.resource) if isinstance(error, Forbidden | NotFound) else _ANY_RESOURCE
            problem = Problem(error.error_code, subject, str(error))
        elif self._unreadable:
            (namespace, name), why = next(iter(self._unreadable.items()))
            more = f" and {len(self._unreadable) - 1} more" if len(self._unreadable) > 1 else ""
            problem = Problem(
                "object_unreadable", str(self.resource), f"{namespace}/{name}{more}: {why}; what was known of it counts"
            )
        held = self.problem.value
        if problem is not None and held is not None and problem.subject == _ANY_RESOURCE and problem.code == held.code:
            return  # the same fault has many faces: refused, reset, timed out
        if problem != held:
            if problem is not None:
                self._log.warning("reading Kubernetes", code=problem.code, detail=problem.detail)
            self.problem.set(problem)
