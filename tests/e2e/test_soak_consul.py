"""A large Consul catalog that changes 50 times a second: the agent misses nothing, and does not grow.

`pytest -m soak` runs a minute of it, `pytest -m soak --soak-seconds 300` five.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from clusters.consulchurn import Churn
from clusters.consulendurance import META, endurance, start

pytestmark = [pytest.mark.e2e, pytest.mark.soak]

SERVICES, INSTANCES, RATE = 5000, 20_000, 50.0
MOST = 300e6
"""Bytes that an agent of this size may take."""


@pytest.mark.usefixtures("consul_program")
async def test_an_agent_misses_nothing_of_a_large_catalog(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """1. fill Consul  2. start an agent  3. change, for the time that is asked for  4. it has exactly what is there"""
    seconds = request.config.getoption("--soak-seconds")
    churn = Churn(random.Random(1), services=SERVICES, instances=INSTANCES, meta=META)
    async with endurance(tmp_path, churn) as one:
        await start(one)
        # What the first changes make it allocate is no growth.
        await one.endure(rate=RATE, seconds=seconds / 4)
        endured = await one.endure(rate=RATE, seconds=seconds)
        assert await one.seen() == churn.expected()
        for log in (one.federation.directory / "logs").iterdir():
            assert "Traceback" not in log.read_text(errors="replace"), log
    assert endured.changes >= 0.95 * RATE * seconds
    assert endured.after < 1.1 * endured.before
    assert endured.peak < MOST
