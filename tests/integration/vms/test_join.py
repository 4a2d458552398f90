"""A machine joins over TCP with nothing but its bundle, and keeps its identity."""

from __future__ import annotations

from typing import Any

import pytest

from clusters.waiting import until

pytestmark = pytest.mark.integration


async def test_a_machine_joins_by_its_bundle_and_answers_global_names(site: Any) -> None:
    vm = await site.invite("web-1")
    assert (await site.listed("web-1"))["state"] == "invited"
    vm.start()
    await vm.resolves()
    await until(lambda: site.is_joined("web-1"))
