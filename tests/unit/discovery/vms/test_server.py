"""Machines at the door: both ends in one process, over real TLS. A refusal is one code and one line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
import structlog

from clusters.network import free_port
from clusters.waiting import until
from discovery import enrolment
from discovery.enrolment import Door, Signer
from discovery.vms import table as tables
from discovery.vms.names import key_label, speaker_of
from discovery.vms.plans import Invitation, Invited
from discovery.vms.server import VmServer
from discovery.vms.table import VmTable
from federation.aio.clock import FakeClock, SystemClock
from federation.dns.ratelimit import RateLimit
from federation.errors import IsthmusError, StorageFailed
from federation.model.ids import SYSTEM_NAMESPACE, SpiffeId
from federation.proto.v1 import vms_pb2, vms_pb2_grpc
from federation.registry import machine
from federation.registry.edge.afar import Job
from federation.registry.status import from_rpc_error
from federation.trust.authority import Authority
from federation.trust.bundle import fingerprint
from federation.trust.channels import agent_server_name, anonymous_channel_credentials, channel_options
from federation.trust.csr import make_csr
from federation.trust.keys import key_from_pem, new_key, public_der, public_fingerprint
from federation.trust.keystore import read_secret, write_secret
from federation.trust.pem import armour
from federation.trust.token import VmToken
from federation.trust.workload import Grant

CLOCK = SystemClock()
TD = "dc1.fed.test"
VM = "web-1"


class Cluster:
    """An authority, a table, and an agent's door."""

    def __init__(self, root: Path, trust_domain: str = TD) -> None:
        self.root, self.trust_domain = root, trust_domain
        root.mkdir()
        self.authority = Authority.open(root / "keys", trust_domain=trust_domain, clock=CLOCK)
        self.table = VmTable(root, clock=CLOCK, log=structlog.get_logger())
        self.servers: list[VmServer] = []

    async def open(self, *, names: tuple[str, ...] = (), address: str = "", **changes: Any) -> str:
        """Another door; its address."""
        svid = self.authority.issue_with_key(
            spiffe_id=SpiffeId.workload(self.trust_domain, SYSTEM_NAMESPACE, "agent"),
            dns_names=names or [agent_server_name(self.trust_domain)],
        )
        address = address or f"127.0.0.1:{free_port()}"
        made = VmServer(
            Door(
                address,
                self.authority,
                setting="vms.listen",
                who="vm",
                svid=lambda: svid,
                clock=CLOCK,
                log=structlog.get_logger(),
                **changes,
            ),
            self.table,
            Signer(
                authority=self.authority,
                federation="fed.test",
                cluster="dc1",
                agent_addresses=lambda: ["192.0.2.1:7445", "192.0.2.2:7445"],
                enrolment_addresses=lambda: ["192.0.2.1:7446", address],
                ttl=timedelta(minutes=10),
            ),
            log=structlog.get_logger(),
        )
        await made.start()
        self.servers.append(made)
        return address

    async def invite(self, address: str, *, vm: str = VM, seconds: float = 60, account: str = "web") -> VmToken:
        token = VmToken.new(agent=address, fingerprint=fingerprint(self.authority.bundle), vm=vm)
        expires = CLOCK.wall_ns() + int(seconds * 1e9)
        await self.table.issue(Invited(vm, "shop", account), Invitation(token.hash(), expires))
        return token

    def job(self, *addresses: str, token: VmToken | None = None, **changes: Any) -> Job:
        folder = self.root / "vm"
        folder.mkdir(exist_ok=True)
        (folder / "anchors.pem").write_bytes(armour(self.authority.bundle.roots))
        if token is not None:
            (folder / "join.token").write_text(token.encode())
        made = Job(
            vm=VM,
            namespace="shop",
            account="web",
            trust_domain=TD,
            enrolment=addresses,
            anchors=str(folder / "anchors.pem"),
            token_file=str(folder / "join.token"),
            key_file=str(folder / "state" / "machine.key"),
            version="9.9",
        )
        return msgspec.structs.replace(made, **changes)


@pytest.fixture
async def clusters(tmp_path: Path) -> AsyncIterator[Callable[..., Cluster]]:
    made: list[Cluster] = []

    def make(name: str = "dc1", trust_domain: str = TD) -> Cluster:
        made.append(Cluster(tmp_path / name, trust_domain))
        return made[-1]

    yield make
    for cluster in made:
        for server in cluster.servers:
            await server.close()


@pytest.fixture
def cluster(clusters: Callable[..., Cluster]) -> Cluster:
    return clusters()


def remove(path: str) -> None:
    Path(path).unlink()


def put(path: str, data: bytes) -> None:
    Path(path).write_bytes(data)


def expose(path: str) -> None:
    Path(path).chmod(0o644)


async def enrol(job: Job, **more: Any) -> Grant:
    return await machine.enrol(job, **{"clock": CLOCK, **more})


async def refusal(job: Job, **more: Any) -> IsthmusError:
    with pytest.raises(IsthmusError) as caught:
        await enrol(job, **more)
    return caught.value


async def test_a_token_once_and_the_key_ever_after(cluster: Cluster) -> None:
    address = await cluster.open()
    token = await cluster.invite(address)
    job = cluster.job(address, token=token)
    grant = await enrol(job)
    assert grant.svid.spiffe_id == SpiffeId.workload(TD, "shop", "web")
    assert grant.addresses == ("192.0.2.1:7445", "192.0.2.2:7445")
    assert grant.enrolment_addresses == (address, "192.0.2.1:7446"), "what has worked comes first"
    pem = read_secret(Path(job.key_file), hint="")
    assert pem is not None
    print_ = public_fingerprint(key_from_pem(pem).public_key())
    assert cluster.table.vms[VM].key == print_
    speaker = speaker_of(grant.svid.chain, TD)
    assert speaker is not None
    assert (speaker.vm, speaker.key) == (VM, key_label(print_))
    assert (await cluster.table.admit(speaker.vm, speaker.key, grant.svid.spiffe_id)).name == VM
    sight = cluster.table.sights[VM]
    assert (sight.address, sight.version) == ("127.0.0.1", "9.9")

    remove(job.token_file)
    again = await enrol(job)
    assert again.svid.key_pem != grant.svid.key_pem, "each certificate has a key of its own"
    assert cluster.table.vms[VM].key == print_
    assert (cluster.servers[0].door.issued, cluster.servers[0].door.refused) == (2, 0)


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        ("nothing", "token_missing"),
        ("expired", "token_expired"),
        ("replaced", "token_unknown"),
        ("used", "token_used"),
        ("removed", "vm_removed"),
        ("other vm", "token_foreign"),
        ("other cluster", "token_foreign"),
        ("damaged", "token_malformed"),
        ("another identity", "svid_invalid"),
    ],
)
async def test_who_is_not_let_in(cluster: Cluster, clusters: Callable[..., Cluster], prepare: str, code: str) -> None:
    address = await cluster.open()
    token: VmToken | None = None
    if prepare == "expired":
        token = await cluster.invite(address, seconds=0)
    elif prepare == "another identity":
        token = await cluster.invite(address, account="admin")
    elif prepare != "nothing":
        token = await cluster.invite(address)
    if prepare == "replaced":
        await cluster.invite(address)
    elif prepare == "used":
        await cluster.table.redeem(VM, token.hash(), "sha256:other")  # type: ignore[union-attr]
    elif prepare == "removed":
        await cluster.table.remove(VM)
    elif prepare == "other vm":
        token = await cluster.invite(address, vm="web-2")
    elif prepare == "other cluster":
        token = await clusters("dc2").invite(address)
    job = cluster.job(address, token=token)
    if prepare == "damaged":
        put(job.token_file, token.encode()[:-4].encode())  # type: ignore[union-attr]
    error = await refusal(job)
    assert error.error_code == code
    assert error.hint


async def test_a_machine_that_was_invited_again_comes_in_by_its_new_token(cluster: Cluster) -> None:
    address = await cluster.open()
    job = cluster.job(address, token=await cluster.invite(address))
    await enrol(job)
    await cluster.table.remove(VM)
    assert (await refusal(job)).error_code == "vm_removed"
    remove(job.token_file)
    assert (await refusal(job)).error_code == "vm_removed"
    await enrol(cluster.job(address, token=await cluster.invite(address)))
    assert cluster.table.vms[VM].joined


async def test_a_key_that_belongs_to_nobody_is_told_so_whatever_token_lies_there(cluster: Cluster) -> None:
    address = await cluster.open()
    job = cluster.job(address, token=await cluster.invite(address))
    await enrol(job)
    await cluster.table.remove(VM)
    await cluster.table.redeem(VM, (await cluster.invite(address)).hash(), "sha256:another machine")
    assert (await refusal(job)).error_code == "vm_key_foreign"


async def test_an_agent_that_cannot_write_lets_nobody_in_and_the_same_key_in_later(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = await cluster.open()
    job = cluster.job(address, token=await cluster.invite(address))

    def full(path: Path, data: bytes) -> None:
        raise StorageFailed(f"cannot write {path}: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tables, "write_state", full)
        assert (await refusal(job)).error_code == "storage_failed"
    await enrol(job)


@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("another root", "pin_mismatch"),
        ("another trust domain", "agent_foreign"),
        ("no agent", "svid_invalid"),
        ("our clock is wrong", "svid_expired"),
        ("nobody", "unavailable"),
    ],
)
async def test_who_is_not_the_agent_hears_nothing(
    cluster: Cluster, clusters: Callable[..., Cluster], case: str, code: str
) -> None:
    address = await cluster.open(names=("other.dc1.fed.test",) if case == "no agent" else ())
    token = await cluster.invite(address)
    more: dict[str, Any] = {}
    job = cluster.job(address, token=token)
    if case == "another root":
        address = await clusters("imposter").open()
        job = cluster.job(address, token=token)
    elif case == "another trust domain":
        job = cluster.job(address, token=token, trust_domain="dc2.fed.test")
    elif case == "our clock is wrong":
        more["clock"] = FakeClock(wall_ns=CLOCK.wall_ns() + 7 * 86_400 * 10**9)
    elif case == "nobody":
        job = cluster.job(f"127.0.0.1:{free_port()}", token=token)
    error = await refusal(job, **more)
    assert error.error_code == code
    if code == "svid_expired":
        assert "compare the clocks" in error.hint
    assert not cluster.table.vms[VM].joined


async def test_addresses_are_tried_in_turn(cluster: Cluster, clusters: Callable[..., Cluster]) -> None:
    good, imposter = await cluster.open(), await clusters("imposter").open()
    dead = f"127.0.0.1:{free_port()}"
    job = cluster.job(dead, imposter, good, token=await cluster.invite(good))
    assert (await enrol(job)).enrolment_addresses[0] == good
    error = await refusal(cluster.job(dead, imposter))
    assert error.error_code == "pin_mismatch", "that somebody else answers tells more than that nobody does"


async def test_what_was_believed_last_is_believed_beside_the_anchors(cluster: Cluster, tmp_path: Path) -> None:
    address = await cluster.open()
    job = cluster.job(address, token=await cluster.invite(address))
    grant = await enrol(job)
    remove(job.token_file)
    old = Authority.open(tmp_path / "old", trust_domain=TD, clock=CLOCK)
    put(job.anchors, armour(old.bundle.roots))
    assert (await refusal(job)).error_code == "pin_mismatch"
    await enrol(msgspec.structs.replace(job, roots=grant.bundle.roots))


async def test_who_has_joined_needs_nothing_of_its_bundle_any_more(cluster: Cluster) -> None:
    address = await cluster.open()
    job = cluster.job(address, token=await cluster.invite(address))
    grant = await enrol(job)
    put(job.token_file, b"what is left of a token")
    remove(job.anchors)
    await enrol(msgspec.structs.replace(job, roots=grant.bundle.roots))


@pytest.mark.parametrize("content", [None, b"no certificate"])
async def test_anchors_that_are_none_are_told(cluster: Cluster, content: bytes | None) -> None:
    job = cluster.job("127.0.0.1:1")
    remove(job.anchors)
    if content is not None:
        put(job.anchors, content)
    error = await refusal(job)
    assert error.error_code == "anchors_invalid"
    assert "anchors.pem" in error.message


async def test_a_key_that_others_can_read_is_not_used(cluster: Cluster) -> None:
    job = cluster.job("127.0.0.1:1")
    write_secret(Path(job.key_file), b"x")
    expose(job.key_file)
    assert (await refusal(job)).error_code == "secret_exposed"


# --- who speaks another way ------------------------------------------------------------------------------------------


async def call(cluster: Cluster, address: str, request: vms_pb2.VmSignRequest | None) -> str:
    """The code of what a foreign client is told."""
    credentials = anonymous_channel_credentials(cluster.authority.bundle)
    options = channel_options(agent_server_name(TD))
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        stream = vms_pb2_grpc.VmIdentityStub(channel).Sign()  # type: ignore[no-untyped-call]
        try:
            await stream.read()
            if request is not None:
                await stream.write(request)
            reply = await stream.read()
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error, what="the agent").error_code
        return "" if reply is grpc.aio.EOF else "answered"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"vm": "Web"}, "invalid_name"),
        ({"vm": ""}, "invalid_name"),
        ({"key": b"x"}, "malformed_key"),
        ({"csr": b"x"}, "csr_malformed"),
        ({"token": "isthmus1.x"}, "token_malformed"),
        ({"proof": b""}, "possession_unproven"),
        ({}, "possession_unproven"),
    ],
)
async def test_requests_that_no_machine_makes(cluster: Cluster, changes: dict[str, Any], code: str) -> None:
    address = await cluster.open()
    key = new_key()
    request = vms_pb2.VmSignRequest(
        **{"vm": VM, "key": public_der(key.public_key()), "csr": make_csr(key), "proof": b"made up", **changes}
    )
    assert await call(cluster, address, request) == code
    assert cluster.servers[0].door.refused == 1


async def test_who_says_nothing_is_sent_away(cluster: Cluster) -> None:
    address = await cluster.open(timeout=0.2)
    assert await call(cluster, address, None) == "timed_out"


async def test_one_address_does_not_take_all_there_is(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "MAX_CALLS_PER_HOST", 2)
    address = await cluster.open(timeout=30.0)
    silent = [asyncio.create_task(call(cluster, address, None)) for _ in range(2)]
    await until(lambda: sum(cluster.servers[0].door.calls.values()) == 2)
    assert await call(cluster, address, None) == "too_many_calls"
    for task in silent:
        task.cancel()
    await asyncio.wait(silent)
    await until(lambda: not cluster.servers[0].door.calls)
    await enrol(cluster.job(address, token=await cluster.invite(address)))


async def test_who_calls_without_end_is_slowed_down(cluster: Cluster) -> None:
    address = await cluster.open(rate=RateLimit(per_second=0.001, burst=2, ipv4_prefix=32, slip=0))
    token = await cluster.invite(address)
    job = cluster.job(address, token=token)
    await enrol(job)
    await enrol(job)
    error = await refusal(job)
    assert error.error_code == "too_many_calls"


async def test_a_port_that_is_taken_is_told(cluster: Cluster) -> None:
    address = await cluster.open()
    with pytest.raises(IsthmusError) as caught:
        await cluster.open(address=address)
    assert caught.value.error_code == "port_taken"
    assert "vms.listen" in caught.value.hint
