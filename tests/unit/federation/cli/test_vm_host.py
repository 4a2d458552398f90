from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.cli.bundle import DNS, VmBundle
from federation.cli.main import run
from sidecar.vm.changes import Content, Step
from sidecar.vm.host import Host

PROGRAMS = "--programs=/opt/isthmus/bin"
VM: dict[str, Any] = {
    "name": "web-1",
    "namespace": "shop",
    "account": "web",
    "agent_directory": "/var/lib/isthmus/agent",
    "way": "redirect",
}


AGENT = {
    "trust_domain": "east.test.isthmus",
    "enrolment": ["192.0.2.1:7446"],
    "anchors": "anchors.pem",
    "token_file": "join.token",
}
MEMBER = {"name": "web-1", "state_directory": "/var/lib/isthmus/sidecar", "agent": AGENT}
SIDECAR = {**MEMBER, "namespace": "shop", "account": "web", "dns": dict(DNS)}
INVITED = VmBundle(
    vm="web-1",
    cluster="east",
    process="sidecar",
    expires="2026-01-01T00:00:00Z",
    fingerprint="sha256:00",
    files={"sidecar.yaml": yaml.safe_dump(SIDECAR), "join.token": "secret\n", "anchors.pem": "PEM\n"},
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    (made / "etc").mkdir(parents=True)
    (made / "etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
    return made


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """As `fedctl vm bootstrap` prints one."""
    path = tmp_path / "web-1.yaml"
    path.write_text(INVITED.text())
    return path


def listing(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def failed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    assert run([*words, "-o", "json"]) != 0
    error: dict[str, str] = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
    return error


def test_a_machine_is_set_up_and_left_as_it_was(root: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = listing(root)
    assert run(["vm", "install", str(bundle), "--root", str(root), PROGRAMS, "-o", "json"]) == 0
    done = {row["path"]: row["done"] for row in json.loads(capsys.readouterr().out)}
    assert done == {
        "/etc/isthmus/anchors.pem": "written",
        "/etc/isthmus/join.token": "written",
        "/etc/isthmus/sidecar.yaml": "written",
        "/etc/resolv.conf": "written",
        "/etc/systemd/system/isthmus-redirect.service": "written",
        "/etc/systemd/system/isthmus-resolver.path": "written",
        "/etc/systemd/system/isthmus-resolver.service": "written",
        "/etc/systemd/system/isthmus-sidecar.service": "written",
        "/var/lib/isthmus/host/resolv.conf": "written",
    }
    settings = yaml.safe_load((root / "etc/isthmus/sidecar.yaml").read_text())
    assert settings["way"] == "redirect"
    assert settings["dns"] == {
        "host": "127.0.0.55",
        "port": 53,
        "upstream_file": "/var/lib/isthmus/host/resolv.conf",
    }
    assert run(["vm", "dns", "--root", str(root), PROGRAMS]) == 0
    assert run(["vm", "uninstall", "--root", str(root)]) == 0
    assert listing(root) == before


def test_a_dry_run_shows_what_would_be_written(root: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = listing(root)
    assert run(["vm", "install", str(bundle), "--root", str(root), PROGRAMS, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "+++ /etc/resolv.conf" in shown
    assert "+nameserver 127.0.0.55" in shown
    assert "secret" not in shown, "the token"
    assert "+ExecStart=/opt/isthmus/bin/isthmus-sidecar --settings /etc/isthmus/sidecar.yaml" in shown
    assert listing(root) == before


def test_without_a_dns_hook(root: Path, bundle: Path) -> None:
    assert run(["vm", "install", str(bundle), "--root", str(root), PROGRAMS, "--dns", "none"]) == 0
    assert (root / "etc/resolv.conf").read_text() == "nameserver 192.0.2.1\n"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--dns", "bind"], "invalid_input"),
        (["--dns", "resolved"], "resolver_missing"),
        (["--dns", "networkmanager"], "resolver_missing"),
        (["--programs", "/root/venv/bin"], "path_hidden"),
    ],
)
def test_what_cannot_be_installed_leaves_nothing(
    root: Path, bundle: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: str
) -> None:
    before = listing(root)
    base = ["vm", "install", str(bundle), "--root", str(root)]
    error = failed(capsys, *base, *([] if "--programs" in words else [PROGRAMS]), *words)
    assert error["code"] == code
    assert error["hint"]
    assert listing(root) == before


def test_a_folder_and_standard_input_are_bundles_too(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    INVITED.write(tmp_path / "web-1")
    assert run(["vm", "install", str(tmp_path / "web-1"), "--root", str(root), PROGRAMS]) == 0
    from_folder = listing(root)
    assert run(["vm", "uninstall", "--root", str(root)]) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(INVITED.text()))
    assert run(["vm", "install", "-", "--root", str(root), PROGRAMS]) == 0
    assert listing(root) == from_folder


def test_a_machine_may_be_a_gateway(root: Path, tmp_path: Path) -> None:
    settings = {**MEMBER, "state_directory": "/var/lib/isthmus/gateway", "address": "192.0.2.2", "port": 15443}
    files = {**INVITED.files, "gateway.yaml": yaml.safe_dump(settings)}
    del files["sidecar.yaml"]
    (tmp_path / "gw.yaml").write_text(dataclasses.replace(INVITED, process="gateway", files=files).text())
    before = listing(root)
    assert run(["vm", "install", str(tmp_path / "gw.yaml"), "--root", str(root), PROGRAMS]) == 0
    assert (root / "etc/systemd/system/isthmus-gateway.service").is_file()
    assert (root / "etc/resolv.conf").read_text() == "nameserver 192.0.2.1\n"
    assert run(["vm", "install", str(tmp_path / "gw.yaml"), "--root", str(root), PROGRAMS, "--dns", "resolved"]) == 2
    assert run(["vm", "uninstall", "--root", str(root)]) == 0
    assert listing(root) == before


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "bundle_malformed"),
        ("[1]", "bundle_malformed"),
        (INVITED.text().replace("sidecar.yaml", "other.yaml"), "invalid_settings"),
        (INVITED.text().replace("name: web-1", "name: Web"), "invalid_name"),
        (INVITED.text().replace("process: sidecar", "process: proxy"), "bundle_malformed"),
        (INVITED.text().replace("port: 5353", "port: many"), "invalid_settings"),
        (INVITED.text().replace("host: 127.0.0.1", "host: here"), "invalid_settings"),
        (INVITED.text().replace("anchors: anchors.pem", "anchors: ''"), "invalid_settings"),
    ],
)
def test_a_file_that_is_no_bundle(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, code: str
) -> None:
    before = listing(root)
    (tmp_path / "bad.yaml").write_text(text)
    error = failed(capsys, "vm", "install", str(tmp_path / "bad.yaml"), "--root", str(root), PROGRAMS)
    assert error["code"] == code
    assert listing(root) == before


def test_no_bundle_at_all(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for given, code in (("none.yaml", "not_found"), ("empty", "bundle_malformed")):
        assert failed(capsys, "vm", "install", str(tmp_path / given), "--root", str(root), PROGRAMS)["code"] == code


def test_a_host_without_resolver(root: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "etc/resolv.conf").unlink()
    error = failed(capsys, "vm", "install", str(bundle), "--root", str(root), PROGRAMS)
    assert error["code"] == "resolver_unknown"


def test_what_was_edited_meanwhile_is_kept_and_told(
    root: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["vm", "install", str(bundle), "--root", str(root), PROGRAMS]) == 0
    unit = root / "etc/systemd/system/isthmus-sidecar.service"
    unit.write_text("mine")
    (root / "etc/resolv.conf").write_text("nameserver 192.0.2.9\n")
    error = failed(capsys, "vm", "uninstall", "--root", str(root))
    assert error["code"] == "file_changed"
    assert "/etc/resolv.conf" in error["message"]
    assert "isthmus-sidecar.service" in error["message"]
    assert unit.read_text() == "mine"
    assert run(["vm", "uninstall", "--root", str(root), "--keep-changed"]) == 0
    assert unit.read_text() == "mine"
    assert not (root / "var").exists()


def test_dns_needs_a_sidecar_that_knows_whom_to_ask(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**VM, "state_directory": "/var/lib/isthmus/sidecar", "dns": {"host": "127.0.0.55"}}
    Host(root).do([Step("/etc/isthmus/sidecar.yaml", Content.text(yaml.safe_dump(settings)))])
    error = failed(capsys, "vm", "dns", "--root", str(root), PROGRAMS)
    assert error["code"] == "no_upstream"
    assert "/var/lib/isthmus/host/resolv.conf" in error["hint"]


def test_a_damaged_journal_stops_everything(root: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Host(root).do([Step("/var/lib/isthmus/host/vm.json", Content.text("{"))])
    for words in (["install", str(bundle), PROGRAMS], ["uninstall"]):
        error = failed(capsys, "vm", *words, "--root", str(root))
        assert error["code"] == "corrupt_state"


# --- units of plain hosts

AGENT_OF_CONSUL = {"cluster": "east", "federation": "test.isthmus", "registry": "192.0.2.1:7400"}


@pytest.mark.parametrize(
    ("kind", "settings", "lines"),
    [
        (
            "registry",
            {"federation": "test.isthmus", "directory": ".", "listen": "192.0.2.1:7400", "enrolment": "192.0.2.1:443"},
            ["DynamicUser=yes", "StateDirectory=isthmus/registry", "AmbientCapabilities=CAP_NET_BIND_SERVICE"],
        ),
        (
            "agent",
            {
                "cluster": "east",
                "federation": "test.isthmus",
                "registry": "192.0.2.1:7400",
                "files": {"folder": "/var/lib/isthmus/manifests"},
            },
            ["User=isthmus", "ReadWritePaths=-/var/lib/isthmus/manifests", "StateDirectoryMode=0711"],
        ),
        (
            "agent",
            {**AGENT_OF_CONSUL, "consul": {"datacenters": {"dc1": "shop"}, "rules": "/etc/isthmus/consul/rules.yaml"}},
            ["ReadWritePaths=-/etc/isthmus/consul"],
        ),
        (
            "gateway",
            {
                "name": "gw",
                "address": "192.0.2.1",
                "port": 15443,
                "state_directory": "/var/lib/isthmus/gateway",
                "agent_directory": "/var/lib/isthmus/agent",
                "drain_seconds": 60,
            },
            ["User=isthmus", "LimitNOFILE=524288", "TimeoutStopSec=90", "PrivateUsers=yes"],
        ),
        (
            "sidecar",
            {**VM, "state_directory": "/var/lib/isthmus/sidecar", "way": "loopback"},
            ["User=isthmus", "AmbientCapabilities=CAP_NET_BIND_SERVICE", "Before=nss-lookup.target"],
        ),
    ],
)
def test_a_unit_for_each_process(root: Path, kind: str, settings: dict[str, Any], lines: list[str]) -> None:
    where = f"/var/lib/isthmus/{kind}/settings.yaml"
    Host(root).do([Step(where, Content.text(yaml.safe_dump(settings)))])
    before = listing(root)
    words = ["install", "systemd", kind, "--root", str(root)]
    assert run([*words, "--settings", where, PROGRAMS]) == 0
    text = (root / f"etc/systemd/system/isthmus-{kind}.service").read_text()
    assert f"ExecStart=/opt/isthmus/bin/isthmus-{kind} --settings {where}" in text.splitlines()
    assert set(lines) <= set(text.splitlines())
    assert run([*words, "--undo"]) == 0
    assert listing(root) == before


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["proxy"], "invalid_input"),
        (["agent"], "usage"),
        (["agent", "--settings", "/etc/isthmus/none.yaml"], "invalid_settings"),
    ],
)
def test_what_is_no_unit(root: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: str) -> None:
    assert failed(capsys, "install", "systemd", *words, "--root", str(root), PROGRAMS)["code"] == code


@pytest.mark.parametrize(
    ("rules", "token", "outcome"),
    [
        ("rules.yaml", "/etc/isthmus/token", ""),
        ("/home/me/rules.yaml", "/etc/isthmus/token", "path_hidden"),
        ("/etc/isthmus/consul/rules.yaml", "/root/token", "path_hidden"),
    ],
)
def test_what_an_agent_of_consul_writes_and_reads(
    root: Path, capsys: pytest.CaptureFixture[str], rules: str, token: str, outcome: str
) -> None:
    """Rules in its state folder need no further folder; what units do not see is refused."""
    where = "/var/lib/isthmus/agent/settings.yaml"
    consul = {"datacenters": {"dc1": "shop"}, "rules": rules, "token_file": token}
    Host(root).do([Step(where, Content.text(yaml.safe_dump({**AGENT_OF_CONSUL, "consul": consul})))])
    words = ("install", "systemd", "agent", "--settings", where, "--root", str(root), PROGRAMS)
    if outcome:
        assert failed(capsys, *words)["code"] == outcome
    else:
        assert run(list(words)) == 0
        assert "ReadWritePaths" not in (root / "etc/systemd/system/isthmus-agent.service").read_text()
