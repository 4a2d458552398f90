"""The registry process: opens what it keeps, serves its two ports, its socket and its
metrics, and ends in order.

Arrives: settings. Leaves: Catalog and Operator on the main port (mutual TLS), Enrolment on the second one. Everything
that serves reads the newest certificate and the present members at each handshake.
"""

from __future__ import annotations

import asyncio
import socket
from types import TracebackType
from typing import Any

import grpc
import msgspec

from federation import log as logs
from federation.aio.archive import pack, unpack
from federation.aio.clock import Clock, SystemClock
from federation.errors import Conflict, IsthmusError, Unavailable
from federation.metrics import MetricsServer
from federation.model.address import join_address, split_address
from federation.model.cluster import Bundle
from federation.proto.v1 import registry_pb2_grpc as rpc
from federation.registry import backup
from federation.registry.credentials import (
    issue_operator,
    issue_server,
    open_authority,
    operator_files,
    part_of_id,
    write_operator,
)
from federation.registry.init import STORE_FILE
from federation.registry.inventory import VERSION, Inventory
from federation.registry.local import SOCKET, Handler, LocalServer, Question
from federation.registry.meters import Meters
from federation.registry.publish import Intake
from federation.registry.rpc import EnrolmentServicer, Gate, OperatorServicer
from federation.registry.service import Addresses, Service
from federation.registry.settings import RegistrySettings
from federation.registry.watch import SERVER_OPTIONS, CatalogServicer, Offer
from federation.store.base import Store
from federation.store.sqlite import SqliteStore
from federation.trust.grpc_credentials import server_credentials
from federation.trust.renewal import Renewer
from federation.trust.svid import Svid

STUCK = 5.0
"""Seconds without a turn of the event loop after which the process is not alive."""
RESTORE_AFTER = 0.1
"""Seconds in which whoever has brought a backup hears that it was taken."""
_MAX_ENROLMENT_MESSAGE = 64 * 1024
_MAX_JOINS = 256


class Registry:
    """One registry. `async with` serves; `run` keeps leases and certificates until cancelled."""

    def __init__(self, settings: RegistrySettings, *, clock: Clock | None = None, store: Store | None = None) -> None:
        self.settings = settings
        self._clock = clock or SystemClock()
        self._log, self._audit = logs.get("registry"), logs.get("audit")
        self._given_store = store
        self._servers: list[grpc.aio.Server] = []
        self._metrics: MetricsServer | None = None
        self._local: LocalServer | None = None
        self.restored = asyncio.Event()
        """A backup is to be put in place: whoever serves this registry closes it, and begins anew."""
        self.address = self.enrolment_address = ""
        self.metrics_port = 0
        self._beat = self._clock.monotonic()
        self._serving = False
        self.operator: Renewer[Svid] | None = None

    async def __aenter__(self) -> Registry:
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _start(self) -> None:
        settings, clock = self.settings, self._clock
        self._authority = open_authority(settings, clock)
        self.store: Store = await self._open_store()
        self.service = service = Service(
            settings,
            store=self.store,
            authority=self._authority,
            addresses=self._addresses,
            clock=clock,
            log=self._log,
            audit=self._audit,
        )
        self.svid = Renewer[Svid](issue_server(settings, self._authority), self._renew, clock=clock, log=self._log)
        self.inventory = Inventory(service, restored_ns=backup.restored_at(settings.path), clock=clock)
        self.gate = Gate(service, clock=clock, audit=self._audit)
        self.catalog = CatalogServicer(
            offer=self._offer,
            accept=self._accept,
            clock=clock,
            write_timeout=settings.write_timeout,
            heartbeat=settings.heartbeat,
        )
        self.inventory.count_streams = lambda: self.catalog.streams
        self.meters = Meters()
        self.address = await self._serve_main()
        self.enrolment_address = await self._serve_enrolment()
        self._serve_metrics()
        await self._write_operator()
        await self._serve_local()
        self._serving = True
        self._log.info(
            "serving",
            federation=settings.federation,
            address=self.address,
            enrolment=self.enrolment_address,
            version=VERSION,
        )

    async def _open_store(self) -> Store:
        if self._given_store is not None:
            return self._given_store
        return await asyncio.to_thread(SqliteStore.open, self.settings.path / STORE_FILE, clock=self._clock)

    # --- ports -------------------------------------------------------------------------------------------------------

    async def _serve_main(self) -> str:
        server = grpc.aio.server(options=SERVER_OPTIONS)
        self.catalog.add_to(server)
        operator = OperatorServicer(self.service, self.inventory, self.gate, log=self._log, audit=self._audit)
        rpc.add_OperatorServicer_to_server(operator, server)  # type: ignore[no-untyped-call]
        return await self._listen(server, "listen", server_credentials(self._trusted))

    async def _serve_enrolment(self) -> str:
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", _MAX_ENROLMENT_MESSAGE)]
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=_MAX_JOINS)
        enrolment = EnrolmentServicer(self.service, log=self._log)
        rpc.add_EnrolmentServicer_to_server(enrolment, server)  # type: ignore[no-untyped-call]
        return await self._listen(server, "enrolment", server_credentials(self._trusted, require_client=False))

    async def _listen(self, server: grpc.aio.Server, key: str, credentials: grpc.ServerCredentials) -> str:
        text = getattr(self.settings, key)
        host, port = split_address(text, what=key)
        _check_free(host, port, key)
        try:
            bound = server.add_secure_port(join_address(host, port), credentials)
        except RuntimeError as error:
            raise _in_use(text, key, "gRPC could not bind it") from error
        self._servers.append(server)
        await server.start()
        return join_address(host, bound)

    def _serve_metrics(self) -> None:
        if not self.settings.metrics:
            return
        host, port = split_address(self.settings.metrics, what="metrics")
        try:
            self._metrics = MetricsServer(
                self.meters.registry, host=host, port=port, alive=self._alive, ready=self._ready
            )
        except OSError as error:
            raise _in_use(self.settings.metrics, "metrics", error.strerror or str(error)) from error
        self._metrics.start()
        self.metrics_port = self._metrics.port

    def _addresses(self) -> Addresses:
        return Addresses(
            catalog=self.settings.advertise or self.address,
            enrolment=self.settings.advertise_enrolment or self.enrolment_address,
        )

    # --- identities --------------------------------------------------------------------------------------------------

    def _trusted(self) -> tuple[Svid, list[Bundle]]:
        """Called on gRPC's threads at each handshake: only reads."""
        return self.svid.current, list(self.service.bundles().values())

    async def _renew(self) -> Svid:
        return issue_server(self.settings, self._authority)

    async def _write_operator(self) -> None:
        try:
            self.operator = Renewer[Svid](self._new_operator(), self._renew_operator, clock=self._clock, log=self._log)
        except IsthmusError as error:  # a full disk: who has valid credentials goes on with them
            self._log.warning("operator_credentials_failed", code=error.error_code, detail=error.message)

    async def _serve_local(self) -> None:
        path = self.settings.path / SOCKET
        handlers: dict[str, Handler] = {"credential": self._credential}
        if isinstance(self.store, SqliteStore):
            handlers |= {"backup": self._backup, "restore": self._restore}
        self._local = LocalServer(path, handlers, log=self._log)
        try:
            await self._local.start()
        except IsthmusError as error:  # a read-only disk: members are served all the same
            self._log.warning("local_socket_failed", code=error.error_code, detail=error.message)

    async def _credential(self, question: Question, _: bytes) -> bytes:
        name = part_of_id(question.name)
        svid = issue_operator(self.settings, self._authority, name)
        self._audit.info("credential_issued", operator=name, until=svid.not_after.isoformat())
        address = self._addresses().catalog
        return msgspec.json.encode(operator_files(self.settings, self._authority, svid, address=address))

    async def _backup(self, _: Question, __: bytes) -> bytes:
        assert isinstance(self.store, SqliteStore)  # noqa: S101 - see `_serve_local`
        database = await self.store.snapshot()
        archive = await asyncio.to_thread(backup.collect, self.settings, database, clock=self._clock)
        self._audit.info("backup_made", clusters=len(self.store.clusters.all()), links=len(self.store.links.all()))
        return pack(archive)

    async def _restore(self, question: Question, data: bytes) -> bytes:
        archive = unpack(data, what="the backup")
        await asyncio.to_thread(backup.check, archive, federation=self.settings.federation)
        members = self.store.clusters.all()
        if members and not question.replace:
            raise Conflict(
                f"the registry of {self.settings.federation} has {len(members)} clusters: a backup would replace them",
                hint="with --replace it does; what there is now is kept in its folder before-restore",
                code="would_overwrite",
            )
        await asyncio.to_thread(backup.stage, self.settings.path, archive)
        self._audit.warning("restore_begins", made_ns=archive.manifest.made_ns, replaced=len(members))
        asyncio.get_running_loop().call_later(RESTORE_AFTER, self.restored.set)
        return b""

    def _new_operator(self) -> Svid:
        return write_operator(self.settings, self._authority, address=self._addresses().catalog)

    async def _renew_operator(self) -> Svid:
        return self._new_operator()

    async def _offer(self, context: Any) -> Offer:
        return self.service.reports.offer(self.gate.cluster(context))

    async def _accept(self, context: Any) -> Intake:
        return self.service.reports.intake(self.gate.cluster(context))

    # --- running and ending ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.service.run(), name="registry-service")
            group.create_task(self.svid.run(), name="registry-certificate")
            group.create_task(self._measure(), name="registry-meters")
            if self.operator is not None:
                group.create_task(self.operator.run(), name="registry-operator-credentials")

    async def _measure(self) -> None:
        while True:
            self._beat = self._clock.monotonic()
            self.meters.update(self.service, self.inventory, self.gate, self.catalog, expires_in=self.svid.expires_in())
            await self._clock.sleep(1.0)

    def _alive(self) -> tuple[bool, str]:
        silent = self._clock.monotonic() - self._beat
        return (True, "") if silent < STUCK else (False, f"the event loop has not turned for {silent:.0f} s")

    def _ready(self) -> tuple[bool, str]:
        if not self._serving:
            return False, "not serving"
        return True, f"serving; the store refuses changes: {self.store.failure}" if self.store.failure else ""

    async def close(self) -> None:
        """Say goodbye on every stream, wait up to `drain` s for them to end, release the ports and the store."""
        self._serving = False
        if self._local is not None:
            await self._local.close()
            self._local = None
        if self._servers:
            self.catalog.stop()
            await asyncio.gather(*(server.stop(self.settings.drain) for server in self._servers))
            self._servers.clear()
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        store = getattr(self, "store", None)
        if store is not None:
            if hasattr(self, "service"):
                await self.service.flush()
            await store.close()
            del self.store


def _check_free(host: str, port: int, key: str) -> None:
    """Raises Unavailable, or Conflict, with the system's reason: gRPC tells none."""
    text = join_address(host, port)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise Unavailable(
            f"{key}: {text} cannot be resolved: {error.strerror}", hint=f"correct `{key}` in the settings"
        ) from error
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise _in_use(text, key, error.strerror or str(error)) from error


def _in_use(text: str, key: str, reason: str) -> Conflict:
    return Conflict(
        f"cannot listen on {text} ({key}): {reason}",
        hint=f"stop what listens there, or set `{key}` in the settings to another address",
        code="address_unavailable",
    )
