"""The settings that the chart writes, and the arguments beside them, are those that the processes take."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from discovery import inpod as agent
from federation.cli.chart.source import Release, chart
from federation.registry import inpod as registry
from gateway import settings as gateway
from sidecar.injector import settings as injector

ENVIRONMENT = {"POD_NAME": "isthmus-x-7d4b9c-abcde", "POD_IP": "10.0.0.7", "HOST_IP": "192.0.2.7"}
SERVICE = {"ISTHMUS_AGENT_SERVICE_HOST": "10.96.0.9"}
SIX = {"POD_IP": "fd00::7", "HOST_IP": "2001:db8::7", "ISTHMUS_AGENT_SERVICE_HOST": "fd00:10::9"}


def processes(values: dict[str, Any]) -> dict[str, tuple[str, list[str]]]:
    """Component → its settings file and its arguments."""
    texts = chart().render(chart().values(values), Release()).values()
    documents = [one for text in texts for one in yaml.safe_load_all(text) if one]
    files = {k: v for one in documents if one["kind"] == "ConfigMap" for k, v in one["data"].items()}
    found = {}
    for one in documents:
        if one["kind"] in ("Deployment", "StatefulSet"):
            (container,) = one["spec"]["template"]["spec"]["containers"]
            found[container["name"]] = (files[f"{container['name']}.yaml"], container["args"])
    return found


def taken(values: dict[str, Any], component: str, folder: Path, environment: dict[str, str]) -> Any:
    """The settings as the process of the component reads them."""
    text, args = processes({**values, component: {"enabled": True, **values.get(component, {})}})[component]
    path = folder / "settings.yaml"
    path.write_text(text)
    program, option, file, *more = args
    assert program == f"isthmus-{component}"
    assert (option, file) == (
        "--in-pod" if component in ("registry", "agent") else "--settings",
        f"/etc/isthmus/{component}.yaml",
    )
    assert set(more[::2]) <= {"--set"}
    changes = [re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], one) for one in more[1::2]]
    read: dict[str, Callable[..., Any]] = {
        "registry": registry.load,
        "agent": agent.load,
        "gateway": gateway.read,
        "injector": injector.read,
    }
    return read[component](path, changes)


@pytest.fixture(params=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, str]]:
    """The values and the environment of a family of addresses."""
    environment = {**ENVIRONMENT, **SERVICE, **(SIX if request.param == "IPv6" else {})}
    return {"ipFamily": request.param}, environment


Family = tuple[dict[str, Any], dict[str, str]]


def test_the_registry(tmp_path: Path, family: Family) -> None:
    values, environment = family
    found = taken({**values, "federation": "123.isthmus"}, "registry", tmp_path, environment)
    assert found.federation == "123.isthmus"
    assert found.advertise == "isthmus-registry.isthmus-system.svc:7400"
    assert found.directory == "/var/lib/isthmus"
    assert found.metrics.endswith(":9464")


@pytest.mark.parametrize(
    ("given", "catalog", "enrolment"),
    [
        ({"address": "192.0.2.1"}, "192.0.2.1:31400", "192.0.2.1:31401"),
        ({"address": "[2001:db8::1]"}, "[2001:db8::1]:31400", "[2001:db8::1]:31401"),
        ({"address": "r.example.com", "service": {"type": "LoadBalancer"}}, "r.example.com:7400", "r.example.com:7401"),
        ({"address": "192.0.2.1", "service": {"nodePorts": {"catalog": 30000}}}, "192.0.2.1:30000", "192.0.2.1:31401"),
    ],
)
def test_where_the_registry_is_told_to_be(tmp_path: Path, given: dict[str, Any], catalog: str, enrolment: str) -> None:
    found = taken({"federation": "a.b", "registry": given}, "registry", tmp_path, {})
    assert (found.advertise, found.advertise_enrolment) == (catalog, enrolment)


def test_the_agent(tmp_path: Path, family: Family) -> None:
    values, environment = family
    found = taken({**values, "cluster": "1e3", "suffix": "on"}, "agent", tmp_path, environment)
    host = "[fd00:10::9]" if values["ipFamily"] == "IPv6" else "10.96.0.9"
    assert (found.cluster, found.suffix) == ("1e3", "on")
    assert (found.advertise, found.pods.advertise) == (f"{host}:7445", f"{host}:7446")
    assert found.dns.listen.endswith(":5353")
    assert found.directory == "/var/lib/isthmus"
    assert found.kubernetes.namespace == "isthmus-system"


def test_the_agent_with_machines_and_settings_of_its_own(tmp_path: Path) -> None:
    given = {
        "vms": {"enabled": True, "address": "192.0.2.1"},
        "settings": {"dns": {"ttl": 0}, "svid_ttl": 600, "pods": {"accounts": ["gateway"]}},
    }
    found = taken({"cluster": "east", "agent": given}, "agent", tmp_path, {**ENVIRONMENT, **SERVICE})
    assert found.vms.advertise == "192.0.2.1:31447"
    assert (found.dns.ttl, found.dns.listen, found.svid_ttl) == (0, "0.0.0.0:5353", 600)
    assert found.pods.accounts == ("gateway",)
    assert found.pods.listen == "0.0.0.0:7446"


def test_the_gateway(tmp_path: Path, family: Family) -> None:
    values, environment = family
    found = taken(values, "gateway", tmp_path, environment)
    assert found.name == environment["POD_NAME"]
    assert (found.address, found.port, found.listen_port) == (environment["HOST_IP"], 31443, 15443)
    assert found.egress_bind == found.metrics.host == environment["POD_IP"]
    assert found.agent.service_account_token == "/var/run/secrets/isthmus/token"
    assert found.agent.enrolment == ("isthmus-agent.isthmus-system.svc:7446",)
    assert found.in_pod


def test_the_gateway_at_an_address_of_its_own(tmp_path: Path) -> None:
    balanced = {"address": "192.0.2.9", "service": {"type": "LoadBalancer", "port": 443}}
    found = taken({"gateway": balanced}, "gateway", tmp_path, ENVIRONMENT)
    assert (found.address, found.port, found.listen_port) == ("192.0.2.9", 443, 15443)


def test_the_injector(tmp_path: Path, family: Family) -> None:
    values, environment = family
    given = {"settings": {"pods": {"way": "loopback"}}}
    found = taken({**values, "injector": given, "image": {"tag": "1"}}, "injector", tmp_path, environment)
    assert (found.image, found.pods.way, found.webhook) == ("isthmus:1", "loopback", "isthmus-injector")
    assert found.listen.endswith(":8443")


@pytest.mark.parametrize(
    ("service", "address", "port"),
    [
        ({"type": "None"}, "", 15443),
        ({"type": "LoadBalancer"}, "service", 15443),
        ({"nodePort": 32000}, "192.0.2.7", 32000),
    ],
)
def test_what_the_gateway_announces(tmp_path: Path, service: dict[str, Any], address: str, port: int) -> None:
    found = taken({"gateway": {"service": service}}, "gateway", tmp_path, ENVIRONMENT)
    assert (found.address, found.port, found.listen_port) == (address, port, 15443)


def test_the_agent_knows_the_load_balancer_of_the_gateways(tmp_path: Path) -> None:
    for service, name in (({"type": "LoadBalancer"}, "isthmus-gateway"), ({"type": "NodePort"}, "")):
        values = {"cluster": "east", "gateway": {"service": service}}
        assert taken(values, "agent", tmp_path, {**ENVIRONMENT, **SERVICE}).kubernetes.gateway_service == name
