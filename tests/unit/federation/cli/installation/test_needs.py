"""Who needs an agent, as it is told."""

from __future__ import annotations

import pytest

from federation.cli.installation.needs import Needs
from federation.errors import Conflict

PODS = [f"shop/web-{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("needs", "told"),
    [
        (Needs(components=["gateway", "webhook"]), "gateway, webhook"),
        (Needs(pods=PODS[:1]), "1 pod with a sidecar (shop/web-0)"),
        (Needs(pods=PODS), "5 pods with a sidecar (shop/web-0, shop/web-1, shop/web-2, …)"),
        (Needs(components=["gateway"], imports=["shop/echo"]), "gateway, 1 import (shop/echo)"),
    ],
)
def test_they_are_named(needs: Needs, told: str) -> None:
    with pytest.raises(Conflict) as it:
        needs.check("east")
    assert (it.value.message, it.value.error_code) == (f"the agent is needed by {told}", "needed_by")
    assert "fedctl cluster leave east" in (it.value.hint or "")
    assert "--force" in (it.value.hint or "")


def test_nobody() -> None:
    Needs().check("east")
