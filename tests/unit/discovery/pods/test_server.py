"""Pods at the door: both ends in one process, over real TLS; who knows tokens is a fake."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from clusters.network import free_port
from discovery.enrolment import Door, Signer
from discovery.kube.errors import Forbidden, Unauthorised, Unreachable
from discovery.pods.identity import ReviewStatus, User
from discovery.pods.server import PodServer
from federation.aio.clock import SystemClock
from federation.dns.ratelimit import RateLimit
from federation.errors import Denied, InvalidInput, InvalidSettings, IsthmusError, QuotaExceeded, Unavailable
from federation.model.cluster import Problem
from federation.model.ids import SYSTEM_NAMESPACE, SpiffeId
from federation.registry import pod
from federation.registry.edge.pod import PodJob
from federation.trust.authority import Authority
from federation.trust.channels import agent_server_name
from federation.trust.pem import armour

CLOCK = SystemClock()
TD = "east.fed.test"


class Reviewer:
    """Knows every token by what it says: NAMESPACE/ACCOUNT."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.failure: IsthmusError | None = None

    async def review(self, token: str) -> ReviewStatus:
        self.asked.append(token)
        if self.failure is not None:
            raise self.failure
        namespace, slash, account = token.partition("/")
        if not slash:
            return ReviewStatus(error="unknown")
        extra = {f"authentication.kubernetes.io/pod-{key}": ["x"] for key in ("name", "uid")}
        user = User(f"system:serviceaccount:{namespace}:{account}", ["system:serviceaccounts"], extra)
        return ReviewStatus(authenticated=True, user=user, audiences=["isthmus"])


class East:
    """An agent's door, and a Pod before it."""

    def __init__(self, root: Path, **changes: Any) -> None:
        self.root, self.reviewer = root, Reviewer()
        self.problems: list[Problem] = []
        self.authority = Authority.open(root / "keys", trust_domain=TD, clock=CLOCK)
        svid = self.authority.issue_with_key(
            spiffe_id=SpiffeId.workload(TD, SYSTEM_NAMESPACE, "agent"), dns_names=[agent_server_name(TD)]
        )
        self.address = f"127.0.0.1:{free_port()}"
        log = structlog.get_logger()
        door = Door(
            self.address,
            self.authority,
            setting="pods.listen",
            who="pod",
            svid=lambda: svid,
            clock=CLOCK,
            log=log,
            **changes,
        )
        signer = Signer(
            authority=self.authority,
            federation="fed.test",
            cluster="east",
            agent_addresses=lambda: ["10.96.0.9:7445"],
            enrolment_addresses=lambda: [self.address],
            ttl=timedelta(minutes=10),
        )
        self.server = PodServer(
            door,
            self.reviewer,
            signer,
            accounts=("gateway",),
            on_problems=lambda found: self.problems.__setitem__(slice(None), found),
            log=log,
        )

    def job(self, shown: str = "shop/web", **changes: Any) -> PodJob:
        (self.root / "root.pem").write_bytes(armour(self.authority.bundle.roots))
        (self.root / "token").write_text(shown)
        made = PodJob(
            namespace="shop",
            account="web",
            enrolment=(self.address,),
            anchors=str(self.root / "root.pem"),
            token=str(self.root / "token"),
            version="9.9",
        )
        return msgspec.structs.replace(made, **changes)

    async def refusal(self, shown: str = "shop/web", **changes: Any) -> IsthmusError:
        with pytest.raises(IsthmusError) as caught:
            await pod.enrol(self.job(shown, **changes), clock=CLOCK)
        return caught.value


@pytest.fixture
async def east(tmp_path: Path) -> AsyncIterator[East]:
    made = East(tmp_path)
    await made.server.start()
    yield made
    await made.server.close()


async def test_the_token_is_asked_about_each_time_and_nothing_is_remembered(east: East) -> None:
    for _ in range(2):
        grant = await pod.enrol(east.job(), clock=CLOCK)
        assert str(grant.svid.spiffe_id) == f"spiffe://{TD}/ns/shop/sa/web"
    assert (grant.cluster, grant.federation, grant.addresses) == ("east", "fed.test", ("10.96.0.9:7445",))
    assert east.reviewer.asked == ["shop/web"] * 2
    assert (east.server.door.issued, east.server.door.refused) == (2, 0)


@pytest.mark.parametrize(
    ("token", "changes", "code"),
    [
        ("nobody", {}, "token_refused"),
        ("isthmus-system/agent", {}, "identity_denied"),
        ("shop/other", {}, "svid_invalid"),  # it is another one's, and that is what it would have been given
        ("shop/web", {"trust_domain": "west.fed.test"}, "agent_foreign"),
        (" \n", {}, "token_missing"),
        ("é", {}, "token_missing"),
        ("x" * (pod.MAX_TOKEN + 1), {}, "token_missing"),
        ("shop/web", {"token": "/nonexistent/token"}, "token_missing"),
        ("shop/web", {"anchors": "/nonexistent/root.pem"}, "anchors_invalid"),
    ],
)
async def test_who_gets_nothing(east: East, token: str, changes: dict[str, Any], code: str) -> None:
    error = await east.refusal(token, **changes)
    assert (error.error_code, isinstance(error, Denied | InvalidInput)) == (code, True)
    assert "\n" not in error.message


@pytest.mark.parametrize(
    "failure", [Unreachable("away"), Forbidden("no right"), Unauthorised("who are you"), InvalidSettings("no config")]
)
async def test_who_cannot_be_asked_refuses_nobody(east: East, failure: IsthmusError) -> None:
    east.reviewer.failure = failure
    error = await east.refusal()
    assert isinstance(error, Unavailable)
    assert error.error_code == "token_review_unavailable"
    assert [p.code for p in east.problems] == ["token_review_unavailable"]
    assert failure.message in error.message
    east.reviewer.failure = None
    await pod.enrol(east.job(), clock=CLOCK)
    assert east.problems == []


async def test_an_agent_that_cannot_ask_leaves_the_next_one_its_turn(east: East, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = East(tmp_path / "other")
    await other.server.start()
    try:
        east.reviewer.failure = Unreachable("away")
        job = east.job(enrolment=(east.address, other.address), roots=other.authority.bundle.roots)
        grant = await pod.enrol(job, clock=CLOCK)
        assert grant.enrolment_addresses == (other.address,)
        assert (len(east.reviewer.asked), len(other.reviewer.asked)) == (1, 1)
    finally:
        await other.server.close()


async def test_who_calls_without_end_is_slowed_down(tmp_path: Path) -> None:
    east = East(tmp_path, rate=RateLimit(per_second=0.001, burst=1, ipv4_prefix=32, slip=0))
    await east.server.start()
    try:
        await pod.enrol(east.job(), clock=CLOCK)
        error = await east.refusal()
        assert isinstance(error, QuotaExceeded)
        assert east.reviewer.asked == ["shop/web"], "nobody is asked for who comes too often"
    finally:
        await east.server.close()


async def test_another_root_is_told_nothing(east: East, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    foreign = Authority.open(tmp_path / "other" / "keys", trust_domain=TD, clock=CLOCK)
    job = east.job()
    (tmp_path / "root.pem").write_bytes(armour(foreign.bundle.roots))
    with pytest.raises(Denied) as caught:
        await pod.enrol(job, clock=CLOCK)
    assert caught.value.error_code == "pin_mismatch"
    assert east.reviewer.asked == []
    # What was believed last counts beside the file.
    await pod.enrol(msgspec.structs.replace(job, roots=east.authority.bundle.roots), clock=CLOCK)
