"""What the agents of a local datacenter are told, and what is said where one cannot run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clusters.consul import Datacenter, datacenters
from clusters.consulconfig import Guard, Site, configuration
from federation.errors import NotFound, Unavailable

HERE = Path("/d")
SERVERS = tuple(
    Site(name=f"s{n}", directory=HERE / f"s{n}", address=f"127.20.0.{n}", http=1, dns=2, rpc=3, lan=4, wan=5)
    for n in (1, 2, 3)
)
VM = Site(name="vm", directory=HERE / "vm", address="127.20.0.9", http=1, dns=2, rpc=3, lan=4, wan=5)


def told(site: Site, guard: Guard = Guard(), **rest: Any) -> dict[str, Any]:  # noqa: B008 - frozen
    return configuration(site, datacenter="dc1", servers=SERVERS, guard=guard, **rest)


def test_an_agent_listens_at_its_own_address_alone() -> None:
    for site in (*SERVERS, VM):
        tree = told(site)
        assert tree["bind_addr"] == tree["client_addr"] == tree["advertise_addr"] == site.address
        assert tree["ports"] == {
            **{"http": 1, "https": -1, "dns": 2, "server": 3, "serf_lan": 4, "serf_wan": 5},
            **{"grpc": -1, "grpc_tls": -1},
        }


def test_servers_expect_each_other_and_others_are_their_clients() -> None:
    first, vm = told(SERVERS[0]), told(VM, meta={"zone": "a"})
    assert (first["server"], first["bootstrap_expect"]) == (True, 3)
    assert first["retry_join"] == ["127.20.0.2:4", "127.20.0.3:4"]
    assert (vm["server"], "bootstrap_expect" in vm, vm["node_meta"]) == (False, False, {"zone": "a"})
    assert vm["retry_join"] == ["127.20.0.1:4", "127.20.0.2:4", "127.20.0.3:4"]


def test_without_a_guard_there_is_neither_access_control_nor_tls() -> None:
    assert not {"acl", "tls"} & told(SERVERS[0]).keys()


def test_a_guarded_datacenter_denies_by_default_and_only_servers_know_the_management_token() -> None:
    guard = Guard(management="secret")
    first, vm = told(SERVERS[0], guard), told(VM, guard, agent_token="little")
    assert first["acl"]["default_policy"] == vm["acl"]["default_policy"] == "deny"
    assert first["acl"]["tokens"] == {"initial_management": "secret", "agent": "secret"}
    assert vm["acl"]["tokens"] == {"agent": "little"}


def test_with_tls_there_is_no_plain_port_and_clients_show_who_they_are() -> None:
    tree = told(VM, Guard(tls=True))
    assert (tree["ports"]["http"], tree["ports"]["https"]) == (-1, 1)
    assert tree["tls"]["defaults"]["verify_incoming"] is True
    assert tree["tls"]["defaults"]["cert_file"] == "/d/vm/pki/agent.crt"
    assert tree["tls"]["internal_rpc"] == {"verify_server_hostname": True}


def test_ports_of_one_machine_are_different() -> None:
    sites = [Site.pick(str(n), HERE, "127.0.0.1") for n in range(4)]
    assert len({port for s in sites for port in (s.http, s.dns, s.rpc, s.lan, s.wan)}) == 20


def test_a_wrapped_agent_has_an_address_that_this_machine_does_not() -> None:
    site = Site.pick("vm", HERE, "192.0.2.1", wrap=("ip", "netns", "exec", "vm"))
    assert (site.address, site.wrap) == ("192.0.2.1", ("ip", "netns", "exec", "vm"))


async def test_an_agent_that_ends_at_once_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    program = tmp_path / "consul"
    program.write_text("#!/bin/sh\necho '==> no such flag'\nexit 1\n")
    program.chmod(0o755)
    datacenter = Datacenter("dc1", tmp_path, program)
    with pytest.raises(Unavailable, match=r"dc1-s1 ended: ==> no such flag") as caught:
        await datacenter.start()
    assert str(datacenter.log()) in caught.value.hint
    assert datacenter.tails() == {"dc1-s1": "==> no such flag"}


def test_the_environment_names_the_agent_and_the_token(tmp_path: Path) -> None:
    datacenter = Datacenter("dc1", tmp_path, Path("/p/consul"), acl=True)
    assert datacenter.environment() == {
        "CONSUL_HTTP_ADDR": datacenter.url(),
        "CONSUL_HTTP_TOKEN": datacenter.guard.management,
    }
    assert datacenter.environment(token="") == {"CONSUL_HTTP_ADDR": datacenter.url()}


def test_without_a_consul_the_command_that_brings_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ISTHMUS_CONSUL", raising=False)
    with pytest.raises(NotFound) as caught:
        datacenters(tmp_path, ["dc1"])
    assert "`scripts/testbed consul`" in caught.value.hint
