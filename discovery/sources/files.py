"""The file source: a folder of ordinary Kubernetes manifests, read and followed.

Arrives: the kernel's word that a file changed (discovery.sources.inotify), and a slow look at the whole folder as
safety net. Leaves: SourceState for discovery.report and discovery.view. Only the file that changed is read, only the
services in it are built again. A file that is bad keeps what it last held (discovery.sources.parse), files that vanish
in numbers are held until a second look (discovery.sources.removals).
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from discovery.sources import cache, exporting
from discovery.sources.base import Preview, SourceState, no_service, not_offered
from discovery.sources.convert import uncarried
from discovery.sources.inotify import FolderWatch
from discovery.sources.manifests import CONSUMERS, MANAGED_BY, Placed, Service, ServiceExport, grants
from discovery.sources.objects import Objects
from discovery.sources.parse import ManifestError, Parsed, parse
from discovery.sources.removals import Removals
from discovery.state import Saver, load_or_none
from federation.aio.clock import Clock
from federation.aio.files import write_atomic
from federation.aio.latest import Latest
from federation.aio.tasks import cancel
from federation.errors import Conflict, StorageFailed
from federation.log import Logger
from federation.model.cluster import Problem
from federation.model.ids import ServiceName
from federation.model.service import Grant, Locality
from federation.model.service import Service as Claim

SUFFIXES = (".yaml", ".yml", ".json")
MAX_FILES = 50_000
_IN_THREAD_BYTES = 128 * 1024
_SETTLE_SECONDS = 0.25
_YIELD_EVERY = 20
_PAUSE_EVERY, _PAUSE_SECONDS = 200, 0.002


@dataclass(slots=True)
class _File:
    """What is known of one file. `seen` was last looked at, well or badly; `problem` is why it was bad."""

    seen: cache.Fingerprint | None = None
    manifests: tuple[Placed, ...] = ()
    ignored: int = 0
    problem: Problem | None = None

    def cached(self) -> cache.Saved:
        """What the cache keeps: a file that is bad or empty now is read again at the next start."""
        unsure = self.problem is not None or self.ignored < 0
        return cache.encode_file(cache.CachedFile(None if unsure else self.seen, max(0, self.ignored), self.manifests))


class FileSource:
    """Source over one folder; subfolders and names that begin with a dot are not read."""

    def __init__(
        self,
        folder: Path,
        *,
        cache_path: Path,
        locality: Locality,
        clock: Clock,
        log: Logger,
        poll_seconds: float = 5.0,
        confirm_seconds: float = 5.0,
        max_bytes: int = 16 << 20,
        cache_seconds: float = 10.0,
    ) -> None:
        self.state: Latest[SourceState] = Latest(SourceState())
        self._folder, self._clock, self._log = folder, clock, log
        self._poll, self._max_bytes = poll_seconds, max_bytes
        self._files: dict[str, _File] = {}
        self._cached: dict[str, cache.Saved] = {}
        self._removals = Removals(confirm_seconds=confirm_seconds)
        self._unsettled: dict[str, cache.Fingerprint] = {}
        self._folder_problem: Problem | None = None
        self._watch_problem: Problem | None = None
        self._device: int | None = None
        self._lock = asyncio.Lock()
        self._events = asyncio.Event()
        self._named: set[str] = set()
        self._all = False
        self._look_wanted = asyncio.Event()
        self._moved: set[str] | None = None  # names that were looked at while the whole folder is being surveyed
        self._cache_path = cache_path
        self._objects = Objects(locality=locality)
        self._locality = locality
        self._saver = Saver(
            cache_path, self._dump, interval=cache_seconds, clock=clock, log=log, on_problem=self._publish
        )
        self._bad_files: set[str] = set()
        self._dirty: set[ServiceName] = set()
        self._listed = False
        self._next_look = 0.0
        self._timer: asyncio.Task[None] | None = None
        self._timer_for = 0.0

    @property
    def ignored(self) -> int:
        """Objects of kinds that are not used."""
        return sum(max(0, f.ignored) for f in self._files.values())

    async def run(self) -> None:
        """Read the folder and follow it, until cancelled."""
        watch = FolderWatch(self._folder, self._on_event)
        self._load()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._saver.run(), name="files-cache")
                self._start(watch)
                await self._look(None, settled=True)
                tasks.create_task(self._look_at_all(), name="files-look")
                while True:
                    await self._wait()
                    named, everything = self._named, self._all
                    self._named, self._all = set(), False
                    if not watch.alive:
                        self._start(watch)
                        everything = True
                    if named:
                        await self._look(named, settled=True)
                    if everything or self._clock.monotonic() >= self._next_look:
                        self._next_look = self._clock.monotonic() + self._poll
                        self._look_wanted.set()
        finally:
            watch.close()
            await cancel(self._timer)
            await self._saver.flush()

    @property
    def what(self) -> str:
        return f"the manifests in {self._folder}"

    def has_namespace(self, namespace: str) -> bool:
        """There are no namespaces to be missing: they are parts of names."""
        return True

    async def export(self, name: ServiceName, wanted: tuple[Grant, ...]) -> tuple[str, bool]:
        """Write a ServiceExport for `name`; (path, changed). Raises NotFound, Conflict, Unavailable, StorageFailed."""
        async with self._lock:
            file, data, _ = self._exporting(name, wanted)
            if data is not None:
                await asyncio.to_thread(write_atomic, self._folder / file, data, mode=0o644)
        if data is not None:
            await self._look({file}, settled=True)
        return str(self._folder / file), data is not None

    async def preview(self, name: ServiceName, wanted: tuple[Grant, ...] | None) -> Preview:
        """As `export` or `unexport`, without the last step."""
        async with self._lock:
            if wanted is None:
                path, _ = await self._withdrawing(name)
                return Preview(where=str(path or ""), changed=path is not None)
            file, data, claim = self._exporting(name, wanted)
            found = self._objects.find("Service", name)
            assert found is not None  # noqa: S101 - it was found above
            assert isinstance(found[1].manifest, Service)  # noqa: S101 - asked for by kind
            return Preview(
                where=str(self._folder / file),
                changed=data is not None,
                claim=claim,
                uncarried=uncarried(found[1].manifest),
            )

    def _exporting(self, name: ServiceName, wanted: tuple[Grant, ...]) -> tuple[str, bytes | None, Claim]:
        """(file, its text, what would be offered then); no text where nothing is to be written."""
        if self._objects.find("Service", name) is None:
            raise no_service(name, self.state.value, what=str(self._folder))
        found = self._objects.find("ServiceExport", name)
        file, data = exporting.file_name(name), None
        created = datetime.fromtimestamp(self._clock.wall_ns() // 10**9, UTC)
        if found is not None:
            file, placed = found
            created = placed.manifest.metadata.creation_timestamp or created
            if grants(_consumers(placed)) != wanted and (
                (placed.manifest.metadata.labels or {}).get(MANAGED_BY) != "isthmus"
                or len(self._objects.holds(file)) > 1
            ):
                raise Conflict(f"{name} is exported by {file}:{placed.line} for other consumers", hint="edit that file")
        if found is not None and grants(_consumers(found[1])) == wanted:
            manifest = found[1].manifest
        else:
            data = exporting.manifest(name, wanted, created=created.strftime("%Y-%m-%dT%H:%M:%SZ"))
            manifest = parse(data).manifests[0].manifest
        assert isinstance(manifest, ServiceExport)  # noqa: S101 - it is ours, or was asked for by kind
        claim, problems = self._objects.preview(name, manifest, where=f"{file}:1")
        if claim is None:
            raise not_offered(name, problems[0])
        return file, data, claim

    async def unexport(self, name: ServiceName) -> tuple[str, bool]:
        """Remove the ServiceExport of `name`; (path, changed). Raises as `export`."""
        async with self._lock:
            path, rest = await self._withdrawing(name)
            if path is None:
                return "", False
            try:
                if rest is None:
                    await asyncio.to_thread(path.unlink)
                else:
                    await asyncio.to_thread(write_atomic, path, rest, mode=0o644)
            except OSError as error:
                raise StorageFailed(f"cannot change {path}: {error.strerror}") from error
        await self._look({path.name}, settled=True, commanded=True)
        return str(path), True

    async def _withdrawing(self, name: ServiceName) -> tuple[Path | None, bytes | None]:
        """(path, its text without the export), no path where there is no export, no text where nothing is left."""
        found = self._objects.find("ServiceExport", name)
        if found is None:
            if self._objects.find("Service", name) is None:
                raise no_service(name, self.state.value, what=str(self._folder))
            return None, None
        file, placed = found
        path = self._folder / file
        try:
            return path, exporting.without(await asyncio.to_thread(path.read_bytes), placed)
        except ValueError as error:
            raise Conflict(
                f"the ServiceExport at {file}:{placed.line} cannot be cut out: {error}", hint="edit that file"
            ) from error
        except OSError as error:
            raise StorageFailed(f"cannot change {path}: {error.strerror}") from error

    # --- following ---------------------------------------------------------------------------------------------------

    def _on_event(self, names: set[str] | None) -> None:
        if names is None:
            self._all = True
        else:
            self._named |= {n for n in names if _is_manifest(n)}
            self._all = self._all or any(n.startswith("..") for n in names)
            if not self._named and not self._all:
                return
        self._events.set()

    async def _look_at_all(self) -> None:
        """The slow looks at the whole folder: beside the quick ones, which must not wait for them."""
        while True:
            await self._look_wanted.wait()
            self._look_wanted.clear()
            await self._look(None, settled=False)
            self._events.set()  # the next look may be due sooner than `_wait` has in mind

    async def _wait(self) -> None:
        """Until something is reported, a second look is due, or the folder is due for its slow look."""
        if self._timer is None or self._timer.done() or self._timer_for != self._next_look:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_for = self._next_look
            self._timer = asyncio.create_task(self._look_later(self._next_look), name="files-timer")
        await self._events.wait()
        self._events.clear()

    async def _look_later(self, due: float) -> None:
        await self._clock.sleep(max(0.0, due - self._clock.monotonic()))
        self._events.set()

    def _start(self, watch: FolderWatch) -> None:
        try:
            watch.start()
        except OSError as error:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                detail = f"changes are found every {self._poll:g} s only: {error.strerror or error}"
                self._watch_problem = Problem("watch_unavailable", str(self._folder), detail)
        else:
            self._watch_problem = None

    async def _look(self, names: set[str] | None, *, settled: bool, commanded: bool = False) -> None:
        """Look at `names`, or at the whole folder. `settled`: their writers have closed them; otherwise a change is
        read when two looks find it equal, because it could be half written."""
        whole = names is None
        survey: tuple[set[str], set[str]] | None = None
        if names is None:
            self._moved = set()
            survey = await self._survey()
        elif self._moved is not None:
            self._moved |= names
        async with self._lock:
            absent: set[str] = set(self._removals.held)
            changed = False
            if names is None:
                moved, self._moved = self._moved or set(), None
                if survey is None:
                    self._schedule()
                    self._publish()
                    return
                # What the kernel told of meanwhile may have come or gone behind the survey's back: it is asked again.
                present, names = survey[0], survey[1] | moved
                absent = self._files.keys() - present - moved
                self._unsettled = {n: f for n, f in self._unsettled.items() if n in names}
            for count, name in enumerate(sorted(names)):
                if count % _YIELD_EVERY == _YIELD_EVERY - 1:
                    await asyncio.sleep(0)
                there = await self._examine(name, settled=settled)
                if there is None:
                    absent.add(name)
                    continue
                absent.discard(name)
                changed |= there
            absent &= self._files.keys()
            believed = (
                absent & names
                if commanded
                else self._removals.look(
                    absent, present=len(self._files) - len(absent), now=self._clock.monotonic(), whole=whole
                )
            )
            for name in believed:
                self._forget(name)
            if changed or believed:
                self._saver.touch()
            self._listed = self._listed or whole
            self._schedule(looked=whole)
            self._publish()

    def _schedule(self, *, looked: bool = True) -> None:
        """When the whole folder is looked at next: sooner while something waits for a second look."""
        now = self._clock.monotonic()
        if looked:
            self._next_look = now + (min(1.0, self._poll) if self._folder_problem else self._poll)
        if (due := self._removals.due()) is not None:
            self._next_look = min(self._next_look, max(due, now + 0.05))
        if self._unsettled:
            self._next_look = min(self._next_look, now + _SETTLE_SECONDS)

    async def _survey(self) -> tuple[set[str], set[str]] | None:
        """(manifests in the folder, those that look different or are held); None when the folder cannot be read,
        which deletes nothing."""
        try:
            present, different, device = await asyncio.to_thread(self._scan)
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                code, what = "folder_gone", "does not exist"
            else:
                code, what = "folder_unreadable", f"cannot be read: {error.strerror}"
            rest = (
                "its last content counts until it is back" if self._files else "nothing is reported before it is there"
            )
            self._folder_problem = Problem(code, str(self._folder), f"{what}; {rest}")
            return None
        if not present and self._files and self._device not in (None, device):
            detail = "is empty and on another device (unmounted?); its last content counts until it is back"
            self._folder_problem = Problem("folder_gone", str(self._folder), detail)
            return None
        self._device = device
        self._folder_problem = None
        if len(present) > MAX_FILES:
            detail = f"{len(present)} files; the first {MAX_FILES} are read"
            self._folder_problem = Problem("too_many_files", str(self._folder), detail)
            present = set(sorted(present)[:MAX_FILES])
        return present, different & present

    def _scan(self) -> tuple[set[str], set[str], int]:
        """In a thread: the manifests there are, and those whose fingerprint is not the known one.

        It only reads one file's entry at a time, and pauses: a change that the kernel reports meanwhile must not wait.
        """
        present, different = set(), set()
        with os.scandir(self._folder) as entries:
            for count, entry in enumerate(entries):
                if count % _PAUSE_EVERY == _PAUSE_EVERY - 1:
                    time.sleep(_PAUSE_SECONDS)
                if not _is_manifest(entry.name):
                    continue
                try:
                    if entry.is_dir():
                        continue
                    known = self._files.get(entry.name)
                    if known is None or _is_empty(known) or _fingerprint(entry.stat()) != known.seen:
                        different.add(entry.name)
                except FileNotFoundError:
                    continue
                except OSError:
                    different.add(entry.name)  # its reading says what is wrong
                present.add(entry.name)
        return present, different, os.stat(self._folder).st_dev

    async def _examine(self, name: str, *, settled: bool) -> bool | None:
        """Read `name` if it changed: True when what it holds changed, None when it is missing or empty."""
        path = self._folder / name
        known = self._files.get(name)
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._bad(name, None, f"{name}:1", "file_unreadable", f"cannot be read: {error.strerror}")
            return False
        seen = _fingerprint(status)
        if known is not None and known.seen == seen:
            self._unsettled.pop(name, None)
            return None if _is_empty(known) else False
        if not settled and self._unsettled.get(name) != seen:
            self._unsettled[name] = seen
            return None if known is not None and _is_empty(known) else False
        self._unsettled.pop(name, None)
        return await self._read(name, status)

    async def _read(self, name: str, status: os.stat_result) -> bool | None:
        path = self._folder / name
        seen: cache.Fingerprint | None = _fingerprint(status)
        if not stat.S_ISREG(status.st_mode):
            self._bad(name, seen, f"{name}:1", "file_unreadable", "is no regular file")
            return False
        if status.st_size > self._max_bytes:
            detail = f"has {status.st_size} bytes; at most {self._max_bytes} are read"
            self._bad(name, seen, f"{name}:1", "file_too_large", detail)
            return False
        try:
            if status.st_size > _IN_THREAD_BYTES:
                seen, parsed = await asyncio.to_thread(_load, path, self._max_bytes)
            else:
                seen, parsed = _load(path, self._max_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._bad(name, None, f"{name}:1", "file_unreadable", f"cannot be read: {error.strerror}")
            return False
        except ManifestError as error:
            self._bad(name, seen, f"{name}:{error.line}", error.code, error.detail)
            return False
        known = self._files.get(name)
        if known is not None and known.manifests and not parsed.manifests and not parsed.ignored:
            known.seen, known.problem = seen, None
            self._bad_files.discard(name)
            known.ignored = -1  # empty now: believed, or not, like a file that is gone
            self._keep(name, known)
            return None
        self._bad_files.discard(name)
        self._keep(name, _File(seen, parsed.manifests, parsed.ignored))
        mtime_ns = min(status.st_mtime_ns, self._clock.wall_ns())
        self._objects.put(name, parsed.manifests, mtime_ns=mtime_ns)
        return True

    def _bad(self, name: str, seen: cache.Fingerprint | None, where: str, code: str, detail: str) -> None:
        """`name` cannot be used: it keeps what it last held, and says why."""
        known = self._files.get(name, _File())
        known.seen = seen
        problem = Problem(code, where, detail + ("; its last good content counts" if known.manifests else ""))
        if known.problem != problem:
            self._log.warning("manifest refused", where=where, code=code, detail=detail)
        known.problem = problem
        self._keep(name, known)
        self._bad_files.add(name)

    def _forget(self, name: str) -> None:
        del self._files[name]
        self._cached.pop(name, None)
        self._bad_files.discard(name)
        self._objects.remove(name)

    # --- what leaves -------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        """Set the state when it differs from the last one."""
        last = self.state.value
        exports, names, problems, dirty = self._objects.build()
        self._dirty |= dirty
        everything = (*self._own_problems(), *problems)
        complete = last.complete or self._listed or bool(self._files)
        same = all(exports.get(name) is last.exports.get(name) for name in self._dirty)
        if same and names is None and everything == last.problems:
            if complete == last.complete:
                return
            exports = last.exports
        self.state.set(
            SourceState(
                exports=exports,
                services=last.services if names is None else names,
                problems=everything,
                complete=complete,
                number=last.number + 1,
                changed=frozenset(self._dirty),
            )
        )
        self._dirty = set()

    def _own_problems(self) -> list[Problem]:
        found = [p for p in (self._folder_problem, self._watch_problem, self._saver.problem) if p is not None]
        if held := sorted(self._removals.held):
            shown = ", ".join(held[:3]) + (f" and {len(held) - 3} more" if len(held) > 3 else "")
            detail = f"{shown} vanished or were emptied at once; held until a second look finds the same"
            found.append(Problem("removal_held", str(self._folder), detail))
        found += [p for name in sorted(self._bad_files) if (p := self._files[name].problem) is not None]
        return found

    # --- on disk -----------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        loaded = load_or_none(self._cache_path, cache.decode, self._log)
        if loaded is None:
            return
        self._objects = Objects(locality=self._locality, first_seen=loaded.first_seen)
        for name, file in loaded.files.items():
            self._keep(name, _File(file.fingerprint, file.manifests, file.ignored))
            self._objects.put(name, file.manifests, mtime_ns=file.fingerprint[0] if file.fingerprint else 0)

    def _keep(self, name: str, file: _File) -> None:
        """`name` holds this now; the entry of the cache is made at once, so that a write of the cache is not long."""
        self._files[name] = file
        self._cached[name] = file.cached()

    def _dump(self) -> bytes:
        return cache.encode(self._cached, self._objects.first_seen)


def _load(path: Path, max_bytes: int) -> tuple[cache.Fingerprint | None, Parsed]:
    """Read and parse; no fingerprint (so that it is read again) when it changed under the reading."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise ManifestError(1, "file_unreadable", "is no regular file")
        data = file.read(max_bytes + 1)
        after = os.fstat(descriptor)
    if len(data) > max_bytes:
        raise ManifestError(1, "file_too_large", f"has more than {max_bytes} bytes")
    seen = _fingerprint(after)
    return (seen if seen == _fingerprint(before) else None), parse(data)


def _fingerprint(status: os.stat_result) -> cache.Fingerprint:
    return (status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns, status.st_dev)


def _is_manifest(name: str) -> bool:
    return name.endswith(SUFFIXES) and not name.startswith(".")


def _is_empty(file: _File) -> bool:
    return file.ignored < 0


def _consumers(placed: Placed) -> str | None:
    assert isinstance(placed.manifest, ServiceExport)  # noqa: S101 - asked for by kind
    return (placed.manifest.metadata.annotations or {}).get(CONSUMERS)
