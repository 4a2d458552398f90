"""Settings of the gateway: what is refused, and that the refusal is one line that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from federation.errors import InvalidInput
from gateway.settings import read

GOOD = {
    "name": "gw-1",
    "state_directory": "/tmp/s",  # noqa: S108 - never opened
    "agent_directory": "/tmp/a",  # noqa: S108
    "address": "192.0.2.1",
    "port": 15443,
}


def write(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in {**GOOD, **changes}.items() if v is not None}))
    return path


def test_the_least_settings_have_sound_defaults(tmp_path: Path) -> None:
    settings = read(write(tmp_path))
    assert settings.listen_port == 15443
    assert (settings.namespace, settings.account) == ("isthmus-system", "gateway")
    assert settings.announced(draining=True).draining


def test_peers_may_reach_it_at_another_address_and_port(tmp_path: Path) -> None:
    settings = read(write(tmp_path, address="198.51.100.7", bind_port=443))
    assert settings.listen_port == 443
    assert settings.announced(draining=False).address == "198.51.100.7"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"address": "not an address"}, "address"),
        ({"address": None}, "address"),
        ({"address": "", "egress_bind": "0.0.0.0"}, "egress_bind 0.0.0.0: no workload"),
        ({"address": "service", "egress_bind": "::"}, "egress_bind ::: no workload"),
        ({"name": "gw.1"}, "name 'gw.1' is no DNS label"),
        ({"address": "gw.example.com"}, "address 'gw.example.com' is no IP address"),
        ({"port": 0}, "port"),
        ({"port": "15443"}, "port"),
        ({"bind": "everywhere"}, "bind"),
        ({"egress_bind": ""}, "egress_bind"),
        ({"weight": 0}, "weight"),
        ({"drain_seconds": -1}, "drain_seconds"),
        ({"drain_quiet_seconds": 601}, "drain_quiet_seconds"),
        ({"names_limit": 0}, "names_limit"),
        ({"refused_limit": 0}, "refused_limit"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_bad_settings_give_one_line_that_names_the_key(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(write(tmp_path, **changes))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "egress"),
    [
        ({}, "127.0.0.1"),  # nobody else reaches it, and the agent leaves it out
        ({"egress_bind": "10.1.0.1"}, "10.1.0.1"),
        ({"egress_bind": "0.0.0.0"}, ""),  # at its address
        ({"egress_bind": "0.0.0.0", "egress_address": "10.1.0.1"}, "10.1.0.1"),
        ({"egress_bind": "192.0.2.1"}, ""),
        ({"address": "", "egress_bind": "10.1.0.1"}, "10.1.0.1"),
        ({"address": "service", "egress_bind": "0.0.0.0", "egress_address": "10.1.0.1"}, "10.1.0.1"),
    ],
)
def test_where_workloads_of_the_own_cluster_reach_it(tmp_path: Path, changes: dict[str, str], egress: str) -> None:
    assert read(write(tmp_path, **changes)).announced(draining=False).egress == egress


@pytest.mark.parametrize("address", ["", "service"])
def test_a_gateway_whose_address_is_not_its_own_to_say(tmp_path: Path, address: str) -> None:
    announced = read(write(tmp_path, address=address)).announced(draining=False)
    assert (announced.address, announced.port) == (address, 15443)


POD = {
    "agent_directory": None,
    "agent": {
        "enrolment": ["10.96.0.9:7446"],
        "anchors": "/etc/isthmus/trust/root.pem",
        "service_account_token": "/var/run/secrets/isthmus/token",
    },
}


def test_in_a_pod_the_command_line_says_what_only_the_kubelet_knows(tmp_path: Path) -> None:
    name = f"isthmus-gateway-{'7d4b9c5f6d-x2k8p':>016}"
    told = [f"name={name}", "address=192.0.2.7", "egress_bind=10.1.0.5", "metrics.host=10.1.0.5", "metrics.port=9464"]
    settings = read(write(tmp_path, **POD), told)
    assert settings.in_pod
    assert (settings.name, settings.address, settings.egress_bind) == (name, "192.0.2.7", "10.1.0.5")
    assert (settings.metrics.host, settings.metrics.port) == ("10.1.0.5", 9464)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"token_file": "join.token"}, "agent.service_account_token and agent.token_file"),
        ({"enrolment": []}, "pods.listen"),
        ({"anchors": ""}, "agent.anchors"),
        ({"trust_domain": "Bad Domain"}, "agent.trust_domain"),
        ({"service_account_token": ""}, "agent.trust_domain"),  # a machine has to say whose it is
    ],
)
def test_bad_settings_of_an_agent_afar(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    agent = POD["agent"]
    assert isinstance(agent, dict)
    with pytest.raises(InvalidInput) as caught:
        read(write(tmp_path, agent_directory=None, agent={**agent, **changes}))
    assert says in str(caught.value)


def test_paths_of_a_pod_start_at_the_settings_file(tmp_path: Path) -> None:
    agent = {"enrolment": ["10.96.0.9:7446"], "anchors": "root.pem", "service_account_token": "token"}
    found = read(write(tmp_path, agent_directory=None, agent=agent)).agent
    assert found is not None
    assert (found.anchors, found.service_account_token) == (str(tmp_path / "root.pem"), str(tmp_path / "token"))
    assert found.token_file == ""
