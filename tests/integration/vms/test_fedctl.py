"""What an operator sees and does: one YAML carried over, a gateway on a machine of its own, and clear refusals."""

from __future__ import annotations

import io
from typing import Any

import pytest

from clusters.network import free_port
from clusters.waiting import START, until

pytestmark = pytest.mark.integration


async def test_a_gateway_on_another_machine_joins_by_one_yaml(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    host, port = site.place.address, free_port(site.place.address)
    folder = site.root / "gw-1"
    text = await site.printed(
        "vm", "bootstrap", "gw-1", "--cluster", "dc1", "--gateway", f"{host}:{port}", "--state", str(folder / "state")
    )
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    unpacked = await site.fedctl("vm", "unpack", "-", str(folder))
    assert sorted(unpacked["files"]) == [str(folder / name) for name in ("anchors.pem", "gateway.yaml", "join.token")]
    vm = site.machine("gw-1", folder, process="gateway")
    vm.adjust(bind=host, egress_bind=host)
    vm.start()
    await until(lambda: site.is_joined("gw-1"), seconds=START)
    assert (await site.listed("gw-1"))["identity"] == "isthmus-system/gateway"

    async def announced() -> bool:
        return any(g["name"] == "gw-1" for g in await site.fedctl("get", "gateways"))

    await until(announced)
    await site.fedctl("vm", "remove", "gw-1", "--cluster", "dc1")

    async def withdrawn() -> bool:
        return not await announced()

    await until(withdrawn)


async def test_an_agent_that_lets_no_machine_in_says_so(settled: Any, refused: Any) -> None:
    site = settled
    site.kill()
    site.adjust(vms={})
    await site.restart()
    with pytest.raises(refused) as caught:
        await site.invite("nobody")
    assert caught.value.code == "vms_not_listening"
    assert "vms: {listen:" in caught.value.hint


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--service", "shop"], "invalid_pattern"),
        (["--namespace", "isthmus-system", "--account", "agent"], "vm_identity_denied"),
        (["--namespace", "Shop"], "invalid_name"),
    ],
)
async def test_what_cannot_be_asked_for(site: Any, refused: Any, words: list[str], code: str) -> None:
    with pytest.raises(refused) as caught:
        await site.fedctl("vm", "bootstrap", "x", "--cluster", "dc1", *words)
    assert caught.value.code == code
    assert not await site.listed("x")
