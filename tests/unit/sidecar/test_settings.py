"""Settings of the sidecar: what is refused, and that the refusal is one line that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.errors import InvalidInput
from sidecar.settings import read

GOOD = {
    "name": "client",
    "state_directory": "/tmp/s",  # noqa: S108 - never opened
    "agent_directory": "/tmp/a",  # noqa: S108
    "namespace": "shop",
    "account": "client",
}


def write(tmp_path: Path, **changes: object) -> Path:
    import yaml

    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in {**GOOD, **changes}.items() if v is not None}))
    return path


def test_the_least_settings_have_sound_defaults(tmp_path: Path) -> None:
    settings = read(write(tmp_path))
    assert settings.way == "loopback"
    assert str(settings.network) == "127.128.0.0/9"
    assert settings.dns.servers() == []


def test_a_workload_serves_nobody_unless_it_is_said_where(tmp_path: Path) -> None:
    assert read(write(tmp_path)).inbound is None
    callers = ["shop/web", "shop/web-*", "bank/*", "isthmus-system/gateway", "shop/a.b"]
    inbound = read(write(tmp_path, inbound={"port": 15006, "callers": callers})).inbound
    assert inbound is not None
    assert (inbound.address, inbound.port, list(inbound.callers)) == ("0.0.0.0", 15006, callers)


def test_the_services_file_stands_beside_the_settings(tmp_path: Path) -> None:
    assert read(write(tmp_path)).services == ""
    assert read(write(tmp_path, services="offers/services.yaml")).services == str(tmp_path / "offers/services.yaml")
    assert read(write(tmp_path, services="/etc/services.yaml")).services == "/etc/services.yaml"


def test_upstream_servers_are_parsed_once(tmp_path: Path) -> None:
    upstream = ["192.0.2.1", "192.0.2.2:5353", "2001:db8::1", "[2001:db8::2]:54"]
    settings = read(write(tmp_path, dns={"upstream": upstream}))
    assert settings.dns.servers() == [
        ("192.0.2.1", 53),
        ("192.0.2.2", 5353),
        ("2001:db8::1", 53),
        ("2001:db8::2", 54),
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "Not A Label"}, "name"),
        ({"name": None}, "name"),
        ({"way": "magic"}, "way"),
        ({"outbound_port": 0}, "outbound_port"),
        ({"outbound_port": 70000}, "outbound_port"),
        ({"dns": {"port": -1}}, "dns.port"),
        ({"dns": {"host": "localhost"}}, "dns.host"),
        ({"dns": {"upstream": ["resolver"]}}, "dns.upstream"),
        ({"dns": {"upstream": ["192.0.2.1:many"]}}, "dns.upstream"),
        ({"range": "10.0.0.0/8"}, "range"),
        ({"range": "127.128.0.1/9"}, "range"),
        ({"range": "127.128.0.0/30"}, "range"),
        ({"names_limit": 0}, "names_limit"),
        ({"idle_seconds": 0}, "idle_seconds"),
        ({"metrics": {"host": "pod"}}, "metrics.host"),
        ({"metrics": {"port": 99999}}, "metrics.port"),
        ({"log": {"level": "loud"}}, "log.level"),
        ({"state_directory": "/" + "x" * 120}, "state_directory"),
        ({"suffix": "-bad"}, "suffix"),
        ({"account": "a/b"}, "account"),
        ({"surprise": 1}, "surprise"),
        ({"envoy": {"concurrency": 0}}, "envoy.concurrency"),
        ({"drain_seconds": -1}, "drain_seconds"),
        ({"services": ["a.yaml"]}, "services"),
        ({"inbound": {}}, "port"),
        ({"inbound": {"port": 0}}, "inbound.port"),
        ({"inbound": {"port": 15006, "address": "vm-1.example"}}, "inbound.address"),
        *(
            ({"inbound": {"port": 15006, "callers": [pattern]}}, "inbound.callers")
            for pattern in (
                "*",
                "*/*",
                "*/web",
                "shop",
                "shop/",
                "shop/**",
                "shop/*web",
                "shop/-*",
                "Shop/web",
                "shop/a/b",
                "",
            )
        ),
    ],
)
def test_bad_settings_give_one_line_that_names_the_key(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(write(tmp_path, **changes))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


AGENT = {"trust_domain": "dc1.fed.test", "enrolment": ["192.0.2.1:7446"], "anchors": "anchors.pem"}


def test_an_agent_on_another_machine_is_named_by_the_files_of_its_bundle(tmp_path: Path) -> None:
    settings = read(write(tmp_path, agent_directory=None, agent={**AGENT, "token_file": "join.token"}))
    assert settings.agent is not None
    assert settings.agent.anchors == str(tmp_path.resolve() / "anchors.pem")
    assert settings.agent.token_file == str(tmp_path.resolve() / "join.token")
    absolute = read(write(tmp_path, agent_directory=None, agent={**AGENT, "anchors": "/etc/a.pem"})).agent
    assert absolute is not None
    assert (absolute.anchors, absolute.token_file) == ("/etc/a.pem", "")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"agent_directory": None}, "set either agent_directory or agent"),
        ({"agent": AGENT}, "not both"),
        ({"agent_directory": None, "agent": {**AGENT, "enrolment": []}}, "agent.enrolment"),
        ({"agent_directory": None, "agent": {**AGENT, "enrolment": ["192.0.2.1"]}}, "agent.enrolment"),
        ({"agent_directory": None, "agent": {**AGENT, "addresses": ["192.0.2.1:0"]}}, "agent.addresses"),
        ({"agent_directory": None, "agent": {**AGENT, "anchors": ""}}, "agent.anchors"),
        ({"agent_directory": None, "agent": {**AGENT, "trust_domain": "Dc1"}}, "agent.trust_domain"),
        ({"agent_directory": None, "agent": {**AGENT, "colour": "red"}}, "colour"),
    ],
)
def test_an_agent_that_cannot_be_reached_so_is_refused(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(write(tmp_path, **changes))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_in_a_pod_it_is_called_as_the_pod_which_may_be_no_label(tmp_path: Path) -> None:
    agent = {"enrolment": ["10.96.0.9:7446"], "anchors": "/a/root.pem", "service_account_token": "/t/token"}
    assert read(write(tmp_path, name="web.v1", agent_directory=None, agent=agent)).name == "web.v1"
    with pytest.raises(InvalidInput, match=r"name 'web\.v1' is no DNS label"):
        read(write(tmp_path, name="web.v1"))
    with pytest.raises(InvalidInput, match="name"):
        read(write(tmp_path, name="web..v1", agent_directory=None, agent=agent))
