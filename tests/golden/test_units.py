"""deploy/systemd is what `fedctl` writes for the usual places; systemd itself looks at it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sidecar.vm.units import SYSUSERS, Process, render, watching

FOLDER = next(p for p in Path(__file__).parents if (p / "pyproject.toml").exists()) / "deploy" / "systemd"
PROGRAMS = "/opt/isthmus/bin"
STATE = "/var/lib/isthmus"

REGISTRY = Process(
    kind="registry", settings=f"{STATE}/registry/settings.yaml", state=f"{STATE}/registry", programs=PROGRAMS
)
AGENT = Process(
    kind="agent",
    settings=f"{STATE}/agent/settings.yaml",
    state=f"{STATE}/agent",
    programs=PROGRAMS,
    user="isthmus",
    writes=(f"{STATE}/manifests",),
)
GATEWAY = Process(
    kind="gateway",
    settings="/etc/isthmus/gateway.yaml",
    state=f"{STATE}/gateway",
    programs=PROGRAMS,
    user="isthmus",
    local_agent=True,
    drain=5,
)
SIDECAR = Process(
    kind="sidecar",
    settings="/etc/isthmus/sidecar.yaml",
    state=f"{STATE}/sidecar",
    programs=PROGRAMS,
    network="240.64.0.0/12",
    port=15001,
)
LOOPBACK = Process(
    kind="sidecar",
    settings="/etc/isthmus/sidecar.yaml",
    state=f"{STATE}/sidecar",
    programs=PROGRAMS,
    low_ports=True,
)
MOST_EXPOSED = 2.0
"""What `systemd-analyze security` may say of a unit at most, of 10; docs/vms.md tells what it does say."""


def shipped() -> dict[str, str]:
    texts: dict[str, str] = {}
    for process in (REGISTRY, AGENT, GATEWAY, SIDECAR):
        texts |= {Path(p).name: (c.data or b"").decode() for p, c in render(process).items()}
    (loopback,) = render(LOOPBACK).values()
    texts["isthmus-sidecar-loopback.service"] = (loopback.data or b"").decode()
    renewal = watching("/etc/resolv.conf", (f"{PROGRAMS}/fedctl", "vm", "dns", "--renew"))
    texts |= {Path(p).name: (c.data or b"").decode() for p, c in renewal.items()}
    texts["isthmus.sysusers.conf"] = texts.pop(Path(SYSUSERS).name)
    return texts


def test_the_shipped_units_are_the_rendered_ones(request: pytest.FixtureRequest) -> None:
    texts = shipped()
    if request.config.getoption("--update-golden"):
        for name, text in texts.items():
            (FOLDER / name).write_text(text)
    assert {p.name: p.read_text() for p in FOLDER.iterdir()} == texts, "see --update-golden"


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd is not installed: run scripts/test as root")
    return found


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units with programs that exist, which `verify` wants to see."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("registry", "agent", "gateway", "sidecar", "redirect"):
        (programs / f"isthmus-{name}").symlink_to("/bin/true")
    (programs / "fedctl").symlink_to("/bin/true")
    made = []
    for name, text in shipped().items():
        if not name.endswith(".conf"):
            made.append(tmp_path / name)
            made[-1].write_text(text.replace(PROGRAMS, str(programs)))
    return made


def test_systemd_understands_every_line(analyze: str, units: list[Path]) -> None:
    done = subprocess.run(
        [analyze, "verify", "--man=no", *units], capture_output=True, text=True, timeout=120, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if "isthmus" in line]
    assert not complaints, done.stderr


def test_systemd_finds_little_to_attack(analyze: str, units: list[Path]) -> None:
    services = [str(unit) for unit in units if unit.suffix == ".service"]
    done = subprocess.run(
        [analyze, "security", "--offline=true", f"--threshold={round(MOST_EXPOSED * 10)}", *services],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = re.findall(r"Overall exposure level for (\S+): ([0-9.]+)", done.stdout)
    print(found)
    assert len(found) == len(services), done.stderr
    assert {name: level for name, level in found if float(level) > MOST_EXPOSED} == {}
    assert done.returncode == 0
