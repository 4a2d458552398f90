"""Cluster-level DNS: global names for every workload of the cluster, with or without a sidecar, from the agent's view.

Arrives: look-ups, and the names whose import changed. Leaves: records in a federation.dns Table. A service is brought
in when somebody first asks for one of its names and then follows the view in the same turn of the event loop; so memory
goes by what is used. A name with one address for all callers is a ClusterSetIP; a headless service's are its endpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from discovery.settings import ClusterDnsSettings
from discovery.view import ClusterView
from federation.aio.clock import Clock
from federation.dns import names
from federation.dns.answer import NameRecords
from federation.dns.server import DnsServer
from federation.dns.table import Table
from federation.dns.upstream import Upstream
from federation.errors import InvalidInput, Unavailable
from federation.log import Logger
from federation.model.address import split_address
from federation.model.ids import ServiceName
from federation.model.service import Import

PINNED = "a name that pins a cluster needs a sidecar: the ClusterSetIP leads to whichever cluster is best"
PENDING = "the cluster has not given it a ClusterSetIP yet"
APART = "its endpoints are on another network; a sidecar reaches it through the gateways"


def records(imp: Import, *, suffix: str) -> dict[str, NameRecords]:
    """Every name of `imp` as workloads without a sidecar see it, those that pin a cluster included. Pure.

    A pinned name has addresses only where it is a headless service whose endpoints are reached directly: the
    ClusterSetIP would lead elsewhere. Whatever has no address has a `_why` that says so.
    """
    headless = imp.headless
    note = "" if headless or imp.ips else PENDING
    if headless and any(b.ready and not b.endpoints for b in imp.backends):
        note = APART
    found = names.records(imp, () if headless else imp.ips, suffix=suffix, note=note, absent=headless)
    for backend in imp.backends:
        apart = APART if backend.ready and not backend.endpoints else ""
        why = apart if headless else PINNED
        found |= names.records(imp, (), suffix=suffix, cluster=backend.cluster, note=why, absent=True)
    return found


class ClusterDns:
    """Serves `view`. `known`: whether the view says all there is; until then a name that it lacks is not denied.
    `unread`: whether this cluster may export a service of that name and has not read yet whether it does; nor is such a
    name denied.

    `has_namespace`: as Source has it; services of a namespace that this cluster has not are not imported.
    """

    def __init__(
        self,
        settings: ClusterDnsSettings,
        view: ClusterView,
        *,
        suffix: str,
        cluster: str,
        known: Callable[[], bool],
        unread: Callable[[ServiceName], bool] = lambda _: False,
        has_namespace: Callable[[str], bool | None],
        clock: Clock,
        log: Logger,
    ) -> None:
        self._settings, self._view, self._suffix, self._cluster = settings, view, suffix, cluster
        self._known, self._unread, self._has_namespace, self._log = known, unread, has_namespace, log
        self.table = Table([names.CLUSTERSET_ZONE, suffix], ttl=settings.ttl)
        self._held: dict[ServiceName, Mapping[str, NameRecords]] = {}
        servers = settings.servers()
        self.server = DnsServer(
            table=self.table,
            upstream=Upstream(servers, clock=clock) if servers else None,
            miss=self.look_up,
            branch=lambda name: names.is_branch(name, suffix=suffix, clusters=self._clusters()),
            log=log,
        )
        self.port = 0
        view.listen(self.changed)

    async def start(self) -> None:
        """Listen as the settings say. Raises Unavailable where the port is taken or not allowed."""
        host, port = split_address(self._settings.listen, what="dns.listen")
        self.port = await self.server.start(host, port)

    async def close(self) -> None:
        await self.server.close()

    async def look_up(self, text: str) -> bool | str:
        """A name of ours that the table has not: True when it is there now, otherwise why it does not exist.

        Raises Unavailable while nobody can know: a name that exists must not be denied at a start.
        """
        wanted = names.parse(text, suffix=self._suffix)
        if wanted is None:
            return "no service can have such a name"
        imp = self._view.imports.get(wanted.service)
        if imp is None and not self._known():
            raise Unavailable("the registry has not yet told what other clusters export")
        if self._has_namespace(wanted.service.namespace) is False:
            return f"this cluster has no namespace {wanted.service.namespace}"
        if imp is not None and wanted.service not in self._held:
            self._hold(imp)
            if self.table.get(text) is not None:
                return True
        if self._unread(wanted.service):
            raise Unavailable(f"what this cluster exports in {wanted.service.namespace} has never been read yet")
        return names.absent(wanted, known_clusters=self._clusters(), imp=imp)

    def changed(self, services: Collection[ServiceName]) -> None:
        """The imports of these may be others now."""
        for service in services:
            if service not in self._held:
                continue
            imp = self._view.imports.get(service)
            if imp is not None and self._has_namespace(service.namespace) is not False:
                self._hold(imp)
                continue
            for name in self._held.pop(service):
                self.table.remove(name)

    def namespaces_changed(self, namespaces: Collection[str]) -> None:
        """These came to exist here, or ceased to."""
        self.changed([service for service in self._held if service.namespace in namespaces])

    def _hold(self, imp: Import) -> None:
        old = self._held.get(imp.name, {})
        new = self._held[imp.name] = records(imp, suffix=self._suffix)
        for name in old.keys() - new.keys():
            self.table.remove(name)
        for name, value in new.items():
            if old.get(name) != value:
                self._put(name, value)

    def _put(self, name: str, value: NameRecords) -> None:
        try:
            self.table.put(name, value)
        except InvalidInput as error:  # one service's oddity is not everybody's
            self._log.error("not a DNS record", name=name, error=str(error))
            self.table.remove(name)

    def _clusters(self) -> set[str]:
        return {self._cluster, *(n.name for n in self._view.linked)}
