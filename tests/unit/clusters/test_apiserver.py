"""The command lines of a local cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusters.apiserver import LocalCluster, Place, apiserver_command, controllers_command, etcd_command

PLACE = Place(
    name="east",
    directory=Path("/d"),
    address="127.20.0.1",
    api_port=1,
    etcd_port=2,
    peer_port=3,
    service_ranges=("10.96.0.0/16", "fd00:10:60::/112"),
)
PROGRAMS = {name: Path("/p") / name for name in ("etcd", "kube-apiserver", "kube-controller-manager")}


def flags(command: list[str]) -> dict[str, str]:
    return dict(part.removeprefix("--").partition("=")[::2] for part in command[1:])


def test_etcd_listens_on_loopback_alone_and_does_not_wait_for_the_disk() -> None:
    given = flags(etcd_command(PLACE, PROGRAMS["etcd"]))
    assert given["listen-client-urls"] == given["advertise-client-urls"] == "http://127.20.0.1:2"
    assert given["listen-peer-urls"] == "http://127.20.0.1:3"
    assert given["initial-cluster"] == "east=http://127.20.0.1:3"
    assert "unsafe-no-fsync" in given


def test_the_api_server_authorises_by_rbac_and_has_its_own_keys() -> None:
    given = flags(apiserver_command(PLACE, PROGRAMS["kube-apiserver"]))
    assert given["authorization-mode"] == "RBAC"
    assert given["bind-address"] == "127.20.0.1"
    assert given["etcd-servers"] == "http://127.20.0.1:2"
    assert given["client-ca-file"] == "/d/pki/ca.crt"
    assert given["service-cluster-ip-range"] == "10.96.0.0/16,fd00:10:60::/112"
    assert not {"insecure-port", "anonymous-auth", "watch-cache", "feature-gates"} & given.keys()
    assert "disable-admission-plugins" not in given


def test_without_controllers_pods_need_no_account() -> None:
    given = flags(apiserver_command(PLACE, PROGRAMS["kube-apiserver"], controllers=False))
    assert given["disable-admission-plugins"] == "ServiceAccount"


def test_the_controllers_are_those_that_objects_need() -> None:
    given = flags(controllers_command(PLACE, PROGRAMS["kube-controller-manager"]))
    assert {"garbage-collector-controller", "namespace-controller"} <= set(given["controllers"].split(","))
    assert not any("node" in name for name in given["controllers"].split(","))
    assert given["kubeconfig"] == "/d/kubeconfig"


@pytest.mark.parametrize("controllers", [True, False])
def test_parts_start_in_their_order(controllers: bool) -> None:
    parts = tuple(LocalCluster(PLACE, PROGRAMS, controllers=controllers).parts)
    assert parts == ("etcd", "apiserver", "controllers")[: 3 if controllers else 2]


def test_ranges_of_clusters_do_not_overlap() -> None:
    places = [Place.pick(str(index), Path("/d"), "127.0.0.1", index) for index in range(4)]
    assert len({r for place in places for r in place.service_ranges}) == 8
    assert len({port for p in places for port in (p.api_port, p.etcd_port, p.peer_port)}) == 12
