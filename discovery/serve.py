"""Serves the merged view to the gateways and sidecars of the own cluster: Catalog/Watch over TCP, mutual TLS.

A caller is what its certificate says: `…/ns/isthmus-system/sa/gateway` is a gateway, any workload's identity a sidecar;
identities of other trust domains are refused whatever they know. A certificate that was issued to a virtual machine
names it: so what comes on the stream is that machine's, and one that was removed is let in no more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import grpc

from discovery.consumers import Consumer, Consumers, Role
from discovery.vms.names import peer_host, speaker_of
from discovery.vms.table import VmTable
from discovery.vms.workloads import Workloads
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.catalog.log import Log
from federation.catalog.replica import Visible
from federation.errors import Denied, Unavailable
from federation.log import Logger
from federation.model.address import join_address
from federation.model.cluster import Bundle, Problem
from federation.model.ids import SYSTEM_NAMESPACE, ServiceName, SpiffeId
from federation.model.record import Kind, Record
from federation.proto.v1 import catalog_pb2 as pb
from federation.proto.v1 import records_pb2
from federation.registry.watch import SERVER_OPTIONS, CatalogServicer, Offer
from federation.trust.grpc_credentials import peer_chain, server_credentials
from federation.trust.svid import Svid, utc
from federation.trust.verify import verify_chain

VM_REMOVED = "vm_removed"
GATEWAY_PATH = f"/ns/{SYSTEM_NAMESPACE}/sa/gateway"


def sidecar_sees(record: Record) -> bool:
    """Peers, and the imports that it asks for by name."""
    return record.key.kind in (Kind.PEER, Kind.IMPORT)


def gateway_sees(via: frozenset[str], *, addressed: bool = False) -> Visible:
    """Peers, exports, and those imports that some sidecar leads through the gateways.

    `addressed`: those with a ClusterSetIP, too, because the cluster routes it to the gateways (discovery.mcs.desired).
    """

    def sees(record: Record) -> bool:
        kind = record.key.kind
        if kind is not Kind.IMPORT:
            return kind in (Kind.PEER, Kind.EXPORT)
        return record.key.name in via or (addressed and _addressed(record))

    return sees


def _addressed(record: Record) -> bool:
    found = records_pb2.Import.FromString(record.payload or b"")
    return bool(found.ips and found.gateway_ports)


def role_of(identity: SpiffeId) -> Role:
    """What a caller of the own trust domain is; raises Denied for identities that consume nothing."""
    if identity.path == GATEWAY_PATH:
        return Role.GATEWAY
    if not identity.path.startswith("/ns/") or identity.path.startswith(f"/ns/{SYSTEM_NAMESPACE}/"):
        raise Denied(f"{identity} is neither a gateway nor a workload", code="not_authorised")
    return Role.SIDECAR


class ViewServer:
    """The agent's TCP port. `log` is offered as long as the server lives."""

    def __init__(
        self,
        *,
        log_: Log,
        consumers: Consumers,
        vms: VmTable,
        workloads: Workloads,
        bundle: Bundle,
        svid: Callable[[], Svid],
        clock: Clock,
        log: Logger,
        heartbeat: float,
        write_timeout: float,
        addressed: bool = False,
        unread: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """`addressed`: see gateway_sees. `unread`: the namespaces in which a service may exist that nobody has read
        yet."""
        self._records, self._consumers, self._bundle, self._svid = log_, consumers, bundle, svid
        self._clock, self._log = clock, log
        self._addressed, self._unread = addressed, unread
        self._vms, self._workloads = vms, workloads
        self._closers: dict[str, set[Callable[..., None]]] = {}  # of the streams of each virtual machine
        vms.listen(self._vm_removed)
        self._gateway_view: Latest[Visible] = Latest(self._gateway_sees(consumers.via_gateway.value))
        self.catalog = CatalogServicer(offer=self._offer, clock=clock, write_timeout=write_timeout, heartbeat=heartbeat)
        self._server: Any = None
        self._stopping = False
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen; raises Unavailable where the address is taken."""
        server = grpc.aio.server(options=SERVER_OPTIONS)
        self.catalog.add_to(server)
        credentials = server_credentials(lambda: (self._svid(), [self._bundle]))
        try:
            self.port = server.add_secure_port(join_address(host, port), credentials)
        except RuntimeError as error:
            raise Unavailable(
                f"cannot listen on {join_address(host, port)}",
                hint="is another process using the port? change `listen` in the settings",
                code="port_taken",
            ) from error
        await server.start()
        self._server = server

    async def close(self, *, grace: float = 1.0) -> None:
        """Say goodbye to everyone, then stop."""
        self._stopping = True
        if self._server is not None:
            self.catalog.stop()
            await self._server.stop(grace)
            self._server = None

    def leads(self, service: ServiceName) -> bool:
        """Whether gateways have a port for workloads that call this import."""
        return self._addressed or str(service) in self._consumers.via_gateway.value

    async def follow_via_gateway(self) -> None:
        """Offer gateways the imports that sidecars lead through them, as these change."""
        version = self._consumers.via_gateway.version - 1
        while True:
            version, via = await self._consumers.via_gateway.newer(version)
            self._gateway_view.set(self._gateway_sees(via))

    def _deniable(self, name: str) -> bool:
        return name.partition("/")[0] not in self._unread()

    def _gateway_sees(self, via: frozenset[str]) -> Visible:
        return gateway_sees(via, addressed=self._addressed)

    async def _offer(self, context: Any) -> Offer:
        chain = peer_chain(context.auth_context())
        identity = verify_chain(chain, {self._bundle.trust_domain: self._bundle}, now=utc(self._clock))
        role = role_of(identity)
        speaker = speaker_of(chain, identity.trust_domain)
        vm = ""
        if speaker is not None:
            vm = (await self._vms.admit(speaker.vm, speaker.key, identity)).name
        consumer = self._consumers.opened(role=role, identity=str(identity), address=context.peer(), vm=vm)
        self._log.info("consumer connected", identity=str(identity), address=consumer.address, vm=vm)
        closers: list[Callable[..., None]] = []

        def on_open(close: Callable[..., None]) -> None:
            if vm:
                closers.append(close)
                self._closers.setdefault(vm, set()).add(close)

        def on_presence(presence: pb.Presence) -> None:
            self._consumers.present(consumer, presence)
            if vm:
                self._vms.seen(vm, address=peer_host(consumer.address), version=consumer.version)
            if presence.HasField("workloads"):
                self._register(consumer, presence.workloads, identity, peer_host(consumer.address))

        def on_names(added: frozenset[str], dropped: frozenset[str]) -> None:
            self._consumers.named(consumer, added, dropped)

        def on_ack(ack: pb.Ack) -> None:
            consumer.applied = ack.revision

        def on_close(reason: str) -> None:
            if vm:
                self._vms.seen(vm)
                self._forget(vm, closers)
            if self._stopping:
                return  # it is this agent that goes: what it knows of its gateways stays for the next one
            self._log.info("consumer gone", identity=str(identity), reason=reason)
            # Only who said so leaves at once: a stream that ends without a word may have been replaced by a newer one
            # whose presence is still on its way.
            self._consumers.closed(consumer, clean=reason in ("goodbye", VM_REMOVED))
            self._workloads.closed(vm, consumer, clean=reason == "goodbye")

        return Offer(
            log=self._records,
            visible=sidecar_sees,
            deniable=self._deniable,
            refilter=self._gateway_view if role is Role.GATEWAY else None,
            on_ack=on_ack,
            on_presence=on_presence,
            on_names=on_names,
            on_open=on_open,
            on_close=on_close,
        )

    def _forget(self, vm: str, closers: Iterable[Callable[..., None]]) -> None:
        held = self._closers.get(vm, set())
        held.difference_update(closers)
        if not held:
            self._closers.pop(vm, None)

    def _register(self, consumer: Consumer, workloads: pb.Workloads, identity: SpiffeId, host: str) -> None:
        if consumer.vm:
            self._workloads.present(consumer.vm, consumer, workloads, identity=identity, host=host)
        elif workloads.items:
            detail = "only a VM that has joined registers services; others are described by manifests (docs/files.md)"
            consumer.problems = (*consumer.problems, Problem("not_a_vm", "services", detail))

    def _vm_removed(self, name: str) -> None:
        for close in tuple(self._closers.pop(name, ())):
            close(VM_REMOVED, f"VM {name} was removed from this cluster")

    def offered(self, consumer: Consumer) -> int:
        """The newest revision that concerns `consumer`: what it has applied, once it is up to date."""
        sees = self._gateway_view.value if consumer.role is Role.GATEWAY else sidecar_sees
        for entry in self._records.newest(since=consumer.applied):
            key = entry.record.key
            named = consumer.role is Role.GATEWAY or key.kind is not Kind.IMPORT or key.name in consumer.names
            if named and sees(entry.record):
                return entry.revision
        return consumer.applied
