"""The registry's figures for Prometheus; brought up to date once a second, in the event loop."""

from __future__ import annotations

from collections import Counter as Tally

from prometheus_client import CollectorRegistry, Counter, Gauge

from federation.registry.inventory import Inventory
from federation.registry.rpc import Gate
from federation.registry.service import Service
from federation.registry.states import LIVE, PENDING, STALE
from federation.registry.watch import CatalogServicer


class Meters:
    """`registry` is what /metrics shows."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self._revision = Gauge("isthmus_registry_revision", "Changes of the catalog since the start", registry=r)
        self._records = Gauge("isthmus_registry_records", "Records in the catalog", registry=r)
        self._streams = Gauge("isthmus_registry_streams", "Open Watch and Publish streams", registry=r)
        self._members = Gauge("isthmus_registry_clusters", "Members by the state of their lease", ["state"], registry=r)
        self._links = Gauge("isthmus_registry_links", "Links", registry=r)
        self._tokens = Gauge("isthmus_registry_tokens_unused", "Join tokens that can still be used", registry=r)
        self._store = Gauge("isthmus_registry_store_failing", "1 while the store refuses writes", registry=r)
        self._svid = Gauge("isthmus_registry_certificate_seconds", "Until the own certificate expires", registry=r)
        self._published = Counter("isthmus_registry_published_records", "Records taken from origins", registry=r)
        self._rejected = Counter("isthmus_registry_rejected_records", "Records refused", registry=r)
        self._denied = Counter("isthmus_registry_denied_callers", "Callers turned away", registry=r)
        self._slow = Counter("isthmus_registry_slow_consumers", "Streams closed: too slow", registry=r)
        self._seen: dict[int, float] = {}

    def update(
        self, service: Service, inventory: Inventory, gate: Gate, catalog: CatalogServicer, *, expires_in: float
    ) -> None:
        """Take over the present figures; `expires_in` seconds is the own certificate's rest."""
        reports, store = service.reports, service.store
        self._revision.set(reports.log.revision)
        self._records.set(len(reports.log))
        self._streams.set(catalog.streams)
        states = Tally(inventory.state(member) for member in store.clusters.all().values())
        for state in (PENDING, LIVE, STALE):
            self._members.labels(state).set(states[state])
        self._links.set(len(store.links.all()))
        now = service.now_ns()
        unused = (t for t in store.tokens.all().values() if not (t.redeemed_by or t.revoked) and t.expires_ns > now)
        self._tokens.set(sum(1 for _ in unused))
        self._store.set(bool(store.failure))
        self._svid.set(expires_in)
        self._count(self._published, reports.published)
        self._count(self._rejected, reports.rejected)
        self._count(self._denied, gate.denied)
        self._count(self._slow, catalog.slow_consumers)

    def _count(self, counter: Counter, total: float) -> None:
        counter.inc(max(0.0, total - self._seen.get(id(counter), 0)))
        self._seen[id(counter)] = total
