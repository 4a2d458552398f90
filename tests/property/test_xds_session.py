"""The delta session against a model of Envoy: whatever is published, refused, lost or late, they end up agreeing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from federation.xds.consistency import check
from federation.xds.delta import Session
from federation.xds.exchange import Request, Response
from federation.xds.references import Reference
from federation.xds.snapshot import InconsistentSnapshot, Resource, Snapshot, TypeUrl

CLUSTERS = ("a", "b", "c", "vip/x", "vip/y")
ON_DEMAND = ("vip/",)
ASKS = (TypeUrl.ENDPOINT, TypeUrl.ROUTE, TypeUrl.SECRET)


def resource(kind: TypeUrl, name: str, version: str, *references: tuple[TypeUrl, str]) -> Resource:
    return Resource(
        kind=kind,
        name=name,
        version=version,
        body=version.encode(),
        references=frozenset(Reference(k.value, n) for k, n in references),
    )


versions = st.sampled_from(("1", "2", "3", "bad1", "bad2"))


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    clusters = draw(st.sets(st.sampled_from(CLUSTERS)))
    routes = draw(st.sets(st.sampled_from(("r", "s"))))
    usable = sorted(c for c in clusters if not c.startswith("vip/"))
    uses = st.lists(st.sampled_from(usable), max_size=2, unique=True) if usable else st.just([])
    tables: dict[TypeUrl, list[Resource]] = {kind: [] for kind in TypeUrl}
    tables[TypeUrl.SECRET].append(resource(TypeUrl.SECRET, "identity", draw(st.sampled_from("123"))))
    for name in sorted(clusters):
        references = [(TypeUrl.ENDPOINT, name)]
        version = draw(versions)
        if draw(st.booleans()):
            references.append((TypeUrl.SECRET, "identity"))
            version += "s"  # as a hash of the content, the version tells what it refers to
        tables[TypeUrl.CLUSTER].append(resource(TypeUrl.CLUSTER, name, version, *references))
        tables[TypeUrl.ENDPOINT].append(resource(TypeUrl.ENDPOINT, name, draw(versions)))

    def used() -> tuple[str, list[tuple[TypeUrl, str]]]:
        # The version says what it refers to, as a hash of the content would.
        names = sorted(draw(uses))
        return f"{draw(versions)}({','.join(names)})", [(TypeUrl.CLUSTER, c) for c in names]

    for name in sorted(routes):
        version, references = used()
        tables[TypeUrl.ROUTE].append(resource(TypeUrl.ROUTE, name, version, *references))
    for name in sorted(draw(st.sets(st.sampled_from(("l", "m"))))):
        version, references = used()
        if routes:
            route = draw(st.sampled_from(sorted(routes)))
            version, references = f"{version}{route}", [*references, (TypeUrl.ROUTE, route)]
        tables[TypeUrl.LISTENER].append(resource(TypeUrl.LISTENER, name, version, *references))
    return Snapshot.of(tables)


@dataclass
class Envoy:
    """What the real one does, as far as it matters: partial acceptance, explicit subscriptions, reconnects."""

    has: dict[TypeUrl, dict[str, Resource]] = field(default_factory=lambda: {kind: {} for kind in TypeUrl})
    asked: dict[TypeUrl, set[str]] = field(default_factory=lambda: {kind: set() for kind in TypeUrl})
    wanted_vips: set[str] = field(default_factory=set)
    refused: dict[tuple[TypeUrl, str], str] = field(default_factory=dict)

    def connect(self) -> list[Request]:
        requests = []
        for kind in (TypeUrl.CLUSTER, TypeUrl.ENDPOINT, TypeUrl.LISTENER, TypeUrl.ROUTE, TypeUrl.SECRET):
            if kind is TypeUrl.CLUSTER and self.wanted_vips:
                names = ["*", *sorted(self.wanted_vips)]
            else:
                names = sorted(self.asked[kind])
            if not names and kind in ASKS:
                continue
            had = {name: r.version for name, r in self.has[kind].items()}
            requests.append(Request(kind=kind, subscribe=names, initial_versions=had))
        return requests

    def receive(self, response: Response) -> list[Request]:
        errors = []
        has = self.has[response.kind]
        bad = [r for r in response.put if r.version.startswith("bad")]
        for put in response.put:
            assert put.kind is response.kind
            if put in bad:
                errors.append(f"{put.name}: broken")
                self.refused[put.kind, put.name] = put.version
            elif not bad or response.kind in (TypeUrl.CLUSTER, TypeUrl.LISTENER):
                has[put.name] = put
        for name in response.removed:
            has.pop(name, None)
        requests = self._subscriptions()
        error = "; ".join(errors) if errors else None
        requests.insert(0, Request(kind=response.kind, nonce=response.nonce, error=error))
        return requests

    def _subscriptions(self) -> list[Request]:
        requests = []
        for kind in ASKS:
            wanted = {
                r.name
                for owner in (TypeUrl.CLUSTER, TypeUrl.LISTENER)
                for each in self.has[owner].values()
                for r in each.references
                if r.kind == kind
            }
            new, old = wanted - self.asked[kind], self.asked[kind] - wanted
            self.asked[kind] = wanted
            for name in old:
                self.has[kind].pop(name, None)
            if new or old:
                requests.append(Request(kind=kind, subscribe=sorted(new), unsubscribe=sorted(old)))
        return requests


class Sessions(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.envoy = Envoy()
        self.session: Session | None = None
        self.previous: Session | None = None
        self.history: list[Snapshot] = []
        self.to_envoy: deque[Response] = deque()
        self.to_server: deque[Request] = deque()
        self.now = 0.0

    # Steps.

    @initialize(snapshot=snapshots())
    def begin(self, snapshot: Snapshot) -> None:
        self.publish(snapshot)
        self.connect(restarted=False, forgets=False)

    @precondition(lambda self: self.session is not None)
    @rule(steps=st.lists(st.sampled_from(("send", "hear", "tell")), min_size=1, max_size=12))
    def flow(self, steps: list[str]) -> None:
        for step in steps:
            if step == "send":
                self.send()
            elif step == "hear" and self.to_envoy:
                self.deliver_response()
            elif step == "tell" and self.to_server:
                self.deliver_request()
            self.acknowledged_means_applied()

    @rule(snapshot=snapshots())
    def publish(self, snapshot: Snapshot) -> None:
        try:
            check(snapshot, on_demand=ON_DEMAND)
        except InconsistentSnapshot:
            raise AssertionError("the strategy draws consistent snapshots") from None
        self.history.append(snapshot)
        if self.session is not None:
            self.session.publish(len(self.history), snapshot)

    @precondition(lambda self: self.session is None)
    @rule(restarted=st.booleans(), forgets=st.booleans())
    def connect(self, restarted: bool, forgets: bool) -> None:
        if restarted:
            self.envoy = Envoy(wanted_vips=set())
        self.session = Session(on_demand=ON_DEMAND, hold=5.0, patience=2.0, heir_of=None if forgets else self.previous)
        self.forgetful = forgets
        if self.history:
            self.session.publish(len(self.history), self.history[-1])
        self.to_server.extend(self.envoy.connect())

    @precondition(lambda self: self.session is not None)
    @rule()
    def disconnect(self) -> None:
        self.previous, self.session = self.session, None
        self.to_envoy.clear()
        self.to_server.clear()

    @precondition(lambda self: self.session is not None)
    @rule()
    def send(self) -> None:
        assert self.session is not None
        response = self.session.next()
        if response is not None:
            in_flight = [r.kind for r in self.to_envoy] + [r.kind for r in self.to_server if r.nonce not in ("", "0")]
            assert response.kind not in in_flight, "one response in flight per type"
            names = [r.name for r in response.put] + list(response.removed)
            assert len(names) == len(set(names))
            if response.kind is TypeUrl.CLUSTER:
                asked = self.session.named(TypeUrl.CLUSTER)
                assert all(not r.name.startswith("vip/") or r.name in asked for r in response.put)
            self.to_envoy.append(response)

    @precondition(lambda self: self.to_envoy)
    @rule()
    def deliver_response(self) -> None:
        response = self.to_envoy.popleft()
        self.to_server.extend(self.envoy.receive(response))
        self.check_references()
        if response.kind is TypeUrl.LISTENER:
            self.check_endpoints(response)

    @precondition(lambda self: self.to_server)
    @rule()
    def deliver_request(self) -> None:
        assert self.session is not None
        self.session.receive(self.to_server.popleft(), now=self.now)

    @precondition(lambda self: self.session is not None)
    @rule(name=st.sampled_from(("vip/x", "vip/y", "vip/none")))
    def dial(self, name: str) -> None:
        """A connection to an address whose cluster comes on demand."""
        first = [] if self.envoy.wanted_vips else ["*"]
        self.envoy.wanted_vips.add(name)
        self.to_server.append(Request(kind=TypeUrl.CLUSTER, subscribe=[*first, name]))

    @precondition(lambda self: self.session is not None and self.envoy.wanted_vips)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.envoy.wanted_vips)))
        if self.envoy.wanted_vips == {name}:
            return  # the wildcard would change hands: not what Envoy does
        self.envoy.wanted_vips.discard(name)
        self.to_server.append(Request(kind=TypeUrl.CLUSTER, unsubscribe=[name]))

    @precondition(lambda self: self.session is not None)
    @rule(kind=st.sampled_from(list(TypeUrl)), error=st.sampled_from((None, "late")))
    def stale_answer(self, kind: TypeUrl, error: str | None) -> None:
        assert self.session is not None
        if any(request.kind is kind for request in self.to_server) or kind not in (TypeUrl.CLUSTER, TypeUrl.LISTENER):
            return
        self.to_server.append(Request(kind=kind, nonce="0", error=error))

    @precondition(lambda self: self.session is not None and not self.to_server)  # requests do not take seconds
    @rule(seconds=st.floats(0.1, 6.0))
    def wait(self, seconds: float) -> None:
        assert self.session is not None
        self.now += seconds
        self.session.tick(self.now)

    @precondition(lambda self: self.session is not None and self.history)
    @rule()
    def rest(self) -> None:
        """Everything is delivered and every time-out passes: both ends agree, but for what Envoy refuses."""
        assert self.session is not None
        for _ in range(3):
            for _ in range(400):
                response = self.session.next()
                if response is not None:
                    self.to_envoy.append(response)
                if self.to_envoy:
                    self.deliver_response()
                elif self.to_server:
                    self.deliver_request()
                else:
                    break
            else:
                raise AssertionError("they never come to rest")
            self.now += 6.0
            self.session.tick(self.now)
        assert self.session.acked == len(self.history)
        assert not self.session.waiting
        snapshot = self.history[-1]
        pinned = self.needed_by_refused()
        for kind in TypeUrl:
            for name, wanted in snapshot.table(kind).items():
                if kind in ASKS and name not in self.envoy.asked[kind]:
                    continue
                if name.startswith("vip/") and kind is TypeUrl.CLUSTER and name not in self.envoy.wanted_vips:
                    assert name not in self.envoy.has[kind]
                    continue
                has = self.envoy.has[kind].get(name)
                if wanted.version.startswith("bad"):
                    assert (kind, name) in self.session.nacks
                    assert has is None or not has.version.startswith("bad")
                else:
                    assert has is not None, (kind, name)
                    assert has.version == wanted.version, (kind, name)
                    assert (kind, name) not in self.session.nacks
            for name in self.envoy.has[kind].keys() - snapshot.table(kind).keys():
                assert (kind, name) in pinned, f"{kind.label} {name} should be gone"

    # What always holds.

    @invariant()
    def never_ahead(self) -> None:
        if self.session is not None:
            assert self.session.acked <= len(self.history)

    @invariant()
    def acknowledged_means_applied(self) -> None:
        """Everything that Envoy has is at least as new as the generation that counts as acknowledged."""
        if self.session is None or not self.session.acked:
            return
        since = self.history[self.session.acked - 1 :]
        for kind in TypeUrl:
            for name, wanted in since[0].table(kind).items():
                if name.startswith("vip/") or wanted.version.startswith("bad"):
                    continue
                if kind in ASKS and not self.needed_throughout(since, kind, name):
                    continue
                allowed = {found.version if (found := s.get(kind, name)) else None for s in since}
                has = self.envoy.has[kind].get(name)
                assert any(v is None or v.startswith("bad") for v in allowed) or (has and has.version in allowed)

    def needed_throughout(self, since: list[Snapshot], kind: TypeUrl, name: str) -> bool:
        """Whether something that Envoy has, the same in all of these snapshots, needs this resource."""
        for owner in (TypeUrl.CLUSTER, TypeUrl.LISTENER):
            for has in self.envoy.has[owner].values():
                always = all((r := s.get(owner, has.name)) and r.version == has.version for s in since)
                if always and not has.name.startswith("vip/") and Reference(kind.value, name) in has.references:
                    return True
        return False

    def needed_by_refused(self) -> set[tuple[str, str]]:
        needed: set[tuple[str, str]] = set()
        assert self.session is not None
        left = list(self.session.nacks)
        while left:
            kind, name = left.pop()
            has = self.envoy.has[TypeUrl(kind)].get(name)
            for reference in has.references if has is not None else ():
                if (reference.kind, reference.name) not in needed:
                    needed.add((reference.kind, reference.name))
                    left.append((TypeUrl(reference.kind), reference.name))
        return needed

    def check_references(self) -> None:
        """Make before break: what Envoy serves never names a cluster that it had and has no more."""
        if getattr(self, "forgetful", False):
            return
        for kind in (TypeUrl.LISTENER, TypeUrl.ROUTE):
            for owner in self.envoy.has[kind].values():
                for reference in owner.references:
                    if reference.kind == TypeUrl.CLUSTER and reference.name not in self.envoy.has[TypeUrl.CLUSTER]:
                        assert (TypeUrl.CLUSTER, reference.name) in self.envoy.refused, (
                            f"{owner.name} lost {reference.name}"
                        )

    def check_endpoints(self, response: Response) -> None:
        """A listener does not come before the endpoints of the clusters that it leads to.

        They are ahead of it on the stream, not acknowledged: where endpoints are refused, others may be late with them.
        """
        if any(kind is TypeUrl.ENDPOINT for kind, _ in self.envoy.refused):
            return
        for listener in response.put:
            for reference in listener.references:
                if reference.kind == TypeUrl.CLUSTER and reference.name in self.envoy.has[TypeUrl.CLUSTER]:
                    assert reference.name in self.envoy.has[TypeUrl.ENDPOINT], f"{listener.name} came too early"


Sessions.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestSessions = Sessions.TestCase
