"""What this process uses, as the kernel counts it."""

from __future__ import annotations

import os
import time

from clusters.usage import cpu, resident


def test_memory_is_in_bytes() -> None:
    before = resident(os.getpid())
    held = bytearray(64 << 20)
    held[::4096] = b"x" * len(held[::4096])
    assert resident(os.getpid()) - before > 32 << 20
    del held


def test_time_on_a_core_is_in_seconds() -> None:
    before, mine = cpu(os.getpid()), time.process_time()
    while time.process_time() < mine + 0.2:
        pass
    assert 0.1 < cpu(os.getpid()) - before < time.process_time() - mine + 0.1
