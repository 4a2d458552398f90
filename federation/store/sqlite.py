"""The durable store of a single registry: SQLite, written before it is believed, read from memory.

One thread owns the connection, so that a slow disk never holds up the event loop and writes are one after another. A
small file beside the database (`<name>.seen`) counts the writes that were made: a database with fewer is a restored
backup. Then a new epoch begins, and tokens that the backup holds as unused are revoked: they may have been used since.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from federation import log
from federation.aio.clock import Clock
from federation.aio.files import read_state, write_state
from federation.errors import Conflict, CorruptState, IsthmusError, StorageFailed
from federation.store import plans, schema
from federation.store.base import Listener
from federation.store.facets import ClusterFacet, LinkFacet, TokenFacet
from federation.store.picture import Picture, Plan, Result, applied
from federation.store.rows import CLUSTERS, DEPARTED, LINKS, TOKENS, Table

_log = log.get("store.sqlite")


class _Seen(msgspec.Struct, frozen=True):
    """What the file beside the database holds."""

    epoch: int
    writes: int


class SqliteStore:
    """`federation.store.base.Store` in one SQLite file. Made by `open`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, *, clock: Clock) -> None:
        self._path, self._connection, self._clock = path, connection, clock
        self._seen_path = path.with_name(path.name + ".seen")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._listeners: list[Listener] = []
        self.picture = Picture()
        self.clusters = ClusterFacet(self, clock)
        self.links = LinkFacet(self)
        self.tokens = TokenFacet(self, clock)
        self.epoch = 0
        self.restored = False
        self.failure = ""
        self._writes = 0

    @classmethod
    def open(cls, path: Path, *, clock: Clock) -> SqliteStore:
        """Open or make the store at `path`; blocks.

        Raises CorruptState (damaged, of another program or of a newer version), Conflict (`store_locked`: another
        process has it open), StorageFailed.
        """
        store = cls(path, schema.connect(path), clock=clock)
        try:
            with schema.translated(path):
                store._load()
            store._begin_epoch()
        except BaseException:
            store.close_now()
            raise
        return store

    @classmethod
    def prove(cls, path: Path, *, clock: Clock) -> None:
        """Read all of the store at `path` as `open` does, and change nothing of what it says; raises as `open`."""
        store = cls(path, schema.connect(path), clock=clock)
        try:
            with schema.translated(path):
                store._load()
        finally:
            store.close_now()

    def subscribe(self, listener: Listener) -> None:
        self._listeners.append(listener)

    async def commit(self, decide: Callable[[Picture], Plan[Result]]) -> Result:
        """See `federation.store.facets.Committer`. Once begun, a write ends even if its caller is cancelled."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._commit, decide)
        future.add_done_callback(self._tell)
        return (await asyncio.shield(future)).result

    async def snapshot(self) -> bytes:
        """A copy of the database as it is after the writes so far, as a file of its own. Raises StorageFailed."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._snapshot)

    async def close(self) -> None:
        """Wait for the writes under way and release the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    def close_now(self) -> None:
        """`close` without an event loop."""
        self._thread.submit(self._connection.close).result()
        self._thread.shutdown()

    # --- below: in the store's thread, or before anybody else has the store ---

    def _snapshot(self) -> bytes:
        try:
            return snapshot(self._connection)
        except sqlite3.Error as error:
            raise schema.translate(error, self._path) from error

    def _load(self) -> None:
        meta = dict(self._connection.execute("SELECT name, value FROM meta"))
        self.epoch, self._writes = meta["epoch"], meta["writes"]
        self.picture = Picture(
            members={m.name: m for m in self._values(CLUSTERS)},
            links={e.link.name: e for e in self._values(LINKS)},
            tokens={t.hash: t for t in self._values(TOKENS)},
            departed={d.name: d for d in self._values(DEPARTED)},
        )

    def _values(self, table: Table[Any]) -> list[Any]:
        columns = ", ".join((*table.columns, "sum"))
        rows = self._connection.execute(f"SELECT {columns} FROM {table.name} ORDER BY 1")  # noqa: S608 - our own names
        try:
            return [table.value(row) for row in rows]
        except CorruptState as error:
            raise schema.damaged(self._path, error.message) from error

    def _begin_epoch(self) -> None:
        seen = self._read_seen()
        self.restored = self._writes > 0 and (seen is None or seen.writes > self._writes)
        if seen is not None:
            self._writes = max(self._writes, seen.writes)
        # The wall clock makes it rise also where the file beside the database was restored with it.
        self.epoch = max(self.epoch + 1, seen.epoch + 1 if seen else 0, self._clock.wall_ns())
        if self.restored:
            _log.warning("store_restored", path=str(self._path), epoch=self.epoch)
        try:
            decide: Callable[[Picture], Plan[Any]] = plans.revoke_all_tokens if self.restored else _nothing
            self._commit(decide, always=True)
        except StorageFailed as error:  # reads go on; `failure` tells
            _log.error("store_failed", path=str(self._path), detail=error.message)

    def _commit(self, decide: Callable[[Picture], Plan[Result]], always: bool = False) -> Plan[Result]:
        plan = decide(self.picture)
        if plan.empty and not always:
            return plan
        try:
            with schema.transaction(self._connection):
                self._execute(plan)
        except sqlite3.Error as error:
            failed = schema.translate(error, self._path)
            self.failure = failed.message
            raise (
                failed if isinstance(failed, StorageFailed) else StorageFailed(failed.message, hint=failed.hint)
            ) from error
        self.failure = ""
        self._writes += 1
        self.picture = applied(self.picture, plan)
        self._write_seen()
        return plan

    def _execute(self, plan: Plan[Any]) -> None:
        run = self._connection.execute
        run("UPDATE meta SET value = ? WHERE name = 'epoch'", (self.epoch,))
        run("UPDATE meta SET value = ? WHERE name = 'writes'", (self._writes + 1,))
        statements = [
            *CLUSTERS.statements(self.picture.members, plan.members),
            *LINKS.statements(self.picture.links, plan.links),
            *TOKENS.statements(self.picture.tokens, plan.tokens),
            *DEPARTED.statements(self.picture.departed, plan.departed),
        ]
        for statement, values in statements:
            if run(statement, values).rowcount != 1:
                raise Conflict(f"{self._path} was changed by somebody else", code="store_changed")

    def _read_seen(self) -> _Seen | None:
        try:
            data = read_state(self._seen_path)
            return None if data is None else msgspec.json.decode(data, type=_Seen)
        except (IsthmusError, msgspec.MsgspecError):
            return None

    def _write_seen(self) -> None:
        # It may lag behind the database, never run ahead of it: a lag is no sign of a restore.
        try:
            write_state(self._seen_path, msgspec.json.encode(_Seen(self.epoch, self._writes)))
        except StorageFailed as error:
            _log.warning("store_seen_failed", detail=error.message)

    # --- in the event loop again ---

    def _tell(self, future: asyncio.Future[Plan[Any]]) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        plan = future.result()
        if plan.members or plan.links:
            for listener in self._listeners:
                listener(plan.change)


def snapshot(connection: sqlite3.Connection) -> bytes:
    """What is in the database behind `connection`, as a file of its own; raises sqlite3.Error."""
    with contextlib.closing(sqlite3.connect(":memory:")) as copy:
        connection.backup(copy)
        return copy.serialize()


def _nothing(_: Picture) -> Plan[None]:
    return Plan(result=None)
