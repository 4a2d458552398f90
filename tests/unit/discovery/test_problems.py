from __future__ import annotations

from discovery.problems import MAX_SHOWN, ProblemBook
from federation.aio.clock import FakeClock
from federation.model.cluster import Problem


def test_a_problem_keeps_the_time_since_when_it_is_so() -> None:
    clock = FakeClock()
    book = ProblemBook(clock)
    book.set("files", [Problem("a", "x:1", "bad")])
    since = clock.wall_ns()
    clock.advance(10)
    version = book.changed.version
    book.set("files", [Problem("a", "x:1", "bad")])
    assert book.changed.version == version
    book.set("files", [Problem("a", "x:1", "bad"), Problem("b", "y:1", "bad")])
    assert [p.since_ns for p in book.all()] == [since, clock.wall_ns()]
    book.set("files", [])
    assert book.all() == ()


def test_crowds_are_counted() -> None:
    book = ProblemBook(FakeClock())
    book.set("files", [Problem("a", f"{n}", "bad") for n in range(MAX_SHOWN + 7)])
    assert len(book.all()) == MAX_SHOWN + 1
    assert book.all()[-1].detail.startswith("7 more")
