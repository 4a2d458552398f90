"""The webhook's HTTP, as anybody may speak it: what is no review gets a plain answer, and nothing else."""

from __future__ import annotations

import asyncio
import io
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from federation.aio.clock import SystemClock
from federation.errors import Unavailable
from federation.log import get
from federation.model.ids import SpiffeId
from federation.trust.authority import Authority
from federation.trust.keys import certificate_from_der
from federation.trust.pem import armour
from sidecar.injector.admission import Answer, Outcome, answer
from sidecar.injector.options import ClusterDns, Options, Way
from sidecar.injector.webhook import Certificate, Webhook

pytestmark = pytest.mark.integration

NAME = "isthmus-injector.isthmus-system.svc"
OPTIONS = Options(
    image="isthmus:0.1.0",
    trust_domain="east.test.isthmus",
    enrolment=("10.96.7.1:7446",),
    roots="PEM\n",
    dns=ClusterDns(servers=("10.96.0.10",)),
)


class Site:
    """A webhook with a certificate of a real authority, and a client that believes its root."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority.open(folder / "ca", trust_domain="east.test.isthmus", clock=SystemClock())
        self.certificate = Certificate(folder / "tls.pem")
        self.answers: list[Answer] = []
        self.port = 0
        self.webhook = Webhook(
            lambda body, way: answer(body, lambda: OPTIONS, way=way),
            answered=self.answers.append,
            registry=CollectorRegistry(),
            log=get("test"),
        )

    def issue(self) -> int:
        """A new certificate in use; its serial number."""
        svid = self.authority.issue_with_key(
            spiffe_id=SpiffeId.workload("east.test.isthmus", "isthmus-system", "injector"), dns_names=[NAME]
        )
        self.certificate.use(svid)
        return certificate_from_der(svid.chain[0]).serial_number

    @property
    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=armour(self.authority.bundle.roots).decode())

    async def shown(self) -> int:
        """The serial number of the certificate that a new connection sees."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.trusting, server_hostname=NAME)
        found = writer.get_extra_info("peercert")
        writer.close()
        return int(found["serialNumber"], 16)

    async def ask(self, path: str, data: bytes = b"", *, method: str = "POST") -> tuple[int, str]:
        """Status and body."""
        url = f"https://127.0.0.1:{self.port}{path}"
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, data=io.BytesIO(data), ssl=self.trusting, server_hostname=NAME) as response,
        ):
            return response.status, await response.text()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    made.issue()
    made.port = await made.webhook.start("127.0.0.1", 0, made.certificate)
    yield made
    await made.webhook.close()


def review() -> bytes:
    pod: Any = {"metadata": {"name": "web"}, "spec": {"containers": [{"name": "web"}]}}
    request = {"uid": "u", "kind": {"kind": "Pod"}, "operation": "CREATE", "namespace": "shop", "object": pod}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


async def test_what_it_answers(site: Site) -> None:
    status, text = await site.ask("/mutate", review())
    assert (status, json.loads(text)["response"]["allowed"]) == (200, True)
    await site.ask("/mutate/loopback", review())
    assert [(a.outcome, a.way) for a in site.answers] == [
        (Outcome.INJECTED, Way.REDIRECT),
        (Outcome.INJECTED, Way.LOOPBACK),
    ]
    for path, data, method, expected in (
        ("/mutate", b"nonsense", "POST", 400),
        ("/mutate/sideways", review(), "POST", 404),
        ("/", b"", "POST", 404),
        ("/mutate", b"", "GET", 405),
        ("/mutate", b" " * (9 << 20), "POST", 413),
    ):
        status, text = await site.ask(path, data, method=method)
        assert status == expected, text
    assert len(site.answers) == 2
    status, _ = await site.ask("/mutate", review())
    assert status == 200  # none of it was its end


async def test_a_certificate_is_replaced_while_it_serves(site: Site) -> None:
    first = await site.shown()
    second = site.issue()
    assert first != second
    assert await site.shown() == second
    assert (await site.ask("/mutate", review()))[0] == 200


async def test_a_port_that_is_taken(site: Site) -> None:
    other = Webhook(
        lambda body, way: answer(body, lambda: OPTIONS, way=way),
        answered=site.answers.append,
        registry=CollectorRegistry(),
        log=get("test"),
    )
    with pytest.raises(Unavailable) as caught:
        await other.start("127.0.0.1", site.port, site.certificate)
    assert caught.value.error_code == "port_taken"
