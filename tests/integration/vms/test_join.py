"""A machine joins over TCP with nothing but its bundle, and keeps its identity."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from clusters.waiting import START, until
from discovery.vms.names import vm_of
from federation.aio.clock import SystemClock
from federation.model.ids import SpiffeId
from federation.proto.v1 import vms_pb2, vms_pb2_grpc
from federation.registry.status import from_rpc_error
from federation.trust import possession
from federation.trust.channels import anonymous_channel_credentials, channel_options
from federation.trust.csr import make_csr
from federation.trust.enrolment import AGENT, PinnedServer, fetch_pinned
from federation.trust.keys import key_to_pem, new_key, public_der
from federation.trust.keystore import write_secret
from federation.trust.token import VmToken

pytestmark = pytest.mark.integration

TRUST_DOMAIN = "dc1.vm.isthmus"


async def test_a_machine_joins_by_its_bundle_and_answers_global_names(site: Any) -> None:
    vm = await site.invite("web-1", "--service", "shop/*")
    assert (await site.listed("web-1"))["state"] == "invited"
    vm.start()
    await vm.resolves()
    await until(lambda: site.is_joined("web-1"))
    shown = await site.listed("web-1")
    assert (shown["identity"], shown["services"], shown["address"]) == ("shop/web", ["shop/*"], "127.0.0.1")
    assert shown["version"]
    grant = vm.grant
    assert grant.svid.spiffe_id == SpiffeId.workload(TRUST_DOMAIN, "shop", "web")
    assert vm_of(grant.svid.chain, TRUST_DOMAIN) == "web-1"
    for kept in ("machine.key", "identity"):
        assert (vm.state / kept).stat().st_mode & 0o077 == 0

    # A restart needs neither the token nor, while the identity lives, the agent.
    vm.stop()
    await until(lambda: _is(site, "web-1", "lost"))
    (vm.folder / "join.token").unlink()
    vm.start()
    await vm.resolves()
    await until(lambda: site.is_joined("web-1"))


async def _is(site: Any, name: str, state: str) -> bool:
    return (await site.listed(name)).get("state") == state


async def test_a_token_works_once_for_one_machine(site: Any) -> None:
    vm = await site.invite("once")
    vm.start()
    await until(lambda: site.is_joined("once"), seconds=START)

    thief = site.copy(vm, "thief")
    thief.start()
    await until(lambda: thief.said("the token of VM once has been used"), seconds=START)
    assert not (thief.state / "identity").exists()
    thief.stop()
    thief.adjust(name="thief")
    thief.start()
    await until(lambda: thief.said("is for VM once, not for thief"), seconds=START)
    assert await site.is_joined("once")
    assert await vm.connected()


async def test_what_is_not_the_agent_gets_nothing(site: Any) -> None:
    """The registry's own enrolment port stands in for somebody between: it speaks TLS, and has another root."""
    vm = await site.invite("wary")
    other = f"{site.processes.registry_address}:{site.processes.registry_ports['enrolment']}"
    vm.adjust(agent={"enrolment": [other]})
    vm.start()
    await until(lambda: vm.said("does not show the root certificate of this machine's cluster"), seconds=START)
    assert (await site.listed("wary"))["state"] == "invited"
    vm.stop()
    vm.adjust(agent={"enrolment": [other, site.address]})  # the right one is found behind it
    vm.start()
    await until(lambda: site.is_joined("wary"), seconds=START)


async def test_a_machine_that_was_removed_is_out_until_it_is_invited_again(site: Any, refused: Any) -> None:
    vm = await site.invite("gone")
    vm.start()
    await vm.resolves()
    await until(lambda: site.is_joined("gone"))
    with pytest.raises(refused) as caught:
        await site.invite("gone")
    assert caught.value.code == "vm_exists"

    await site.fedctl("vm", "remove", "gone", "--cluster", "dc1")
    await until(lambda: vm.said("vm_removed"))
    assert not await site.listed("gone")
    assert await vm.resolve(), "what it has it serves on"
    await until(lambda: vm.said("VM gone was removed from this cluster"))
    assert not await vm.connected()
    with pytest.raises(refused) as caught:
        await site.fedctl("vm", "remove", "gone", "--cluster", "dc1")
    assert caught.value.code == "vm_unknown"

    await site.invite("gone", "--namespace", "shop", "--account", "api")  # new settings, a new token, the old key
    vm.stop()
    vm.start()
    await until(lambda: site.is_joined("gone"), seconds=START)
    assert vm.grant.svid.spiffe_id.path == "/ns/shop/sa/api"


class Caller:
    """A machine's side of one call, a step at a time."""

    def __init__(self, token: VmToken, server: PinnedServer, channel: grpc.aio.Channel) -> None:
        self.key, self._token, self._server = new_key(), token, server
        self.call = vms_pb2_grpc.VmIdentityStub(channel).Sign()  # type: ignore[no-untyped-call]

    def request(self, nonce: bytes) -> vms_pb2.VmSignRequest:
        csr = make_csr(new_key())
        proof = possession.sign_vm(
            self.key,
            nonce=nonce,
            root=self._token.fingerprint,
            vm=self._token.vm,
            token=self._token.hash(),
            csr=csr,
        )
        return vms_pb2.VmSignRequest(
            vm=self._token.vm,
            token=self._token.encode(),
            key=public_der(self.key.public_key()),
            csr=csr,
            proof=proof,
        )

    async def send(self) -> None:
        await self.call.write(self.request((await self.call.read()).nonce))

    async def outcome(self) -> str:
        """ "won", or the code of the refusal."""
        try:
            await self.send()
            return "won" if (await self.call.read()).reply.chain else "nothing"
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error, what="the agent").error_code


async def dial(folder: Path) -> tuple[VmToken, PinnedServer, grpc.aio.Channel]:
    token = VmToken.parse((folder / "join.token").read_text())
    server = await fetch_pinned(token.agent, token.fingerprint, clock=SystemClock(), party=AGENT)
    credentials = anonymous_channel_credentials(server.bundle)
    return token, server, grpc.aio.secure_channel(token.agent, credentials, options=channel_options(server.server_name))


async def test_of_a_hundred_keys_with_one_token_one_wins(site: Any) -> None:
    vm = await site.invite("crowd")
    token, server, channel = await dial(vm.folder)
    async with channel:
        callers = [Caller(token, server, channel) for _ in range(100)]
        outcomes = await asyncio.gather(*(caller.outcome() for caller in callers))
    assert sorted(set(outcomes)) == ["token_used", "won"]
    assert outcomes.count("won") == 1


async def test_a_reply_that_was_lost_with_its_agent_is_asked_for_again(settled: Any) -> None:
    site = settled
    vm = await site.invite("unheard")
    token, server, channel = await dial(vm.folder)
    async with channel:
        caller = Caller(token, server, channel)
        await caller.send()
        await until(lambda: _is(site, "unheard", "lost"))  # it is enrolled, and nobody reads the reply
        site.kill()
        caller.call.cancel()
    write_secret(vm.state / "machine.key", key_to_pem(caller.key))
    await site.restart()

    thief = site.copy(vm, "unheard-thief")
    thief.start()
    await until(lambda: thief.said("has been used"), seconds=START)
    vm.start()
    await until(lambda: site.is_joined("unheard"), seconds=START)


async def test_a_proof_is_worth_nothing_on_another_stream(site: Any) -> None:
    vm = await site.invite("replay")
    token, server, channel = await dial(vm.folder)
    async with channel:
        first, second = Caller(token, server, channel), Caller(token, server, channel)
        stub = vms_pb2_grpc.VmIdentityStub(channel)  # type: ignore[no-untyped-call]
        overheard = first.request((await first.call.read()).nonce)
        call = stub.Sign()
        await call.read()
        await call.write(overheard)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert from_rpc_error(caught.value, what="the agent").error_code == "possession_unproven"
        first.call.cancel()
        assert await second.outcome() == "won"
