"""Several sources as one: after any sequence of updates the state is what the newest states of the parts give."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from discovery.sources.base import Source, SourceState
from discovery.sources.combined import Combined, Part
from discovery.sources.unite import Offer, unite
from federation.aio.latest import Latest
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Endpoint, Grant, Port, Service

NAMES = [ServiceName("shop", name) for name in "abc"]
PARTS = ("kubernetes", "files", "vm")

ports = st.builds(
    Port,
    name=st.sampled_from(["x", "y"]),
    port=st.integers(80, 81),
    app=st.sampled_from([AppProtocol.HTTP, AppProtocol.GRPC]),
)
endpoints = st.builds(
    Endpoint,
    address=st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
    ready=st.booleans(),
    ports=st.dictionaries(st.integers(80, 81), st.integers(1, 2), max_size=2),
)


def services(name: ServiceName) -> st.SearchStrategy[Service]:
    return st.builds(
        Service,
        name=st.just(name),
        exported_at_ns=st.integers(0, 3),
        ports=st.lists(ports, max_size=2, unique_by=(lambda p: p.port, lambda p: p.name)).map(tuple),
        grants=st.sampled_from([(), (Grant("west"),)]),
        endpoints=st.lists(endpoints, max_size=3, unique_by=lambda e: (e.address, tuple(e.ports.items()))).map(tuple),
    )


class Changing:
    """A part that changes a service at a time, as real ones do, or leaps."""

    def __init__(self) -> None:
        self.state = SourceState()

    def apply(self, name: ServiceName, kind: str, service: Service, *, leap: bool) -> SourceState:
        exports, unexported = dict(self.state.exports), dict(self.state.unexported)
        exports.pop(name, None)
        unexported.pop(name, None)
        if kind == "exported":
            exports[name] = service
        elif kind == "unexported":
            unexported[name] = service
        self.state = SourceState(
            exports=exports,
            unexported=unexported,
            services=frozenset({*exports, *unexported}),
            complete=True,
            number=self.state.number + (3 if leap else 1),
            changed=frozenset({name}),
        )
        return self.state


updates = st.lists(
    st.sampled_from(NAMES).flatmap(
        lambda name: st.tuples(
            st.integers(0, 2),
            st.just(name),
            st.sampled_from(["exported", "unexported", "gone"]),
            services(name),
            st.booleans(),
        )
    ),
    max_size=8,
)


def combined() -> Combined:
    return Combined([Part(kind, _source()) for kind in PARTS])


def _source() -> Source:
    class Silent:
        state: Latest[SourceState] = Latest(SourceState())
        what = "nothing"

    return Silent()  # type: ignore[return-value]  # never run and never asked


def expected(states: list[SourceState]) -> tuple[dict[ServiceName, Service], set[str]]:
    exports, problems = {}, set()
    for name in NAMES:
        offers = []
        for kind, state in zip(PARTS, states, strict=True):
            for known, exported in ((state.exports, True), (state.unexported, False)):
                if name in known:
                    offers.append(Offer(place=kind, service=known[name], exported=exported))
        if any(offer.exported for offer in offers):
            exports[name], found = unite(name, offers)
            problems |= {p.detail for p in found}
    return exports, problems


@given(updates)
def test_any_sequence_of_updates_gives_what_a_computation_from_scratch_gives(drawn):
    made, parts = combined(), [Changing() for _ in PARTS]
    for number, part in enumerate(parts):
        part.state = replace(part.state, complete=True, number=1)
        made.take(number, part.state)
    for number, name, kind, service, leap in drawn:
        before = made.state.value
        made.take(number, parts[number].apply(name, kind, service, leap=leap))
        after = made.state.value
        exports, problems = expected([part.state for part in parts])
        assert dict(after.exports) == exports
        assert {p.detail for p in after.problems} == problems
        assert set(after.services) == {n for part in parts for n in part.state.services}
        assert len(after.services) == len(set(after.services))
        if after is not before and after.number == before.number + 1:
            moved = {n for n in NAMES if before.exports.get(n) is not after.exports.get(n)}
            assert moved <= (after.changed or set()) <= {name}
        for other in NAMES:
            if other != name:
                assert after.exports.get(other) is before.exports.get(other)


@given(updates, st.randoms(use_true_random=False))
def test_the_order_in_which_parts_speak_does_not_matter(drawn, random):
    """Each part's own updates keep their order; between the parts they may come in any."""
    queues: list[list[SourceState]] = [[] for _ in PARTS]
    parts = [Changing() for _ in PARTS]
    for number, name, kind, service, leap in drawn:
        queues[number].append(parts[number].apply(name, kind, service, leap=leap))

    def play(pick):
        made, left = combined(), [list(q) for q in queues]
        while any(left):
            number = pick([n for n, q in enumerate(left) if q])
            made.take(number, left[number].pop(0))
        return made.state.value

    one, other = play(lambda numbers: numbers[0]), play(random.choice)
    assert dict(one.exports) == dict(other.exports)
    assert {p.detail for p in one.problems} == {p.detail for p in other.problems}
    assert set(one.services) == set(other.services)


@given(st.lists(st.tuples(st.sampled_from(PARTS), services(NAMES[0]), st.booleans()), min_size=1, max_size=3))
def test_every_endpoint_is_under_ports_that_the_service_has(drawn):
    offers = [Offer(place=place, service=service, exported=exported) for place, service, exported in drawn]
    found, _ = unite(NAMES[0], offers)
    if len(offers) > 1:
        first = next((o for o in offers if o.exported), offers[0])
        assert found.ports == first.service.ports
        for endpoint in found.endpoints:
            if endpoint not in first.service.endpoints:
                assert endpoint.ports.keys() <= {p.port for p in found.ports}
    assert {e.address for e in found.endpoints} <= {e.address for o in offers for e in o.service.endpoints}
