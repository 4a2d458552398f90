from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from federation.errors import Conflict, InvalidInput, IsthmusError, Unavailable
from sidecar.settings import SidecarSettings
from sidecar.vm import setup
from sidecar.vm.changes import Content, Step
from sidecar.vm.host import Host
from sidecar.vm.observe import observe
from sidecar.vm.resolver import KEPT, RESOLV_CONF, Observed, Way, hook
from sidecar.vm.setup import Part
from sidecar.vm.units import Process

VM = {"name": "web-1", "namespace": "shop", "account": "web", "agent_directory": "/var/lib/isthmus/agent"}
SEEN = Observed(resolv_conf=Content.text(""), resolv_text="", resolved_version=252)


class Machine:
    """A host below a folder that believes to be live, with commands that are only written down."""

    def __init__(self, root: Path) -> None:
        self.root, self.ran, self.failing = root, list[str](), ""
        self.host = _Live(root, self._run)

    def _run(self, command: Sequence[str]) -> tuple[int, str]:
        self.ran.append(" ".join(command))
        return (1, "no such luck") if self.failing and self.failing in self.ran[-1] else (0, "")

    def files(self) -> dict[str, str]:
        return {
            f"/{p.relative_to(self.root)}": str(p.readlink()) if p.is_symlink() else p.read_text()
            for p in self.root.rglob("*")
            if p.is_symlink() or p.is_file()
        }


class _Live(Host):
    @property
    def live(self) -> bool:
        return True


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
    (tmp_path / "etc/resolv.conf").chmod(0o755)
    return made


PART = Part(
    name="vm",
    files={"/etc/a": Content.text("a"), "/etc/b/c": Content.text("c")},
    after=(("start", "it"),),
    stop=(("stop", "it"),),
    undo=(("reload",),),
)


def test_install_and_uninstall(machine: Machine) -> None:
    before = machine.files()
    assert setup.install(machine.host, PART).done == {"/etc/a": "written", "/etc/b/c": "written"}
    assert machine.ran == ["start it"]
    assert setup.install(machine.host, PART).done == {"/etc/a": "unchanged", "/etc/b/c": "unchanged"}
    assert machine.ran == ["start it"], "nothing was to be done"
    assert setup.uninstall(machine.host, "vm").done == {"/etc/a": "removed", "/etc/b/c": "removed"}
    assert machine.ran == ["start it", "stop it", "reload"]
    assert machine.files() == before
    assert not (machine.root / "etc/b").exists()
    assert not (machine.root / "var").exists()
    assert setup.uninstall(machine.host, "vm").done == {}
    assert machine.ran[3:] == []


def test_a_dry_run_changes_nothing(machine: Machine) -> None:
    before = machine.files()
    outcome = setup.install(machine.host, PART, dry_run=True)
    assert outcome.done == {"/etc/a": "written", "/etc/b/c": "written"}
    assert outcome.after["/etc/a"] == Content.text("a")
    setup.install(machine.host, PART)
    there = machine.files()
    assert setup.uninstall(machine.host, "vm", dry_run=True).done == {"/etc/a": "removed", "/etc/b/c": "removed"}
    assert machine.files() == there != before
    assert machine.ran == ["start it"]


def test_a_command_that_failed_is_run_again_by_the_next_installation(machine: Machine) -> None:
    machine.failing = "start"
    with pytest.raises(Unavailable, match="start it: no such luck"):
        setup.install(machine.host, PART)
    machine.failing = ""
    assert set(setup.install(machine.host, PART).done.values()) == {"unchanged"}
    assert machine.ran == ["start it", "start it"]


def test_half_an_installation_is_taken_back(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    before, write = machine.files(), Host._write

    def fail(self: Host, path: str, content: Content) -> None:
        if path == "/etc/b/c":
            raise KeyboardInterrupt
        write(self, path, content)

    monkeypatch.setattr(Host, "_write", fail)
    with pytest.raises(KeyboardInterrupt):
        setup.install(machine.host, PART)
    assert machine.files() != before
    monkeypatch.setattr(Host, "_write", write)
    setup.uninstall(machine.host, "vm")
    assert machine.files() == before


def test_what_an_earlier_installation_started_is_stopped_when_another_takes_its_place(machine: Machine) -> None:
    before = machine.files()
    setup.install(machine.host, PART)
    other = Part(name="vm", files={"/etc/d": Content.text("d")}, after=(("start", "other"),), stop=(("stop", "other"),))
    assert setup.install(machine.host, other).done == {"/etc/a": "removed", "/etc/b/c": "removed", "/etc/d": "written"}
    assert machine.ran == ["start it", "stop it", "start other"]
    setup.uninstall(machine.host, "vm")
    assert machine.files() == before
    assert machine.ran[3:] == ["stop other"]


def test_what_cannot_be_stopped_is_told_and_hinders_nothing(machine: Machine) -> None:
    setup.install(machine.host, PART)
    machine.failing = "stop"
    outcome = setup.uninstall(machine.host, "vm")
    assert outcome.complaints == ("stop it: no such luck",)
    assert "removed" in outcome.done.values()


def test_a_file_that_was_edited_is_left_and_what_was_there_before_can_be_found(machine: Machine) -> None:
    part = Part(name="dns", files={RESOLV_CONF: Content.text("nameserver 127.0.0.55\n")})
    before = machine.files()
    setup.install(machine.host, part)
    (machine.root / "etc/resolv.conf").write_text("edited\n")
    with pytest.raises(Conflict, match=r"/etc/resolv\.conf was changed by somebody else"):
        setup.install(machine.host, part)
    outcome = setup.uninstall(machine.host, "dns")
    assert outcome.kept == [RESOLV_CONF]
    kept = machine.root / "var/lib/isthmus/host/before/etc/resolv.conf"
    assert kept.read_text() == "nameserver 192.0.2.1\n"
    assert kept.stat().st_mode & 0o777 == 0o755
    kept.replace(machine.root / "etc/resolv.conf")
    assert setup.uninstall(machine.host, "dns").kept == []
    assert machine.files() == before
    assert not (machine.root / "var").exists()


def test_a_dhcp_client_that_rewrites_resolv_conf_is_followed(machine: Machine) -> None:
    """Its nameservers become the sidecar's, the sidecar goes first again, and its last word comes back at the end."""

    def work(*, again: bool = False) -> dict[str, str]:
        seen = observe(machine.host, machine.host.journal("dns"), version=lambda: None)
        part = setup.dns_part(
            hook(Way.RESOLV_CONF, seen, ("127.0.0.55", 53)), renew=("/opt/isthmus/bin/fedctl", "vm", "dns", "--renew")
        )
        return dict(setup.install(machine.host, part, files_only=again).done)

    assert work()[RESOLV_CONF] == "written"
    assert set(work().values()) == {"unchanged"}
    ran = list(machine.ran)
    machine.host.do([Step(RESOLV_CONF, Content.text("nameserver 192.0.2.2\n"))])
    assert work(again=True)[RESOLV_CONF] == "written"
    assert machine.ran == ran, "the unit that does this has no right to start others"
    files = machine.files()
    assert files[KEPT] == "nameserver 192.0.2.2\n"
    assert "nameserver 127.0.0.55\nnameserver 192.0.2.2\n" in files[RESOLV_CONF]
    assert set(work().values()) == {"unchanged"}, "our own change is no reason to do it again"
    setup.uninstall(machine.host, "dns")
    assert machine.files() == {RESOLV_CONF: "nameserver 192.0.2.2\n"}


@pytest.mark.parametrize(
    ("tree", "way", "port"),
    [
        ({}, Way.RESOLVED, 53),
        ({"way": "redirect"}, Way.RESOLVED, setup.DNS_PORT),
        ({"way": "redirect"}, Way.RESOLV_CONF, 53),
        ({"way": "redirect"}, None, 53),
        ({"dns": {"port": 5353}}, Way.RESOLVED, 5353),
        ({"dns": None}, Way.RESOLVED, 53),
    ],
)
def test_where_names_are_answered(tree: dict[str, Any], way: Way | None, port: int) -> None:
    assert setup.with_dns({**VM, **tree}, SEEN, way)["dns"] == {"host": "127.0.0.55", "port": port}


def member(tree: dict[str, Any]) -> SidecarSettings:
    _, settings, _, _ = setup.member_settings(tree, SidecarSettings, {}, process="sidecar")
    return settings


@pytest.mark.parametrize(
    "tree",
    [{"dns": 5}, {"way": "redirect", "intercept": True}, {"unknown": 1}, {"name": "Web"}, {"dns": {"port": 0.5}}],
)
def test_settings_that_cannot_be(tree: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        setup.sidecar_process(
            member(setup.with_dns({**VM, **tree}, SEEN, Way.RESOLVED)), path=setup.SETTINGS, programs="/opt/isthmus/bin"
        )


def test_what_the_hook_knows_of_others_goes_into_the_settings() -> None:
    tree = setup.with_dns(VM, SEEN, Way.RESOLV_CONF)
    seen = Observed(resolv_conf=Content.text("nameserver 192.0.2.1\n"), resolv_text="nameserver 192.0.2.1\n")
    made = hook(Way.RESOLV_CONF, seen, ("127.0.0.55", 53))
    assert setup.with_upstream(tree, made)["dns"]["upstream_file"] == KEPT
    said = setup.with_upstream({**tree, "dns": {**tree["dns"], "upstream": ["192.0.2.7"]}}, made)
    assert said["dns"]["upstream"] == ["192.0.2.7"]
    assert "upstream_file" not in said["dns"]
    assert setup.with_upstream(tree, None) == tree


def test_only_root_reads_the_token_and_the_process_is_given_it() -> None:
    agent = {
        "trust_domain": "east.test.isthmus",
        "enrolment": ["192.0.2.1:7446"],
        "anchors": "anchors.pem",
        "token_file": "join.token",
    }
    tree = {key: value for key, value in VM.items() if key != "agent_directory"} | {"agent": agent}
    tree, settings, files, credentials = setup.member_settings(
        tree, SidecarSettings, {"join.token": "secret\n", "anchors.pem": "PEM\n"}, process="sidecar"
    )
    assert settings.state_directory == "/var/lib/isthmus/sidecar"
    assert tree["agent"]["anchors"] == "/etc/isthmus/anchors.pem"
    assert files == {
        "/etc/isthmus/anchors.pem": Content.text("PEM\n"),
        "/etc/isthmus/join.token": Content.text("secret\n", 0o600),
    }
    process = setup.sidecar_process(settings, path=setup.SETTINGS, programs="/opt/isthmus/bin", credentials=credentials)
    assert tree["agent"]["token_file"] == process.credential("join.token")
    assert b"secret" not in (setup.render_settings(tree).data or b"")
    (unit,) = setup.process_part(process, name="vm").files.values()
    assert "LoadCredential=join.token:/etc/isthmus/join.token" in (unit.data or b"").decode()
    assert "DynamicUser=yes" in (unit.data or b"").decode()


def test_the_redirect_way_has_a_unit_of_its_own_for_its_rule() -> None:
    settings = member(setup.with_dns({**VM, "way": "redirect"}, SEEN, Way.RESOLVED))
    process = setup.sidecar_process(settings, path=setup.SETTINGS, programs="/opt/isthmus/bin")
    part = setup.process_part(process, name="vm")
    assert "/etc/systemd/system/isthmus-redirect.service" in part.files
    assert part.after[-1] == ("systemctl", "restart", "isthmus-redirect.service", "isthmus-sidecar.service")
    text = (part.files["/etc/systemd/system/isthmus-sidecar.service"].data or b"").decode()
    assert "CAP_NET" not in text


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"programs": "/home/ann/venv/bin"}, "path_hidden"),
        ({"programs": "/root/venv/bin"}, "path_hidden"),
        ({"settings": "/run/user/1000/x.yaml"}, "path_hidden"),
        ({"state": "/srv/isthmus"}, "path_outside"),
        ({"state": "/var/lib"}, "path_outside"),
        ({"settings": "relative.yaml"}, "invalid_input"),
        ({"settings": "/etc/with space.yaml"}, "invalid_input"),
        ({"settings": "/etc/%i.yaml"}, "invalid_input"),
        ({"writes": ("/home/ann/manifests",)}, "path_hidden"),
    ],
)
def test_paths_that_a_unit_cannot_have(change: dict[str, Any], code: str) -> None:
    given = {"settings": "/etc/isthmus/a.yaml", "state": "/var/lib/isthmus/a", "programs": "/opt/isthmus/bin", **change}
    with pytest.raises(InvalidInput) as caught:
        setup.process_part(Process(kind="agent", user="isthmus", **given), name="agent")
    assert caught.value.error_code == code
    assert caught.value.hint


def test_a_port_that_another_resolver_holds_is_told_before_anything_is_written() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with pytest.raises(Conflict, match=f"port {port} of 127.0.0.1 is taken") as caught:
            setup.check_port(Host(), "a-part-that-is-nowhere", ("127.0.0.1", port))
    assert caught.value.error_code == "dns_port_taken"


def test_ways_are_parsed() -> None:
    assert setup.parse_way("auto") is None
    assert setup.parse_way("resolv-conf") is Way.RESOLV_CONF
    with pytest.raises(IsthmusError, match="'bind' is no way"):
        setup.parse_way("bind")
