from __future__ import annotations

from pathlib import Path

import pytest

from discovery.settings import load
from federation.errors import InvalidInput, InvalidSettings

GOOD = "cluster: east\nfederation: fed.example\nregistry: 127.0.0.1:7400\nfiles: {folder: manifests}\n"


def write(tmp_path: Path, more: str = "", text: str = GOOD) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(text + more)
    return path


def test_defaults_and_relative_paths(tmp_path: Path) -> None:
    settings = load(write(tmp_path))
    assert settings.path == tmp_path
    assert settings.files.folder == str(tmp_path / "manifests")
    assert settings.trust_domain == "east.fed.example"
    assert settings.listen == "127.0.0.1:7445"


@pytest.mark.parametrize(
    "more",
    [
        "unknown: 1\n",
        "listen: 127.0.0.1\n",
        "listen: 127.0.0.1:70000\n",
        "svid_ttl: 0\n",
        "svid_ttl: 100000\n",
        "gateway_lease: -1\n",
        "drain_seconds: 61\n",
        "heartbeat: soon\n",
        "clusterset: {v4: 241.0.0.0/30}\n",
        "clusterset: {v4: 'fd00::/64'}\n",
        "clusterset: {v4: 241.0.0.1/16}\n",
        "clusterset: {v4: ''}\n",
        "dns: {listen: 'localhost:53'}\n",
        "dns: {listen: 127.0.0.1}\n",
        "dns: {ttl: -1}\n",
        "dns: {upstream: [resolver]}\n",
        "dns: {upstream: ['10.0.0.10:0']}\n",
        "clusterset: {gateway_ports: [30000, 20000]}\n",
        "clusterset: {gateway_ports: [0, 20000]}\n",
        "identities: {0: [nothing]}\n",
        'identities: {"1000": [a/b]}\n',
        "log: {level: loud}\n",
        "advertise: [10.0.0.1]\n",
        "advertise: ['10.0.0.1:0']\n",
        "directory: /" + "x" * 100 + "\n",
    ],
)
def test_bad_values_are_named(tmp_path: Path, more: str) -> None:
    with pytest.raises(InvalidInput):
        load(write(tmp_path, more))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("vms: {listen: 127.0.0.1}\n", "vms.listen"),
        ("vms: {advertise: '10.0.0.1:7446'}\n", "vms.listen is not"),
        ("vms: {listen: '0.0.0.0:7446'}\nlisten: 10.0.0.1:7445\n", "no address that a VM can dial"),
        ("vms: {listen: '127.0.0.1:7446', advertise: ['10.0.0.1']}\n", "vms.advertise"),
        ("vms: {listen: '10.0.0.1:7446'}\n", "cannot dial the agent at 127.0.0.1:7445"),
        ("vms: {listen: '10.0.0.1:7446'}\nlisten: 0.0.0.0:7445\n", "cannot dial the agent at 0.0.0.0:7445"),
        ("vms: {listen: '10.0.0.1:7446'}\nadvertise: [10.0.0.1:7445, 'localhost:7445']\n", "at localhost:7445"),
    ],
)
def test_virtual_machines_must_be_able_to_dial_what_they_are_told(tmp_path: Path, more: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load(write(tmp_path, more))
    assert said in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "more",
    [
        "vms: {listen: '127.0.0.1:0'}\n",
        "vms: {listen: '10.0.0.1:7446'}\nlisten: 10.0.0.1:7445\n",
        "vms: {listen: '0.0.0.0:7446', advertise: vms.example:7446}\nlisten: 0.0.0.0:7445\nadvertise: a.example:7445\n",
        "vms: {listen: '[::]:7446', advertise: ['[fd00::1]:7446', '[fd00::2]:7446']}\nlisten: '[fd00::1]:7445'\n",
    ],
)
def test_virtual_machines_are_let_in_where_that_is_set(tmp_path: Path, more: str) -> None:
    assert load(write(tmp_path, more)).vms.listen


@pytest.mark.parametrize("key", ["grace", "forget"])
def test_what_machines_register_is_kept_for_some_time(tmp_path: Path, key: str) -> None:
    assert getattr(load(write(tmp_path, f"vms: {{services: {{{key}: 2}}}}\n")).vms.services, key) == 2
    with pytest.raises(InvalidInput, match=f"vms.services.{key} must be above 0"):
        load(write(tmp_path, f"vms: {{services: {{{key}: 0}}}}\n"))


def test_a_cluster_may_have_several_sources(tmp_path: Path) -> None:
    settings = load(write(tmp_path, "kubernetes: {kubeconfig: config}\n"))
    assert settings.files is not None
    assert settings.kubernetes is not None


KUBERNETES = GOOD.replace("files: {folder: manifests}\n", "")


@pytest.mark.parametrize(
    ("more", "kubeconfig"),
    [
        ("kubernetes: {}\n", ""),
        ("kubernetes: {kubeconfig: config}\n", "{here}/config"),
        ("kubernetes: {kubeconfig: /etc/config, context: one}\n", "/etc/config"),
    ],
)
def test_an_api_server_instead_of_a_folder(tmp_path: Path, more: str, kubeconfig: str) -> None:
    settings = load(write(tmp_path, more, text=KUBERNETES))
    assert settings.files is None
    assert settings.kubernetes is not None
    assert settings.kubernetes.kubeconfig == kubeconfig.format(here=tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (KUBERNETES, "set files, kubernetes or consul"),
        (KUBERNETES + "kubernetes: {page: 0}\n", "kubernetes.page"),
        (KUBERNETES + "kubernetes: {watch: 0}\n", "kubernetes.watch"),
        (KUBERNETES + "kubernetes: {confirm: -1}\n", "kubernetes.confirm"),
        (KUBERNETES + "kubernetes: {context: one}\n", "kubernetes.context"),
        (KUBERNETES + "kubernetes: {token: secret}\n", "token"),
    ],
)
def test_one_source_and_its_settings(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load(write(tmp_path, text=text))
    assert said in str(caught.value)


DIALLED = "listen: 10.1.0.5:7445\n"


def test_pods_are_let_in_where_an_api_server_knows_them(tmp_path: Path) -> None:
    more = DIALLED + "kubernetes: {}\npods: {listen: '0.0.0.0:7446', advertise: '10.96.0.9:7446'}\n"
    pods = load(write(tmp_path, more, text=KUBERNETES)).pods
    assert (pods.listen, pods.advertise, pods.accounts) == ("0.0.0.0:7446", "10.96.0.9:7446", ("gateway", "injector"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + DIALLED + "pods: {listen: '10.1.0.5:7446'}\n", "pods.listen is set and kubernetes is not"),
        (KUBERNETES + DIALLED + "kubernetes: {}\npods: {listen: '0.0.0.0:7446'}\n", "set pods.advertise"),
        (KUBERNETES + DIALLED + "kubernetes: {}\npods: {advertise: '10.1.0.5:7446'}\n", "pods.listen is not"),
        (KUBERNETES + "kubernetes: {}\npods: {listen: '10.1.0.5:7446'}\n", "pods are let in at 10.1.0.5:7446"),
        (KUBERNETES + "kubernetes: {}\npods: {listen: nowhere}\n", "pods.listen"),
        (KUBERNETES + "kubernetes: {}\npods: {accounts: [agent]}\n", "pods.accounts: 'agent'"),
        (KUBERNETES + "kubernetes: {}\npods: {accounts: [registry]}\n", "pods.accounts: 'registry'"),
        (KUBERNETES + "kubernetes: {gateway_service: Not A Name}\n", "kubernetes.gateway_service"),
    ],
)
def test_where_pods_cannot_be_let_in(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load(write(tmp_path, text=text))
    assert said in str(caught.value)


@pytest.mark.parametrize("old", ["cluster: east", "federation: fed.example", "folder: manifests"])
def test_missing_values(tmp_path: Path, old: str) -> None:
    with pytest.raises(InvalidSettings):
        load(write(tmp_path, text=GOOD.replace(old, "")))


def test_a_cluster_must_be_a_label(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        load(write(tmp_path, text=GOOD.replace("east", "East.1")))
