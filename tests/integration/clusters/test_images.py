"""Images of real packages and wheels: the same bytes from clean caches, and programs that run with no right at all."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusters.images import delivery
from clusters.images.archive import Image
from clusters.images.builder import SOURCE, Builder
from clusters.waiting import START, until_now
from federation import __version__
from federation.errors import Unavailable

pytestmark = pytest.mark.integration

REFERENCE = f"isthmus:{__version__}"
SCRIPTS = tuple(tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]["scripts"])
"""All programs, so that none is forgotten."""

# What the chart gives a container, too: nothing but a writable /tmp.
CONFINED = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=65532", "--tmpfs=/tmp"]


@pytest.fixture(scope="module")
def images() -> list[Image]:
    """The images of this source, from the user's cache as far as that has them."""
    builder = Builder(say=lambda line: print(line))
    try:
        return [builder.image(name) for name in ("isthmus", "netshoot", "socat")]
    except Unavailable as error:
        pytest.skip(str(error))


def test_clean_caches_give_the_same_digests(
    images: list[Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was fetched is shared, so that the archive is asked once; everything is laid out and compiled anew."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    (tmp_path / "isthmus").mkdir()
    (tmp_path / "isthmus" / "packages").symlink_to(cache / "isthmus" / "packages")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wheels = os.environ.get("PIP_CACHE_DIR", str(cache / "pip"))
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PIP_CACHE_DIR": wheels, "PYTHONHASHSEED": "7"}
    made: list[str] = []
    builder = Builder(say=made.append, environ=environ)

    anew = [builder.image(name) for name in ("isthmus", "netshoot", "socat")]

    for first, second in zip(images, anew, strict=True):
        assert [layer.digest for layer in first.layers] == [layer.digest for layer in second.layers]
        assert (first.digest, first.id) == (second.digest, second.id)
    assert sum(" MB in " in line for line in made) == 5


# --- in a Docker engine ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(images: list[Image]) -> None:
    """A Docker engine with the images."""
    try:
        delivery.load(images)
    except Unavailable as error:
        pytest.skip(f"no Docker engine: {error}")
    done = docker("image", "inspect", "--format", "{{.Id}}", REFERENCE)
    assert done.strip() == images[0].id


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr or done.stdout
    return done.stdout + done.stderr


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[tuple[str, str]]:
    """A container that is killed in the end; gives its name and its address."""
    name = f"isthmus-test-{uuid.uuid4().hex[:12]}"
    docker("run", "--detach", "--name", name, *arguments)
    try:
        about = json.loads(docker("container", "inspect", name))[0]
        yield name, about["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    finally:
        docker("rm", "--force", "--volumes", name)


def get(url: str) -> str | None:
    done = subprocess.run(["curl", "-sf", "--max-time", "2", url], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["fedctl", "--version"], f"fedctl {__version__}"),
        *((([name, "--help"]), "sage: ") for name in SCRIPTS),
        (["envoy", "--version"], "envoy  version"),
        (["nft", "--version"], "nftables v"),
        (["ip", "-Version"], "ip utility"),
        # What a process finds of its surroundings: names, certificates, itself.
        (
            [
                "python3",
                "-I",
                "-c",
                "import pwd, ssl; print(pwd.getpwuid(65532)[5], len(ssl.create_default_context().get_ca_certs()) > 99)",
            ],
            "/var/lib/isthmus True",
        ),
        (
            ["python3", "-I", "-c", "from federation.envoy.process import find_envoy; print(find_envoy())"],
            "/usr/local/bin/envoy",
        ),
        (
            # All of our modules can be imported: no package that one of them wants was left out.
            [
                "python3",
                "-I",
                "-c",
                "import importlib, pkgutil\n"
                "for top in ('federation', 'discovery', 'gateway', 'sidecar'):\n"
                "    for one in pkgutil.walk_packages(importlib.import_module(top).__path__, top + '.'):\n"
                "        if not one.name.endswith('__main__'): importlib.import_module(one.name)\n"
                "print('all')",
            ],
            "all",
        ),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else None,
)
def test_a_program_runs_with_no_right(command: list[str], said: str) -> None:
    assert said in docker("run", "--rm", "--network=none", *CONFINED, REFERENCE, *command)


@pytest.mark.usefixtures("engine")
def test_there_is_no_shell_and_nothing_of_the_tests() -> None:
    names = "sh", "bash", "dash", "apt-get", "dpkg", "pip", "openssl", "perl"
    script = (
        "import importlib.util as find, shutil\n"
        f"print([name for name in {names} if shutil.which(name)],"
        "[name for name in ('clusters', 'pip', 'setuptools', 'ensurepip') if find.find_spec(name)])"
    )
    assert (
        docker("run", "--rm", "--network=none", *CONFINED, REFERENCE, "python3", "-I", "-c", script).strip() == "[] []"
    )


@pytest.mark.usefixtures("engine")
def test_nothing_is_compiled_at_the_start() -> None:
    """Every source has its compiled form, which is not checked against it: starts are fast from a read-only root."""
    script = (
        "import importlib.util as find, pathlib, sys\n"
        "roots = [path for path in sys.path if pathlib.Path(path).is_dir()]\n"
        "sources = {path for root in roots for path in pathlib.Path(root).rglob('*.py')}\n"
        "bare = [str(path) for path in sources if not pathlib.Path(find.cache_from_source(str(path))).exists()]\n"
        "flags = {pathlib.Path(find.cache_from_source(str(path))).read_bytes()[4] for path in sources}\n"
        "print(len(sources) > 2000, bare, flags)"
    )
    # Flags 1: validated by hash, and unchecked (PEP 552).
    assert docker("run", "--rm", "--network=none", *CONFINED, REFERENCE, "python3", "-I", "-c", script).strip() == (
        "True [] {1}"
    )


@pytest.mark.usefixtures("engine")
def test_a_registry_serves_from_a_volume(tmp_path: Path) -> None:
    """A new volume belongs to the user of the image; everything else is read-only."""
    folder = "/var/lib/isthmus/registry"
    # A volume of its own container: the next one uses it, and it goes with it.
    making = f"isthmus-test-{uuid.uuid4().hex[:12]}"
    volume = ["--volume", f"{making}:/var/lib/isthmus"]
    try:
        docker(
            *("run", "--rm", "--network=none", *CONFINED, *volume, REFERENCE, "fedctl", "registry", "init", folder),
            *("--federation", "example.isthmus", "--listen", "0.0.0.0:7400", "--enrolment", "0.0.0.0:7401"),
            *("--advertise", "127.0.0.1:7400", "--advertise-enrolment", "127.0.0.1:7401", "--metrics", "0.0.0.0:9464"),
        )
        serving = ["isthmus-registry", "--settings", f"{folder}/settings.yaml"]
        with running(*CONFINED, *volume, REFERENCE, *serving) as (name, address):
            until_now(lambda: get(f"http://{address}:9464/metrics"), seconds=START, what="the registry")
            found = json.loads(docker("exec", name, "fedctl", "get", "clusters", "-o", "json"))
            assert found == []
    finally:
        docker("volume", "rm", "--force", making)


@pytest.mark.usefixtures("engine")
def test_an_envoy_starts() -> None:
    bootstrap = {"admin": {"address": {"socket_address": {"address": "0.0.0.0", "port_value": 9901}}}}
    command = ["envoy", "--config-yaml", json.dumps(bootstrap), "--concurrency", "1"]
    with running(*CONFINED, REFERENCE, *command) as (_, address):
        ready = until_now(lambda: get(f"http://{address}:9901/ready"), seconds=START, what="Envoy")
        assert ready.strip() == "LIVE"


# --- stand-ins of the conformance suite ------------------------------------------------------------------------------


@pytest.mark.usefixtures("engine")
def test_the_stand_ins_do_what_the_suite_asks_of_them() -> None:
    """Its pods run these very pipelines (`ncCommand`, `socatListenerScript`, `nslookup -type=…`)."""
    listening = (
        'first_ip=$(echo "$MY_POD_IPS" | tr "," " " | awk \'{print $1}\'); export first_ip; '
        'if echo "$MY_POD_IPS" | grep -qE "([^0-9]|^)[0-9]{1,3}\\.[0-9]{1,3}"; then '
        "socat -v -v TCP-LISTEN:42,crlf,reuseaddr,fork SYSTEM:'echo \"pod ip $first_ip\"'; fi"
    )
    pod = ["--entrypoint", "/bin/sh", "--env", "MY_POD_IPS=192.0.2.7,192.0.2.8", "alpine/socat:1.7.4.4"]
    with (
        running(*pod, "-c", listening) as (_, address),
        running("nicolaka/netshoot:v0.15", "/bin/sh", "-ec", "while :; do echo '.'; sleep 5 ; done") as (name, _),
    ):

        def call() -> str | None:
            asked = docker("exec", name, "sh", "-c", f"echo hi | nc -v -w 2 -4 {address} 42 2>&1 || true")
            return asked if "pod ip 192.0.2.7" in asked else None

        until_now(call, seconds=START, what="an answer")
        for tool in ("dig -v", "nslookup -version"):
            assert "9." in docker("exec", name, "sh", "-c", tool)
        asked = docker("exec", name, "sh", "-c", "nslookup -type=SRV -timeout=1 -retry=0 a.test. 127.0.0.1 || true")
        assert "connection refused" in asked or "timed out" in asked or "no servers could be reached" in asked
