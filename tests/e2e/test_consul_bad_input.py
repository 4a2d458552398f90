"""Bad input from Consul at the level of a user: each is one clear line of `fedctl status`, and the rest goes on.

One federation, one datacenter with ACLs and TLS, and an agent for each way to reach it badly. What `fedctl status`
shows is read once, and looked through test by test. More closely: tests/integration/consul,
tests/unit/discovery/consul.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusters.consul import Datacenter, datacenters
from clusters.consulclient import check, node, service
from clusters.consulground import EXPORT
from clusters.mixed import READER
from clusters.network import free_port
from clusters.processes import NAMESPACE, ProcessFederation
from clusters.topology import ClusterSpec, Topology
from clusters.waiting import START, until_now
from discovery.client import AgentClient
from federation.errors import TimedOut
from federation.model import wire
from federation.model.service import Locality

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("consul_program")]

CLUSTERS = ("dc1", "other", "stranger", "expired", "absent")
"""The one that reads well, another on the same datacenter, and those with a wrong token, an expired certificate, and an
address where nobody is."""

EXPECTED = {
    "wrong-token": ("consul_forbidden", "stranger: Consul dc1", "Consul does not know our token"),
    "expired-tls": ("consul_tls", "expired: Consul dc1", "is ours still valid?"),
    "absent-at-start": ("consul_unreachable", "absent: Consul dc1", "cannot be reached"),
    "garbage-meta": ("consul_meta", "dc1: Consul dc1/garbage", "isthmus-export is 'yes'"),
    "host-name": ("consul_address", "dc1: Consul dc1/named", "'db.example.com' is a name"),
    "empty-address": ("consul_address", "dc1: Consul dc1/empty", "has no address"),
    "loopback": ("consul_address", "dc1: Consul dc1/loop", "'127.200.0.1' is loopback"),
    "port-0": ("consul_port", "dc1: Consul dc1/portless", "its port is 0"),
    "no-label": ("consul_name", "dc1: Consul dc1/Not_A_Label", "cannot be exported"),
    "two-agents": ("consul_shared", "dc1: Consul dc1", "other exports from this datacenter, too"),
}
"""What is wrong: code, whom the line is about, and what it says."""


@dataclass(frozen=True)
class Shown:
    """What `fedctl status` said, and what dc1's agent has of its own: service → addresses."""

    findings: list[dict[str, str]]
    lines: list[str]
    held: dict[str, set[str]]

    def find(self, code: str, about: str) -> list[dict[str, str]]:
        return [one for one in self.findings if one["code"] == code and about in one["subject"]]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessFederation]:
    specs = [ClusterSpec(name=name, locality=Locality("eu", f"eu-{name}"), offers=()) for name in CLUSTERS]
    federation = ProcessFederation(Topology.full_mesh("test.isthmus", *specs), tmp_path_factory.mktemp("f"))
    yield federation
    federation.stop()


@pytest.fixture(scope="module")
def datacenter(consul_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Datacenter]:
    (made,) = datacenters(tmp_path_factory.mktemp("c"), ["dc1"], acl=True, tls=True)
    try:
        asyncio.run(made.start())
        yield made
    finally:
        made.stop(discard=True)


@pytest.fixture(scope="module")
def shown(federation: ProcessFederation, datacenter: Datacenter, fedctl: Any) -> Shown:
    """All of it, once every finding is there that is expected."""
    asyncio.run(begin(federation, datacenter))

    missing: list[str] = []
    told: Any = None

    def settled() -> Shown | None:
        nonlocal told
        told = fedctl("status", "-o", "json").json
        found = Shown(told["findings"], fedctl("status").out.splitlines(), asyncio.run(held(federation)))
        missing[:] = [what for what, (code, about, _) in EXPECTED.items() if not found.find(code, about)]
        return None if missing or not {"web", "large"} <= found.held.keys() else found

    try:
        result: Shown = until_now(settled, seconds=START)
    except TimedOut as error:
        raise TimedOut(f"of fedctl status {missing} are missing: {told}") from error
    return result


async def begin(federation: ProcessFederation, datacenter: Datacenter) -> None:
    async with datacenter.connect() as consul:
        await consul.transact(
            [
                node("n1", "10.0.0.1"),
                node("n2", "10.0.0.2"),
                node("nowhere", ""),
                service("n1", "web", port=80, ID="web", Meta=EXPORT),
                service("n2", "web", port=80, ID="web", Meta=EXPORT),
                service("n1", "named", port=80, Address="db.example.com", Meta=EXPORT),
                service("n1", "loop", port=80, Address="127.200.0.1", Meta=EXPORT),
                service("nowhere", "empty", port=80, Meta=EXPORT),
                service("n1", "portless", port=0, Meta=EXPORT),
                service("n1", "garbage", port=80, Meta={"isthmus-export": "yes"}),
                service("n1", "Not_A_Label", port=80, Meta=EXPORT),
                # As much as Consul takes; what is larger never gets in.
                service("n1", "large", port=80, Meta={**EXPORT, **{f"key-{n}": "x" * 512 for n in range(63)}}),
                check("n1", "web", "passing"),
            ]
        )
        good = federation.directory / "good.token"
        good.write_text((await consul.token(READER, name="reader"))["SecretID"])
    wrong = federation.directory / "wrong.token"
    wrong.write_text("11111111-2222-3333-4444-555555555555")
    for one in (good, wrong):
        one.chmod(0o600)
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=800)
    pairs = {"expired": datacenter.client_files("late", now=past)}
    federation.init_registry()
    federation.start_registry()
    await federation.wait_ready("registry")
    for name in CLUSTERS:
        await federation.join(name)
        certificate, key = pairs.get(name) or datacenter.client_files()
        consul_at = f"https://127.0.0.1:{free_port()}" if name == "absent" else datacenter.url()
        settings = federation.places[name].agent / "settings.yaml"
        tree = yaml.safe_load(settings.read_text())
        del tree["files"]
        tree["consul"] = {
            "address": consul_at,
            "datacenters": {"dc1": NAMESPACE},
            "token_file": str(wrong if name == "stranger" else good),
            "ca_file": str(datacenter.authority_file()),
            "cert_file": str(certificate),
            "key_file": str(key),
        }
        settings.write_text(yaml.safe_dump(tree))
        federation.start_agent(name)


async def held(federation: ProcessFederation) -> dict[str, set[str]]:
    async with AgentClient.open(federation.places["dc1"].agent) as agent:
        imports = [wire.import_from_pb(one) for one in await agent.imports()]
    return {
        one.name.name: {e.address for b in one.backends if b.cluster == "dc1" for e in b.endpoints} for one in imports
    }


@pytest.mark.parametrize(("code", "about", "says"), EXPECTED.values(), ids=EXPECTED)
def test_it_is_a_clear_line_of_status(shown: Shown, code: str, about: str, says: str) -> None:
    (finding,) = shown.find(code, about)
    assert says in finding["detail"]
    assert len(finding["detail"]) < 400
    (line,) = [one for one in shown.lines if f"[{code}]" in one and about in one]
    assert says in line


def test_all_else_goes_on(shown: Shown, federation: ProcessFederation) -> None:
    """An ID that is there on two nodes is two instances; 32 kB of meta, which is the most that Consul takes, is none of
    the findings; nobody has ended or written a traceback."""
    assert shown.held["web"] == {"10.0.0.1", "10.0.0.2"}
    assert shown.held["large"] == {"10.0.0.1"}
    assert not [
        one for one in shown.findings if one["subject"].startswith(("dc1: Consul dc1/web", "dc1: Consul dc1/large"))
    ]
    for one in federation.running.values():
        assert one.alive
        assert "Traceback" not in one.log.read_text(errors="replace"), one.log
