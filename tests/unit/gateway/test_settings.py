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
        ({"address": "gw.example.com"}, "address 'gw.example.com' is no IP address"),
        ({"port": 0}, "port"),
        ({"port": "15443"}, "port"),
        ({"bind": "everywhere"}, "bind"),
        ({"egress_bind": ""}, "egress_bind"),
        ({"weight": 0}, "weight"),
        ({"drain_seconds": -1}, "drain_seconds"),
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
    ],
)
def test_where_workloads_of_the_own_cluster_reach_it(tmp_path: Path, changes: dict[str, str], egress: str) -> None:
    assert read(write(tmp_path, **changes)).announced(draining=False).egress == egress
