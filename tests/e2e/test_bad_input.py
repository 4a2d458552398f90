"""Bad input at the level of a user: real processes, the real fedctl, one running federation that nothing may disturb.

After every test: nobody has ended or written a traceback, the clusters and links are the same, and requests pass (local, and
through the gateway of the other cluster). What is tested more closely elsewhere, in tests/, is listed beside it.

| bad input | here (test_…) | more closely |
|---|---|---|
| unknown or duplicate cluster, link to oneself, a name that is no DNS label, a port out of range | what_fedctl_refuses, a_cluster_that_exists | unit/federation/cli/test_main.py, unit/federation/model/test_ids.py, integration/registry/test_registry_enrolment.py |
| used, expired, foreign token | tokens_that_do_not_admit | unit/federation/trust/test_token.py, unit/federation/store/test_conformance.py, integration/registry/test_registry_enrolment.py |
| a port that is taken | the_registrys_…, an_agents_…, a_sidecars_…, a_gateways_port_that_is_taken | integration/registry/test_registry_process.py, integration/edge/test_start.py, integration/xds/test_ads.py |
| malformed or 100 MB manifest | manifests_that_cannot_be_used | unit/discovery/sources/test_files.py, test_parse.py, test_convert.py |
| missing or older Envoy | an_envoy_that_cannot_be_used | unit/federation/envoy/test_process.py, integration/edge/test_start.py |
| unreachable registry | a_registry_that_does_not_answer, a_registry_that_is_not_there | integration/discovery/test_agents.py, e2e/test_fedctl.py |
| full disk | full_disks, a_start_on_a_full_disk | unit/federation/aio/test_files.py, unit/federation/store/test_sqlite.py, integration/registry/test_registry_process.py |
| corrupt state file | damaged_state_of_…, a_damaged_database, a_damaged_root | unit/federation/aio/test_files.py, unit/federation/trust/test_authority.py, unit/federation/store/test_sqlite.py, integration/edge/test_faults.py |
| garbage or truncated DNS packet | dns_garbage | unit/federation/dns/test_server.py, property/test_dns_wire.py |
| client without or with a foreign certificate | clients_without_a_right_certificate, a_foreign_operator | integration/registry/test_registry_trust.py, integration/trust/, integration/envoy/test_threats.py |
"""  # noqa: E501 - a table

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import pytest
import yaml

from clusters.processes import ProcessFederation, copy_state
from clusters.waiting import ANSWER, DEADLINE, START
from federation.aio.clock import SystemClock
from federation.model.ids import SpiffeId
from federation.registry.operator import OperatorClient
from federation.trust.authority import Authority
from federation.trust.token import JoinToken

pytestmark = pytest.mark.e2e

DISKS = ("registry", "west/agent", "west/gateway", "east/sidecar")


# --- one federation, and what must be true of it after every test -----------------------------------------------------


@pytest.fixture(scope="module")
def disks(federation: ProcessFederation) -> Iterator[dict[str, Path]]:
    """Small disks of their own for some state directories; empty where mounting is not permitted."""
    mounted: dict[str, Path] = {}
    for name in DISKS:
        path = federation.directory / name
        path.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=3m,mode=0700", "tmpfs", str(path)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            break
        mounted[name] = path
    yield mounted if len(mounted) == len(DISKS) else {}
    federation.stop()
    for path in mounted.values():
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture(scope="module")
def whole(disks: dict[str, Path], running: ProcessFederation) -> ProcessFederation:
    return running


def known(federation: ProcessFederation) -> tuple[object, ...]:
    """What the registry keeps, as far as an operator sees it."""

    async def ask() -> tuple[object, ...]:
        async with OperatorClient.open(federation.home.operator_directory()) as registry:
            clusters = sorted((c.name, c.bundle_fingerprint) for c in await registry.clusters())
            links = sorted((i.link.a, i.link.b) for i in await registry.links())
            services = sorted((s.cluster, s.service.namespace, s.service.name) for s in await registry.services())
            return clusters, links, services

    return asyncio.run(ask())


@pytest.fixture(autouse=True)
def unharmed(whole: ProcessFederation, east: Any, eventually: Any, findings: Any) -> Iterator[None]:
    """What every one of these inputs must leave as it was."""
    before = known(whole)
    yield
    assert [name for name, process in whole.running.items() if not process.alive] == []
    # What was started again is found unhealthy for a moment.
    eventually(lambda: east.answers("echo.shop.global") == "east", what="an answer of east")
    eventually(lambda: east.answers("echo.shop.west.global") == "west", what="an answer of west")
    eventually(lambda: not findings(), what="a whole federation")
    assert known(whole) == before
    assert tracebacks(whole.directory) == []


def tracebacks(directory: Path) -> list[str]:
    return [log.name for log in (directory / "logs").iterdir() if "Traceback" in log.read_text(errors="replace")]


def refused(done: Any, status: int, code: str) -> None:
    """One coded error, with something to do next, and nothing else."""
    assert (done.status, done.error["code"]) == (status, code), done.err
    assert done.err.count("\n") == 1, done.err
    assert done.out == ""
    assert "\n" not in done.error["message"]


def start(module: str, settings: Path, *, timeout: float = START) -> tuple[int, str]:
    """Run an entry point that is expected to end by itself; returns its status and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--settings", settings],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr.strip().splitlines()[-1]


def settings_of(federation: ProcessFederation, tmp_path: Path, role: str, **changes: Any) -> Path:
    """The settings of west's gateway or east's sidecar for another one beside it, with a state of its own."""
    place = federation.places["west" if role == "gateway" else "east"]
    tree = yaml.safe_load((place.directory / f"{role}.yaml").read_text())
    # A short path: UNIX sockets.
    tree |= {"name": f"another-{role}", "state_directory": str(federation.directory / f"x-{tmp_path.name[-12:]}")}
    tree |= {"metrics": {"port": 0}}
    path = tmp_path / f"{role}.yaml"
    path.write_text(yaml.safe_dump(tree | changes))
    return path


# --- names, ports, tokens ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        ("link east moon", 3, "unknown_cluster"),
        ("unlink east moon", 3, "link_unknown"),
        ("cluster leave moon", 3, "cluster_unknown"),
        ("resolve echo.shop.global --from moon", 3, "unknown_cluster"),
        ("link east east", 2, "self_link"),
        ("token issue Bad_Name", 2, "invalid_name"),
        ("export shop/Bad_Name --cluster east", 2, "invalid_name"),
        ("resolve bad_name.shop.global --from east", 2, "invalid_name"),
        ("registry init {new} --federation -bad-", 2, "invalid_name"),
        ("registry init {new} --federation a.b --listen 127.0.0.1:70000", 2, "invalid_port"),
        ("export shop/echo --cluster east --to west:0", 2, "invalid_port"),
        ("token issue east --ttl 901", 2, "invalid_ttl"),
    ],
)
def test_what_fedctl_refuses(fedctl: Any, tmp_path: Path, words: str, status: int, code: str) -> None:
    new = tmp_path / "new"
    refused(fedctl(*words.format(new=new).split(), "-o", "json"), status, code)
    assert not new.exists()


def join(fedctl: Any, name: str, token: str, directory: Path, *more: str) -> Any:
    words = ["--token", token, "--directory", str(directory), "--manifests", str(directory / "manifests")]
    return fedctl("cluster", "join", name, *words, *more, "-o", "json")


def test_a_cluster_that_exists(whole: ProcessFederation, fedctl: Any) -> None:
    refused(fedctl("token", "issue", "east", "-o", "json"), 4, "cluster_exists")
    token = JoinToken.new(
        registry=f"{whole.registry_address}:{whole.registry_ports['enrolment']}",
        ca_fingerprint="sha256:" + 64 * "0",
        cluster="east",
    ).encode()
    refused(join(fedctl, "east", token, whole.places["east"].agent), 4, "already_exists")


def test_tokens_that_do_not_admit(whole: ProcessFederation, fedctl: Any) -> None:
    """1. used  2. for another name  3. of another registry  4. cut off  5. expired; nothing is left of any attempt."""
    new, south = whole.directory / "new", whole.directory / "south"  # short paths: UNIX sockets
    brief = fedctl.ok("token", "issue", "late", "--ttl", "1", "-o", "json").json["token"]
    expires = time.monotonic() + 1.1
    used = fedctl.ok("token", "issue", "south", "-o", "json").json["token"]
    assert join(fedctl, "south", used, south).status == 0
    try:
        refused(join(fedctl, "south", used, new), 5, "token_used")
    finally:
        fedctl.ok("cluster", "leave", "south")
    token = fedctl.ok("token", "issue", "south", "-o", "json").json["token"]
    refused(join(fedctl, "north", token, new), 2, "token_foreign")
    parsed = JoinToken.parse(token)
    foreign = JoinToken.new(registry=parsed.registry, ca_fingerprint="sha256:" + 64 * "0", cluster="south")
    refused(join(fedctl, "south", foreign.encode(), new), 5, "pin_mismatch")
    unknown = JoinToken.new(registry=parsed.registry, ca_fingerprint=parsed.ca_fingerprint, cluster="south")
    refused(join(fedctl, "south", unknown.encode(), new), 5, "token_unknown")
    refused(join(fedctl, "south", token[:-3], new), 2, "token_malformed")
    refused(join(fedctl, "south", token, new, "--listen", "127.0.0.1:99999"), 2, "invalid_port")
    time.sleep(max(0.0, expires - time.monotonic()))
    refused(join(fedctl, "late", brief, new), 5, "token_expired")
    assert not new.exists()
    fedctl.ok("token", "revoke", "south")


# --- ports that are taken ---------------------------------------------------------------------------------------------


def test_the_registrys_port_that_is_taken(whole: ProcessFederation, fedctl: Any, tmp_path: Path) -> None:
    taken = f"{whole.registry_address}:{whole.registry_ports['listen']}"
    other = type(fedctl)(tmp_path / "home")  # this person's contexts are not to change
    words = ["--federation", "other.test", "--listen", taken, "--enrolment", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    other.ok("registry", "init", str(tmp_path / "r"), *words)
    done = other("registry", "serve", str(tmp_path / "r"))
    assert done.status == 7
    assert f"{taken}" in done.err
    assert "[address_unavailable]" in done.err
    assert done.err.count("\n") == 1


def test_an_agents_port_that_is_taken(whole: ProcessFederation, tmp_path: Path) -> None:
    """The stopped agent of east is started on the port of west's; then again as it was."""
    place = whole.places["east"]
    path = place.agent / "settings.yaml"
    good = path.read_text()
    whole.kill("east-agent", signal.SIGTERM)
    try:
        west = whole.places["west"]
        taken = f"{west.address}:{west.agent_port}"
        path.write_text(yaml.safe_dump(yaml.safe_load(good) | {"listen": taken}))
        status, line = start("discovery", path)
        assert status in (6, 7), line
        assert taken in line
    finally:
        path.write_text(good)
        whole.restart("east-agent")
    asyncio.run(whole.wait_ready("east-agent"))


def test_a_sidecars_dns_port_that_is_taken(whole: ProcessFederation, tmp_path: Path) -> None:
    place = whole.places["east"]
    path = settings_of(whole, tmp_path, "sidecar", dns={"host": place.address, "port": place.dns_port})
    status, line = start("sidecar", path)
    assert (status, line.endswith("[dns_port_unavailable]")) == (6, True), line
    assert str(place.dns_port) in line


@pytest.mark.parametrize(("role", "key"), [("gateway", "port"), ("sidecar", "dns")])
def test_a_port_out_of_range(whole: ProcessFederation, tmp_path: Path, role: str, key: str) -> None:
    path = settings_of(whole, tmp_path, role, **{key: 70_000 if role == "gateway" else {"port": 70_000}})
    status, line = start(role, path)
    assert (status, line.endswith("[invalid_port]")) == (2, True), line
    assert "70000" in line


def test_a_gateways_port_that_is_taken(
    whole: ProcessFederation, tmp_path: Path, eventually: Any, findings: Any
) -> None:
    """Envoy cannot listen there: the second gateway is not ready and says why; the first goes on."""
    place = whole.places["west"]
    path = settings_of(whole, tmp_path, "gateway", port=place.http_port)
    log = tmp_path / "gateway.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "--settings", path], stderr=stderr, start_new_session=True
        )
    try:
        found = eventually(
            lambda: [f for f in findings() if f.code == "xds_nack" and "another-gateway" in f.subject],
            what="the reason",
        )
        assert str(place.http_port) in found[0].detail, found
    finally:
        os.kill(process.pid, signal.SIGTERM)
        try:
            assert process.wait(timeout=DEADLINE) == 0, log.read_text()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert "Traceback" not in log.read_text()
    eventually(
        lambda: not [f for f in findings() if "another-gateway" not in f.subject], what="nothing but its absence"
    )


# --- files ------------------------------------------------------------------------------------------------------------


def test_manifests_that_cannot_be_used(whole: ProcessFederation, fedctl: Any, eventually: Any, findings: Any) -> None:
    """Each is named with file, line and code; the services beside them, and the last good state, stay."""
    folder = whole.places["east"].manifests
    good = (folder / "kv.yaml").read_bytes()
    service = (
        "apiVersion: v1\nkind: Service\nmetadata: {{namespace: shop, name: {}}}\nspec: {{ports: [{{port: {}}}]}}\n"
    )
    (folder / "broken.yaml").write_text("apiVersion: v1\nkind: Service\nmetadata: [\n")
    (folder / "binary.yaml").write_bytes(random.Random(1).randbytes(4096))
    (folder / "label.yaml").write_text(service.format("Bad_Name", 80))
    (folder / "port.yaml").write_text(service.format("fine", 70_000))
    with (folder / "huge.yaml").open("wb") as huge:
        huge.truncate(100 << 20)
    (folder / "kv.yaml").write_text("kind: [")  # a good one that becomes bad
    wanted = {
        "east: broken.yaml:": "file_malformed",
        "east: binary.yaml:": "file_malformed",
        "east: label.yaml:3": "invalid_name",
        "east: port.yaml:4": "invalid_port",
        "east: huge.yaml:1": "file_too_large",
        "east: kv.yaml:": "file_malformed",
    }

    def told(problems: Iterable[tuple[str, str]]) -> dict[str, str]:
        seen = dict(problems)
        return {start: code for start in wanted for subject, code in seen.items() if subject.startswith(start)}

    try:
        eventually(lambda: told((f.subject, f.code) for f in findings()) == wanted, what="every problem by name")
        done = fedctl("status", "-o", "json")
        assert done.status == 6
        assert told((f["subject"], f["code"]) for f in done.json["findings"]) == wanted
        services = fedctl.ok("get", "services", "--cluster", "east", "-o", "json").json
        assert [s["service"] for s in services] == ["shop/echo", "shop/kv"]
    finally:
        for name in ("broken", "binary", "label", "port", "huge"):
            (folder / f"{name}.yaml").unlink()
        (folder / "kv.yaml").write_bytes(good)


def test_an_envoy_that_cannot_be_used(whole: ProcessFederation, tmp_path: Path) -> None:
    def fake(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho '{text}'\n")
        path.chmod(0o755)
        return str(path)

    older = fake("older", "envoy  version: 0123abc/1.39.2/Clean/RELEASE/BoringSSL")
    for role, envoy, status, code in (
        ("gateway", str(tmp_path / "none"), 6, "envoy_missing"),
        ("gateway", fake("other", "I am no Envoy"), 2, "envoy_not_executable"),
        ("gateway", older, 2, "envoy_too_old"),
        ("sidecar", older, 2, "envoy_too_old"),
    ):
        more = {"dns": {"port": 0}} if role == "sidecar" else {}
        found, line = start(role, settings_of(whole, tmp_path, role, envoy={"path": envoy}, **more))
        assert (found, line.endswith(f"[{code}]")) == (status, True), line
        assert envoy in line
        assert "pip install" in line


# --- a registry that is away ------------------------------------------------------------------------------------------


def test_a_registry_that_is_not_there(whole: ProcessFederation, fedctl: Any, east: Any) -> None:
    new = whole.directory / "new"
    token = fedctl.ok("token", "issue", "south", "-o", "json").json["token"]
    whole.kill("registry")
    try:
        refused(fedctl("get", "clusters", "-o", "json"), 6, "unavailable")
        refused(fedctl("link", "east", "west", "-o", "json"), 6, "unavailable")
        refused(join(fedctl, "south", token, new), 6, "unavailable")
        assert not new.exists()
        told = fedctl("status", "-o", "json")
        assert told.status == 6
        codes = {(f["code"], f["subject"]) for f in told.json["findings"]}
        assert {("registry_unreachable", "registry"), ("registry_lost", "east"), ("registry_lost", "west")} <= codes
        assert east.get("echo.shop.west.global") == "west"
    finally:
        whole.restart("registry")
    asyncio.run(whole.wait_ready("registry"))
    fedctl.ok("token", "revoke", "south")


def test_a_registry_that_does_not_answer(whole: ProcessFederation, fedctl: Any, east: Any) -> None:
    process = whole.running["registry"].process
    assert process is not None
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        done = fedctl("get", "clusters", "-o", "json")
        assert (done.status, done.error["code"]) in ((6, "unavailable"), (11, "timed_out")), done.err
        assert time.monotonic() - began < 30
        assert east.get("echo.shop.west.global") == "west"
    finally:
        os.killpg(process.pid, signal.SIGCONT)


# --- full disks -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def filled(disks: dict[str, Path], *names: str) -> Iterator[None]:
    """The disks of these state directories have no free byte meanwhile."""
    if not disks:
        pytest.skip("needs the right to mount a tmpfs: run the tests as root, or in a user and mount namespace")
    fillers = [disks[name] / "filler" for name in names]
    try:
        for filler in fillers:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 65_536)
            with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
                while True:
                    file.write(b"x")
        yield
    finally:
        for filler in fillers:
            filler.unlink(missing_ok=True)


def test_full_disks(
    disks: dict[str, Path], whole: ProcessFederation, fedctl: Any, east: Any, eventually: Any, findings: Any
) -> None:
    """Registry, an agent, a gateway and a sidecar at once: changes are refused, calls and new views go on."""
    place = whole.places["west"]
    endpoints = place.manifests / "echo-endpoints.yaml"
    good = endpoints.read_text()
    with filled(disks, *DISKS):

        def failure() -> Any:
            done = fedctl("token", "issue", "south", "-o", "json")
            return done.status != 0 and done

        refused(eventually(failure, what="the full disk"), 10, "storage_failed")
        # The catalogue is not on disks: a copy that goes is seen everywhere.
        endpoints.write_text(good.replace("ready: true", "ready: false"))
        try:
            eventually(
                lambda: (
                    "endpoint" in str(fedctl("resolve", "echo.shop.west.global", "--from", "east").out)
                    or _ready(fedctl, "west") == 0
                ),
                what="the change in east",
            )
            told = eventually(
                lambda: {f.code for f in findings()} >= {"storage_failed"} and findings(), what="the problem"
            )
            assert any(f.subject.startswith("west") for f in told), told
        finally:
            endpoints.write_text(good)
        assert east.get("echo.shop.global") == "east"
        eventually(lambda: _ready(fedctl, "west") == 1, what="the copy is back")
        eventually(lambda: east.answers("echo.shop.west.global") == "west", what="an answer of west")
    fedctl.ok("token", "issue", "south")
    fedctl.ok("token", "revoke", "south")


def _ready(fedctl: Any, cluster: str) -> int:
    rows = fedctl.ok("get", "endpoints", "--from", "east", "--service", "shop/echo", "-o", "json").json
    return sum(int(row["ready"]) for row in rows if row["cluster"] == cluster)


def test_a_start_on_a_full_disk(disks: dict[str, Path], whole: ProcessFederation, east: Any) -> None:
    """It ends with one line, or serves from what it has; once there is room it starts."""
    whole.kill("east-sidecar", signal.SIGTERM)
    try:
        with filled(disks, "east/sidecar"):
            status, line = start("sidecar", whole.places["east"].directory / "sidecar.yaml")
            assert (status, line.endswith("[storage_failed]")) == (10, True), line
    finally:
        whole.restart("east-sidecar")
    asyncio.run(whole.wait_ready("east-sidecar"))


# --- damaged state ----------------------------------------------------------------------------------------------------

DAMAGE = {"empty": b"", "garbage": b"garbage", "half": None}


def damage(path: Path, how: str) -> None:
    """Leave nothing, something else, or the first half."""
    data = DAMAGE[how]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if data is None else data)


def test_damaged_state_of_an_agent(
    whole: ProcessFederation, fedctl: Any, east: Any, eventually: Any, findings: Any
) -> None:
    """Everything is rebuilt but the pins, which only an operator can give: that is said, with the command."""
    directory = whole.places["east"].agent
    virtual = east.address("echo.shop.global")
    clusterset = fedctl.ok("resolve", "echo.shop.global", "--from", "east", "-o", "json").json["ips"]
    whole.kill("east-agent", signal.SIGTERM)
    files = sorted([*directory.glob("*.state"), directory / "registry.view"])
    assert len(files) >= 5
    for number, path in enumerate(files):
        damage(path, list(DAMAGE)[number % len(DAMAGE)])
    whole.restart("east-agent")
    asyncio.run(whole.wait_ready("east-agent"))
    found = eventually(lambda: [f for f in findings() if f.code == "unpinned"], what="the lost pin")
    assert "fedctl link east west" in found[0].detail
    eventually(lambda: east.answers("echo.shop.global") == "east", what="an answer of east")
    fedctl.ok("link", "east", "west")
    fedctl.ok("status", "--wait", "--timeout", "60")
    assert east.address("echo.shop.global") == virtual
    assert fedctl.ok("resolve", "echo.shop.global", "--from", "east", "-o", "json").json["ips"] == clusterset
    assert {p.name for p in directory.glob("*.corrupt")} == {f"{p.name}.corrupt" for p in files}
    for path in directory.glob("*.corrupt"):
        path.unlink()


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_state_of_a_sidecar_and_a_gateway(whole: ProcessFederation, east: Any, how: str) -> None:
    virtual = east.address("echo.shop.west.global")
    names = ("east-sidecar", "west-gateway")
    for name in names:
        whole.kill(name, signal.SIGTERM)
        directory = whole.directory / name.replace("-", "/")
        for path in directory.iterdir():
            if path.name in ("identity", "view", "addresses", "ports.json", "bootstrap.pb"):
                damage(path, how)
        whole.restart(name)
    asyncio.run(whole.wait_ready(*names))
    assert east.address("echo.shop.west.global") == virtual


def test_a_damaged_database(whole: ProcessFederation, fedctl: Any, east: Any, tmp_path: Path) -> None:
    """The registry does not start, touches nothing, and serves again once the file is back."""
    directory = whole.directory / "registry"
    whole.kill("registry", signal.SIGTERM)
    kept = tmp_path / "kept"
    kept.mkdir()
    files = list(directory.glob("registry.db*"))
    for path in files:
        shutil.copy2(path, kept)
    try:
        database = directory / "registry.db"
        database.write_bytes(random.Random(2).randbytes(8192))
        before = database.read_bytes()
        done = fedctl("registry", "serve", str(directory))
        assert (done.status, done.err.count("\n")) == (9, 1), done.err
        assert "[corrupt_state]" in done.err
        assert database.read_bytes() == before
        assert east.get("echo.shop.west.global") == "west"
    finally:
        for path in files:
            shutil.copy2(kept / path.name, path)
        whole.restart("registry")
    asyncio.run(whole.wait_ready("registry"))


def test_a_damaged_root(whole: ProcessFederation, east: Any) -> None:
    """An agent never makes another root in its place: that would be another cluster."""
    place = whole.places["east"]
    (path,) = (p for p in (place.agent / "keys").iterdir() if p.name.startswith("root"))
    good = path.read_bytes()
    whole.kill("east-agent", signal.SIGTERM)
    try:
        damage(path, "half")
        status, line = start("discovery", place.agent / "settings.yaml")
        assert status == 9, line
        assert str(path) in line
        assert path.read_bytes() == good[: len(good) // 2]
        assert east.get("echo.shop.west.global") == "west"
    finally:
        path.write_bytes(good)
        whole.restart("east-agent")
    asyncio.run(whole.wait_ready("east-agent"))


# --- what comes over the network --------------------------------------------------------------------------------------


def test_dns_garbage(whole: ProcessFederation, east: Any) -> None:
    """Random bytes, and every truncation of a good query, by UDP and TCP: the next query is answered."""
    place = whole.places["east"]
    where = (place.address, place.dns_port)
    rng = random.Random(3)
    query = dns.message.make_query("echo.shop.global", "A", use_edns=0).to_wire()
    packets = [query[:length] for length in range(len(query))]
    packets += [rng.randbytes(rng.randrange(1, 600)) for _ in range(300)]
    packets += [query[:2] + bytes(b ^ (1 << rng.randrange(8)) for b in query[2:]) for _ in range(50)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setblocking(False)
        for packet in packets:
            with contextlib.suppress(BlockingIOError):
                udp.sendto(packet, where)
        # Asked from another socket: what the damaged ones are answered with may fill up this one.
        assert east.address("echo.shop.global").startswith("127.")
    for packet in (
        b"\xff",
        b"\xff\xff" + packets[-1],
        b"\x00\x00",
        b"\x00\x05hello",
        len(query).to_bytes(2) + query[:9],
    ):
        with socket.create_connection(where, timeout=ANSWER) as tcp:
            tcp.sendall(packet)
            tcp.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while tcp.recv(4096):
                    pass
    assert east.address("echo.shop.global").startswith("127.")


def presented(where: tuple[str, int], alpn: str, credential: Path | None) -> bytes:
    """What a TLS server says to a client with this certificate, or without one; raises OSError when it ends it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    if credential is not None:
        context.load_cert_chain(credential)
    with (
        socket.create_connection(where, timeout=ANSWER) as plain,
        context.wrap_socket(plain, server_hostname="p8080.echo.shop.svc.west.test.isthmus") as tls,
    ):
        tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        return tls.recv(1)  # TLS 1.3: the refusal comes after the client has finished


@pytest.mark.parametrize("who", ["nobody", "a stranger", "east"])
def test_clients_without_a_right_certificate(whole: ProcessFederation, tmp_path: Path, who: str) -> None:
    """The registry, an agent and a gateway's Envoy end it in the handshake; a stranger calls itself the agent of east.

    The real east, which is nobody to west's agent, shows that the others would have answered.
    """
    credential = None
    if who != "nobody":
        keys = tmp_path / "keys"
        if who == "east":
            copy_state(whole.places["east"].agent / "keys", keys)
        authority = Authority.open(keys, trust_domain="east.test.isthmus", clock=SystemClock())
        svid = authority.issue_with_key(
            spiffe_id=SpiffeId.parse("spiffe://east.test.isthmus/ns/isthmus-system/sa/agent"),
        )
        credential = tmp_path / "svid.pem"
        credential.write_bytes(svid.key_pem + svid.chain_pem)
    west = whole.places["west"]
    answered = set()
    for name, where, alpn in (
        ("registry", (whole.registry_address, whole.registry_ports["listen"]), "h2"),
        ("agent", (west.address, west.agent_port), "h2"),
        ("gateway", (west.address, west.gateway_port), "h2"),
    ):
        with contextlib.suppress(OSError):
            if presented(where, alpn, credential):
                answered.add(name)
    assert answered == ({"registry", "gateway"} if who == "east" else set())


def test_a_foreign_operator(whole: ProcessFederation, tmp_path: Path, fedctl: Any) -> None:
    """The operator of another registry, who points his credential at this one."""
    other = type(fedctl)(tmp_path / "home")
    other.ok("registry", "init", str(tmp_path / "r"), "--federation", "test.isthmus", "--metrics", "127.0.0.1:0")
    mine, its = whole.directory / "registry" / "operator", tmp_path / "r" / "operator"
    for name in ("ca.pem", "operator.yaml"):
        shutil.copy2(mine / name, its / name)
    done = other("get", "clusters", "-o", "json")
    assert (done.status, done.error["code"]) in ((5, "denied"), (6, "unavailable")), done.err
    assert done.err.count("\n") == 1
