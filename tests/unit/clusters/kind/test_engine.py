"""What Docker and kind say, as errors of ours; what `docker inspect` says of a node."""

from __future__ import annotations

import io
import json
import tarfile
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from clusters.command import Done
from clusters.kind import engine
from clusters.kind.engine import Node, nodes, read, refusal
from federation.errors import NotFound


def done(err: str, *words: str, status: int = 1) -> Done:
    return Done(words or ("docker", "ps"), status, b"", err)


@pytest.mark.parametrize(
    ("err", "code", "status"),
    [
        (
            "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
            "docker_down",
            6,
        ),
        ("error during connect: Get http://%2Fvar%2Frun: EOF", "docker_down", 6),
        (
            "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock",
            "docker_denied",
            5,
        ),
        ("Error response from daemon: write /var/lib/docker/tmp: no space left on device", "no_disk", 10),
        ('ERROR: failed to create cluster: failed to pull image "kindest/node:v1.36.0"', "kind_image_missing", 3),
        ("Error: No such image: fed-kind-node:v9", "kind_image_missing", 3),
        ("Error response from daemon: manifest for kindest/node:v0 not found", "kind_image_missing", 3),
        ("Failed to create fsnotify watcher: too many open files", "too_few_inotify", 6),
        ("could not find an available, non-overlapping IPv4 address pool among the defaults", "no_network", 6),
        ("ERROR: something else", "docker_failed", 6),
    ],
)
def test_refusals(err: str, code: str, status: int) -> None:
    found = refusal(done(err))
    assert (found.error_code, found.exit_status) == (code, status)
    assert err[:200] in found.message
    assert found.hint or code.endswith("_failed")


def test_the_line_that_tells() -> None:
    said = "Creating cluster ...\nERROR: failed to create cluster: node(s) already exist\nStack Trace:\nmain.main"
    assert done(said, "kind", "create").reason == "ERROR: failed to create cluster: node(s) already exist"
    assert refusal(done(said, "kind", "create")).error_code == "kind_failed"
    assert done("", status=7).reason == "status 7"


CONTAINER = {
    "Name": "/isthmus-t-east-control-plane",
    "Config": {"Labels": {"io.x-k8s.kind.cluster": "isthmus-t-east", "io.x-k8s.kind.role": "control-plane"}},
    "State": {"Status": "running"},
    "Mounts": [
        {"Destination": "/var"},
        {"Destination": "/isthmus-harness/isthmus.t"},
        {"Destination": "/isthmus-harness-not"},
    ],
    "HostConfig": {"PortBindings": {"6443/tcp": [{"HostIp": "127.0.0.1", "HostPort": "41000"}]}},
    "NetworkSettings": {
        "Networks": {
            "kind": {
                "IPAddress": "172.18.0.2",
                "GlobalIPv6Address": "fc00::2",
                "Gateway": "172.18.0.1",
                "IPv6Gateway": "",
            }
        }
    },
}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Docker, as far as these tests ask it: what it prints by its first word."""
    told: dict[str, Done] = {}

    async def attempt(*words: str, **_: object) -> Done:
        return told[words[1]]

    monkeypatch.setattr(engine, "attempt", attempt)
    monkeypatch.setattr("clusters.kind.engine.shutil.which", lambda _: "docker")
    return told


async def test_a_node(answers: dict[str, Done]) -> None:
    answers["ps"] = Done(("docker",), 0, b"abc\n", "")
    answers["inspect"] = Done(("docker",), 0, json.dumps([CONTAINER]).encode(), "")
    assert await nodes() == [
        Node(
            name="isthmus-t-east-control-plane",
            cluster="isthmus-t-east",
            role="control-plane",
            state="running",
            marks=("isthmus.t",),
            address="172.18.0.2",
            address6="fc00::2",
            server="https://127.0.0.1:41000",
            gateways=("172.18.0.1",),
        )
    ]


async def test_a_node_that_went_between_two_questions(answers: dict[str, Done]) -> None:
    answers["ps"] = Done(("docker",), 0, b"abc def\n", "")
    answers["inspect"] = Done(("docker",), 1, json.dumps([CONTAINER]).encode(), "Error: No such container: def")
    assert len(await nodes()) == 1


async def test_no_nodes(answers: dict[str, Done]) -> None:
    answers["ps"] = Done(("docker",), 0, b"\n", "")
    assert await nodes() == []


async def test_a_file_of_a_node(answers: dict[str, Done]) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        info = tarfile.TarInfo("made")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    answers["cp"] = Done(("docker",), 0, archive.getvalue(), "")
    assert await read("n", "/made") == b"abc"
    answers["cp"] = done("Error response from daemon: Could not find the file /made in container n")
    assert await read("n", "/made") is None
    answers["cp"] = done("Cannot connect to the Docker daemon")
    with pytest.raises(Exception, match="does not answer"):
        await read("n", "/made")


@pytest.mark.parametrize(
    ("options", "interface"),
    [({}, "br-0123456789ab"), ({"com.docker.network.bridge.name": "kind0"}, "kind0")],
)
async def test_where_this_machine_is_in_a_network(
    options: dict[str, str], interface: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = [
        {"Subnet": "fc00:f853::/64", "Gateway": "fc00:f853::1"},
        {"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1"},
    ]
    told = [{"Id": "0123456789abcdef", "Options": options, "IPAM": {"Config": pools}}]

    async def answer(*words: str, **_: object) -> Done:
        return Done(words, 0, json.dumps(told).encode(), "")

    monkeypatch.setattr(engine, "docker", answer)
    assert await engine.bridge() == (interface, IPv4Network("172.18.0.0/16"), "172.18.0.1")
    del pools[1]
    with pytest.raises(NotFound, match="no range of IPv4"):
        await engine.bridge()
