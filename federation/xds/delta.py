"""One client's delta ADS stream as a machine without I/O: requests and snapshots go in, responses come out.

Arrives: what `server` read from the stream (`receive`), the newest snapshot (`publish`), time (`tick`). Leaves: at most
one response in flight per type (`next`), the names that the snapshot lacks, and how far the client has acknowledged.

Each name of each type is in one of three states: as wanted, to be put, to be removed; `_classify` decides, from the
newest snapshot alone, so what was overtaken is never sent. `_may_put` and `_may_remove` say what may go now:

- additions go secrets, clusters, endpoints, listeners, routes; listeners and routes wait until the clusters before them
  were taken (acknowledged, or their endpoints asked for) and their endpoints are on the way ahead of them; removals go
  the other way, after the additions were acknowledged;
- what the client asked for by name is answered at once, whatever else is under way;
- after a rejection the rejected response is divided, until the offender stands alone; it is then left out until it
  changes, and the client keeps the last good one, with all that this one refers to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import nsmallest

from federation.xds.exchange import Nack, Request, Response
from federation.xds.held import UNKNOWN, Held
from federation.xds.snapshot import Resource, Snapshot, TypeUrl

MOST_LISTENERS = 250
"""In one response."""
_MOST_SUSPECTS = 16
_REUNION = 0.5  # seconds: a client that comes back says all it has within milliseconds
_UNCERTAIN = ""  # the version of what the client may have


class Session:
    """The state of one stream. Times are monotonic seconds.

    `hold` is how long an on-demand name waits for the owner before it is refused, `patience` how long an acknowledged
    resource may take to ask for what it refers to before the session goes on without. `heir_of` is the client's session
    before this one: what it had acknowledged there is recognised by its version.
    """

    def __init__(
        self,
        *,
        on_demand: Sequence[str] = (),
        hold: float = 5.0,
        patience: float = 2.0,
        heir_of: Session | None = None,
    ) -> None:
        self._types = {
            kind: Held(kind, only_named=tuple(on_demand) if kind is TypeUrl.CLUSTER else ()) for kind in TypeUrl
        }
        self._snapshot: Snapshot | None = None
        self._generation = 0
        self._nonce = 0
        self._hold, self._patience = hold, patience
        self._awaited: dict[tuple[TypeUrl, str], float] = {}
        # Endpoints that the client asks for once it has the clusters in flight; UNKNOWN: only an answer will tell.
        self._unproven: set[object] = set()
        self._acked = 0
        # A client that comes back says type by type what it has; until then nobody knows what still leads to a cluster.
        self._removals_from: float | None = None
        self._inherited = {s.kind: s.good for s in heir_of._types.values()} if heir_of is not None else {}

    # What others look at.

    @property
    def acked(self) -> int:
        """The newest generation that the client has acknowledged whole, but for what it refused."""
        return self._acked

    @property
    def nacks(self) -> dict[tuple[TypeUrl, str], Nack]:
        """What the client refuses now."""
        return {(t.kind, name): nack for t in self._types.values() for name, nack in t.quarantine.items()}

    def named(self, kind: TypeUrl) -> frozenset[str]:
        """The names that the client subscribed explicitly."""
        return self._types[kind].subscription.names

    # What goes in.

    def publish(self, generation: int, snapshot: Snapshot) -> None:
        """Make `snapshot` what the client should have; generations rise."""
        old, self._snapshot, self._generation = self._snapshot, snapshot, generation
        touched = snapshot.touched_since(old) if old is not None else None
        for state in self._types.values():
            before, after = old.table(state.kind) if old is not None else {}, snapshot.table(state.kind)
            if old is None:
                names: set[str] = set(after) | set(state.known) | state.subscription.names
                state.urgent |= state.subscription.names - state.known.keys()
            elif before is after:
                continue
            elif touched is not None:
                names = {n for n in touched.get(state.kind, ()) if _differ(before.get(n), after.get(n))}
            else:
                names = {
                    n for n, r in after.items() if (b := before.get(n)) is not r and (not b or b.version != r.version)
                }
                names |= before.keys() - after.keys()
            for name in names:
                self._classify(state, name)
        self._settle()

    def receive(self, request: Request, *, now: float) -> frozenset[str]:
        """Apply a request; returns the names asked for that the snapshot lacks.

        A stale nonce does not count as an answer, but its subscriptions do (xDS protocol, "ACK/NACK and nonces").
        """
        state = self._types[request.kind]
        if request.nonce and state.flight is not None and state.flight.nonce == request.nonce:
            flight, state.flight = state.flight, None
            if request.error is None:
                self._acknowledged(state, flight, now)
            else:
                self._rejected(state, flight, request.error)
        missing = self._subscribe(state, request, now)
        self._settle()
        return missing

    def refuse(self, kind: TypeUrl, names: Iterable[str]) -> None:
        """Answer that `names` do not exist; they stay subscribed, and are sent when a snapshot has them."""
        state = self._types[kind]
        for name in names:
            if state.subscription.named(name):
                state.held.pop(name, None)
                state.urgent.add(name)
                self._classify(state, name)
        self._settle()

    def release(self, kind: TypeUrl | None = None, name: str | None = None) -> None:
        """Try what the client refused once more: all, of one type, or one resource."""
        for state in self._types.values():
            if kind is None or state.kind is kind:
                for refused in [n for n in state.quarantine if name is None or n == name]:
                    del state.quarantine[refused]
                    self._classify(state, refused)
        self._settle()

    def tick(self, now: float) -> None:
        """Give up waiting where the time is over."""
        if self._removals_from is not None and now >= self._removals_from:
            self._removals_from = None
        for key in [key for key, since in self._awaited.items() if now - since >= self._patience]:
            del self._awaited[key]
        for state in self._types.values():
            late = [name for name, since in state.held.items() if now - since >= self._hold]
            if late:
                self.refuse(state.kind, late)
        self._settle()

    @property
    def waiting(self) -> bool:
        """Whether `tick` has something to look after."""
        return (
            bool(self._awaited) or self._removals_from is not None or any(state.held for state in self._types.values())
        )

    # What comes out.

    def next(self) -> Response | None:
        """The next response to write, if there is one; it counts as sent."""
        if self._snapshot is None:
            return None
        for state in self._types.values():
            response = self._put(state)
            if response is not None:
                return self._send(state, response)
        for state in reversed(self._types.values()):
            response = self._remove(state)
            if response is not None:
                return self._send(state, response)
        return None

    def _put(self, state: Held) -> Response | None:
        if state.flight is not None:
            return None
        names = self._group(state) if self._may_put(state.kind) else state.puts & state.urgent
        absent = state.removes & state.urgent
        if not names and not absent and (state.puts or not state.reply):
            return None
        table = self._table(state)
        return self._response(state, [table[name] for name in sorted(names)], sorted(absent))

    def _remove(self, state: Held) -> Response | None:
        if state.flight is not None or not state.removes or not self._may_remove(state.kind):
            return None
        names = state.removes - self._pinned(state.kind)
        return self._response(state, (), sorted(names)) if names else None

    def _response(self, state: Held, put: Iterable[Resource], removed: Iterable[str]) -> Response:
        self._nonce += 1
        return Response(
            kind=state.kind,
            nonce=str(self._nonce),
            put=tuple(put),
            removed=tuple(removed),
            generation=self._generation,
        )

    def _send(self, state: Held, response: Response) -> Response:
        state.flight = response
        state.reply = False
        for name in (*(r.name for r in response.put), *response.removed):
            state.puts.discard(name)
            state.removes.discard(name)
            state.urgent.discard(name)
            state.again.discard(name)
        if state.kind is TypeUrl.CLUSTER:
            self._unproven = self._proofs(response.put)
        self._settle()
        return response

    def _proofs(self, clusters: Iterable[Resource]) -> set[object]:
        """For each cluster the endpoints that the client has not asked for yet, and will because of it alone."""
        proofs: set[object] = set()
        for cluster in clusters:
            needs = {r.name for r in cluster.references if r.kind == TypeUrl.ENDPOINT}
            asked = any(
                self._types[TypeUrl.ENDPOINT].subscription.named(name) or (TypeUrl.ENDPOINT, name) in self._awaited
                for name in needs
            )
            proofs |= {UNKNOWN} if asked or not needs or needs & proofs else needs
        return proofs

    def _group(self, state: Held) -> set[str]:
        """What to put together: after a rejection its divisions one by one, otherwise everything, but for listeners.

        Thousands of those keep the client's main thread for long, and at its start nothing is served before it has
        taken the first response: so they go in portions, those that are no service's (without "/") first.
        """
        while state.probes:
            group = state.puts & state.probes[0]
            state.probes.popleft()
            if group:
                return group
        if state.kind is TypeUrl.LISTENER and len(state.puts) > MOST_LISTENERS:
            return set(nsmallest(MOST_LISTENERS, state.puts, key=lambda name: ("/" in name, name)))
        return set(state.puts)

    # The gates.

    def _may_put(self, kind: TypeUrl) -> bool:
        """Whether additions of this type may go now."""
        t = self._types
        secrets, clusters, listeners = t[TypeUrl.SECRET], t[TypeUrl.CLUSTER], t[TypeUrl.LISTENER]
        if kind is TypeUrl.SECRET:
            return True
        if kind is TypeUrl.CLUSTER:
            return not secrets.puts
        if kind is TypeUrl.ENDPOINT:
            return not clusters.puts
        ready = not (clusters.puts or secrets.puts) and self._clusters_taken() and not self._warming()
        return ready and (kind is TypeUrl.LISTENER or not listeners.puts)

    def _clusters_taken(self) -> bool:
        """Whether the client has every cluster that was sent: it said so, or has asked for what only they refer to."""
        clusters = self._types[TypeUrl.CLUSTER]
        return clusters.flight is None or not (self._unproven or clusters.flight.removed)

    def _warming(self) -> bool:
        """Whether a cluster that the client has still lacks its first endpoints; those on the way arrive in order."""
        if any(kind is TypeUrl.ENDPOINT for kind, _ in self._awaited):
            return True
        endpoints = self._types[TypeUrl.ENDPOINT]
        return any(not endpoints.known.get(name) for name in endpoints.puts)

    def _may_remove(self, kind: TypeUrl) -> bool:
        """Whether removals of this type may go now: those who could refer to it have nothing left to do."""
        t = self._types
        if self._removals_from is not None or any(
            t[other].puts for other in (TypeUrl.CLUSTER, TypeUrl.LISTENER, TypeUrl.ROUTE)
        ):
            return False
        before = {
            TypeUrl.LISTENER: (),
            TypeUrl.ROUTE: (TypeUrl.LISTENER,),
            TypeUrl.CLUSTER: (TypeUrl.LISTENER, TypeUrl.ROUTE),
            TypeUrl.ENDPOINT: (TypeUrl.CLUSTER,),
            TypeUrl.SECRET: (TypeUrl.LISTENER, TypeUrl.CLUSTER),
        }[kind]
        return all(not t[other].flight and not (t[other].removes - self._pinned(other)) for other in before)

    def _pinned(self, kind: TypeUrl) -> frozenset[str]:
        """Names that what is held, or the last good version of what was refused, still needs, also through others."""
        # A cluster that the owner may still make keeps its endpoints; they bear its name.
        pinned = {(TypeUrl.ENDPOINT, name) for name in self._types[TypeUrl.CLUSTER].held}
        left = [(state.kind, name) for state in self._types.values() for name in state.quarantine]
        while left:
            owner, name = left.pop()
            good = self._types[owner].good.get(name)
            for reference in good.references if good is not None else ():
                key = (TypeUrl(reference.kind), reference.name)
                if key not in pinned:
                    pinned.add(key)
                    left.append(key)
        return frozenset(name for owner, name in pinned if owner is kind)

    # Transitions.

    def _acknowledged(self, state: Held, flight: Response, now: float) -> None:
        for resource in flight.put:
            state.known[resource.name] = resource.version
            state.good[resource.name] = resource
            state.quarantine.pop(resource.name, None)
            for reference in resource.references:
                kind = TypeUrl(reference.kind)
                if kind is not TypeUrl.CLUSTER and not self._types[kind].subscription.named(reference.name):
                    self._awaited[kind, reference.name] = now
        self._removed(state, flight)
        for name in (*(r.name for r in flight.put), *flight.removed):
            self._classify(state, name)

    def _removed(self, state: Held, flight: Response) -> None:
        for name in flight.removed:
            gone = state.good.pop(name, None)
            state.quarantine.pop(name, None)
            for reference in gone.references if gone else ():
                self._awaited.pop((TypeUrl(reference.kind), reference.name), None)
            if state.subscription.named(name):
                state.known[name] = None
            else:
                state.known.pop(name, None)
        if flight.removed and state.kind is TypeUrl.LISTENER:
            # A listener may have been refused because one that is gone now held its address.
            self.release(TypeUrl.LISTENER)

    def _rejected(self, state: Held, flight: Response, detail: str) -> None:
        self._removed(state, flight)  # a removal cannot fail
        names = sorted(r.name for r in flight.put)
        if len(names) == 1:
            (resource,) = flight.put
            state.quarantine[resource.name] = Nack(
                kind=state.kind, name=resource.name, version=resource.version, detail=detail
            )
        elif names:
            # Envoy may have taken some of them: nobody knows what it has now.
            state.known.update(dict.fromkeys(names, _UNCERTAIN))
            state.covered = state.level
            state.probes.extendleft(reversed(_divide(names, detail)))
        for name in (*names, *flight.removed):
            self._classify(state, name)

    def _subscribe(self, state: Held, request: Request, now: float) -> frozenset[str]:
        first = not state.subscription.begun
        if first:
            if request.initial_versions and all(not s.subscription.begun for s in self._types.values()):
                self._removals_from = now + _REUNION
            self._recall(state, request.initial_versions)
        moved = state.subscription.receive(subscribe=request.subscribe, unsubscribe=request.unsubscribe)
        table = self._table(state)
        missing: set[str] = set()
        if state.kind is TypeUrl.ENDPOINT and not first:  # at first, a client that comes back asks for what it had
            self._unproven -= moved.asked
        for name in moved.asked:
            self._awaited.pop((state.kind, name), None)
            if not (first and name in request.initial_versions):
                state.again.add(name)
                state.urgent.add(name)
            state.held.pop(name, None)
            if name not in table and state.subscription.named(name):
                missing.add(name)
                if state.subscription.only_named(name):
                    state.held[name] = now
            self._classify(state, name)
        for name in moved.dropped:
            self._forget(state, name)
        if moved.wildcard_ended:
            for name in [n for n in state.known if not state.subscription.wants(n)]:
                self._forget(state, name)
            for name in [n for n in state.puts | state.removes if not state.subscription.wants(n)]:
                self._forget(state, name)
        if moved.wildcard_began:
            state.reply = not request.initial_versions
            for name in table.keys() | state.known.keys():
                self._classify(state, name)
        elif first:
            for name in request.initial_versions:
                self._classify(state, name)
        if (moved.asked or moved.wildcard_began) and (state.puts or state.reply):
            # What is asked for now was part of a generation that this type seemed to have reached without it.
            state.covered = state.level = min(state.level, self._acked)
        return frozenset(missing)

    def _recall(self, state: Held, versions: Mapping[str, str]) -> None:
        """The client has these from an earlier stream."""
        state.known.update(versions)
        inherited = self._inherited.pop(state.kind, {})
        table = self._table(state)
        for name, version in versions.items():
            for resource in (table.get(name), inherited.get(name)):
                if resource is not None and resource.version == version:
                    state.good[name] = resource

    def _forget(self, state: Held, name: str) -> None:
        """The client is no longer interested in `name`, and has dropped it by itself."""
        state.known.pop(name, None)
        state.good.pop(name, None)
        state.quarantine.pop(name, None)
        state.held.pop(name, None)
        state.again.discard(name)
        state.urgent.discard(name)
        state.puts.discard(name)
        state.removes.discard(name)

    def _classify(self, state: Held, name: str) -> None:
        """Put `name` where it belongs: to be put, to be removed, or neither."""
        state.puts.discard(name)
        state.removes.discard(name)
        if self._snapshot is None:
            return
        wanted = self._table(state).get(name)
        sent = state.sent(name)
        again, named = name in state.again, state.subscription.named(name)
        if wanted is not None and state.subscription.wants(name):
            state.held.pop(name, None)
            nack = state.quarantine.get(name)
            if nack is not None and nack.version != wanted.version:
                del state.quarantine[name]
                nack = None
            if nack is None and (again or sent != wanted.version):
                state.puts.add(name)
        elif name not in state.held and (again or isinstance(sent, str) or (sent is UNKNOWN and named)):
            state.removes.add(name)
        if wanted is None and not isinstance(sent, str):
            state.quarantine.pop(name, None)
        if name not in state.puts and name not in state.removes and name not in state.held:
            state.urgent.discard(name)
            state.again.discard(name)

    def _settle(self) -> None:
        """Work out how far the client is."""
        if self._snapshot is None:
            return
        for state in self._types.values():
            left = state.puts or state.reply or (state.removes and state.removes - self._pinned(state.kind))
            if not left:
                state.covered = self._generation
            if state.flight is None:
                state.level = state.covered
        begun = self._types[TypeUrl.CLUSTER].subscription.begun and self._types[TypeUrl.LISTENER].subscription.begun
        if begun and not self._awaited:
            self._acked = max(self._acked, min(state.level for state in self._types.values()))

    def _table(self, state: Held) -> Mapping[str, Resource]:
        return self._snapshot.table(state.kind) if self._snapshot is not None else {}


def _differ(before: Resource | None, after: Resource | None) -> bool:
    if before is None or after is None:
        return before is not after
    return before.version != after.version


def _divide(names: Sequence[str], detail: str) -> list[frozenset[str]]:
    """A rejected response in parts that are tried one after the other; the client's text says whom to suspect."""
    suspects = [name for name in names if name in detail]
    if 0 < len(suspects) <= _MOST_SUSPECTS and len(suspects) < len(names):
        rest = frozenset(names) - frozenset(suspects)
        return [rest, *(frozenset({name}) for name in suspects)]
    middle = len(names) // 2
    return [frozenset(names[:middle]), frozenset(names[middle:])]
