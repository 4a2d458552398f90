"""What the start left is given back, and what stays is not looked at by later collections."""

from __future__ import annotations

import gc

from federation.registry.edge import memory


def test_what_exists_is_out_of_the_collectors_sight() -> None:
    before = gc.get_freeze_count()
    try:
        memory.settle()
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()


def test_a_small_build_is_not_worth_a_trim(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    calls: list[object] = []
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: calls.append(name))
    memory.trim(memory.LARGE - 1)
    assert not calls
