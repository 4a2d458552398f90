"""Every configuration that we generate, as it is: compared with golden YAML and validated by the real Envoy.

`pytest tests/golden --update-golden` writes the files anew; read the difference before you commit it.
"""

from __future__ import annotations

import base64
import datetime
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from google.protobuf import json_format
from google.protobuf.message import Message

from federation.envoy import names, tls
from federation.envoy.bootstrap import bootstrap
from federation.envoy.ledger import settled
from federation.envoy.message import pack
from federation.envoy.process import find_envoy
from federation.model.cluster import Bundle, Gateway, Peer
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Backend, Endpoint, Export, Grant, Import, Locality, Port, Readiness
from federation.model.view import View
from gateway import build as gateway_build
from sidecar.build import outbound as sidecar_build
from sidecar.build.inbound import Inbound, Workload

HERE = Path(__file__).parent
ECHO, DB, RPC = ServiceName("shop", "echo"), ServiceName("shop", "db"), ServiceName("shop", "rpc")
EU, US = Locality("eu", "eu-1"), Locality("us", "us-1")
# The certificate of a root whose key nobody has.
ROOT = base64.b64decode(
    "MIIBijCCAS+gAwIBAgIUU3VINAmZZ4rsbzLwp1MPagx4pKIwCgYIKoZIzj0EAwIwETEPMA0GA1UEAwwGZ29sZGVuMCAXDTI2MTEy"
    "MzE1MDkyNFoYDzIxMjYxMDMwMTUwOTI0WjARMQ8wDQYDVQQDDAZnb2xkZW4wWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQQv9WP"
    "btPuc/exOybqJfwCAXrK/t6rJosaVfVZTKYbLzObvAaCo/26FNS429dguSoh2cXd/KqS0nzz+coe/Tx9o2MwYTAdBgNVHQ4EFgQU"
    "nT6ulyAIxNsLKtCDIQqGWhApNrIwHwYDVR0jBBgwFoAUnT6ulyAIxNsLKtCDIQqGWhApNrIwDwYDVR0TAQH/BAUwAwEB/zAOBgNV"
    "HQ8BAf8EBAMCAQYwCgYIKoZIzj0EAwIDSQAwRgIhAIAiXSOoGmBDe9ZkG6Uzn8+ZyjkQWmtFMyXhBw1jJI8MAiEAtPQlZd4NZMZq"
    "upBc7ngbxbMWnE46TNPQWoKJbhhCVPo="
)


@dataclass(frozen=True)
class Proof:
    chain_pem: bytes = b"(the chain of certificates)"
    key_pem: bytes = b"(the key)"


def peer(name: str, *gateways: Gateway, locality: Locality, own: bool = False) -> Peer:
    domain = f"{name}.example.org"
    bundle = Bundle(trust_domain=domain, sequence=1, roots=(ROOT,))
    return Peer(cluster=name, trust_domain=domain, locality=locality, own=own, bundle=bundle, gateways=gateways)


def gateway(name: str, address: str, **more: Any) -> Gateway:
    return Gateway(name=name, address=address, port=15443, **more)


def backend(cluster: str, *ports: int, ready: int, endpoints: tuple[Endpoint, ...] = ()) -> Backend:
    readiness = (Readiness(Locality(), ready),)
    return Backend(cluster=cluster, local=bool(endpoints), ports=ports, readiness=readiness, endpoints=endpoints)


PEERS = {
    "east": peer("east", locality=EU, own=True),
    "west": peer("west", gateway("a", "192.0.2.1"), gateway("b", "192.0.2.2", weight=2), locality=EU),
    "edge": peer("edge", gateway("a", "198.51.100.1"), gateway("b", "198.51.100.2", draining=True), locality=US),
}
WEB, RAW = Port(name="web", port=80, app=AppProtocol.HTTP), Port(name="raw", port=9000)
OWN = (
    Endpoint(address="10.0.0.1", ports={80: 8080, 9000: 9000}),
    Endpoint(address="10.0.0.2", ports={80: 8080}),
    Endpoint(address="10.0.0.3", ports={80: 15006}, identity="spiffe://east.example.org/ns/shop/sa/echo"),
)
VIEW = View(
    cluster="east",
    peers=PEERS,
    imports={
        ECHO: Import(
            name=ECHO,
            ports=(WEB, RAW),
            backends=(
                backend("east", 80, 9000, ready=3, endpoints=OWN),
                backend("edge", 80, ready=1),
                backend("west", 80, 9000, ready=3),
            ),
            gateway_ports={80: 20001, 9000: 20002},
            aliases=("echo.service.consul",),
        ),
        DB: Import(
            name=DB, ports=(Port(port=5432),), session_affinity="ClientIP", backends=(backend("west", 5432, ready=1),)
        ),
        RPC: Import(
            name=RPC, ports=(Port(port=50051, app=AppProtocol.GRPC),), backends=(backend("edge", 50051, ready=2),)
        ),
    },
    exports={
        ECHO: Export(
            name=ECHO,
            ports=(WEB, RAW),
            endpoints=OWN,
            grants=(Grant("west"), Grant("edge", (80,))),
        ),
        RPC: Export(name=RPC, ports=(Port(port=50051, app=AppProtocol.GRPC),), endpoints=()),
    },
)
USES = [
    (ECHO, None, "127.128.0.1", "240.72.0.1"),
    (ECHO, "west", "127.128.0.2", "240.72.0.2"),
    (DB, None, "127.128.0.3", "240.64.0.1"),
    (RPC, None, "127.128.0.4", "240.72.0.3"),
]


def of_gateway() -> dict[str, list[tuple[str, Any]]]:
    config = gateway_build.GatewayConfig(
        cluster="east", trust_domain="east.example.org", address="127.0.0.1", port=15443, identity=Proof()
    )
    web, raw = (names.server_name(ECHO, port, "east.example.org") for port in (80, 9000))
    asked = [
        name
        for domain in ("west.example.org", "edge.example.org", "nobody.example.org")
        for name in (
            names.inbound_http_cluster(domain, web, "echo.shop.global"),
            names.inbound_http_cluster(domain, web, "db.shop.global"),
            names.inbound_health_cluster(domain, raw),
            names.inbound_tcp_cluster(domain, raw),
        )
    ]
    called = [names.egress_cluster(ECHO, port, 1) for port in (80, 9000)]
    return gateway_build.build(VIEW, config, asked=[*asked, *called])


def of_sidecar(way: str) -> dict[str, list[tuple[str, Any]]]:
    config = sidecar_build.SidecarConfig(way=way, cluster="east", identity=Proof(), locality=EU)  # type: ignore[arg-type]
    uses = [
        sidecar_build.Use(name=name, pinned=pinned, vip=redirect if way == "redirect" else loopback)
        for name, pinned, loopback, redirect in USES
    ]
    return sidecar_build.build(VIEW, uses, config)


def of_inbound() -> dict[str, list[tuple[str, Any]]]:
    at = Inbound(address="192.0.2.10", port=15006, callers=("isthmus-system/gateway", "shop/*"))
    config = sidecar_build.SidecarConfig(way="loopback", cluster="east", identity=Proof(), locality=EU, inbound=at)
    workloads = (
        Workload(name=ECHO, port=80, app=AppProtocol.HTTP, target=8080),
        Workload(name=RPC, port=50051, app=AppProtocol.GRPC, target=50051),
        Workload(name=DB, port=5432, address="192.0.2.11", target=5432),
    )
    builder = sidecar_build.Builder(config)
    return settled(lambda: builder.update(VIEW, {}, workloads=workloads))


CASES = {
    "gateway": of_gateway,
    "sidecar-loopback": lambda: of_sidecar("loopback"),
    "sidecar-redirect": lambda: of_sidecar("redirect"),
    "sidecar-inbound": of_inbound,
}


@pytest.mark.parametrize("case", CASES)
def test_the_configuration_is_the_golden_one(case: str, request: pytest.FixtureRequest) -> None:
    built = {kind.rpartition(".")[2]: {n: plain(m) for n, m in made} for kind, made in CASES[case]().items()}
    text = yaml.safe_dump(built, sort_keys=True, width=120)
    path = HERE / f"{case}.yaml"
    if request.config.getoption("--update-golden"):
        path.write_text(text)
    assert path.read_text() == text, "see --update-golden"


@pytest.mark.integration
@pytest.mark.parametrize("case", CASES)
def test_the_real_envoy_finds_it_valid(case: str, tmp_path: Path) -> None:
    message = bootstrap(
        node_id="golden", cluster="golden", ads_path=tmp_path / "ads.sock", admin_path=tmp_path / "admin.sock"
    )
    whole(message, {kind: dict(made) for kind, made in CASES[case]().items()})
    message.static_resources.secrets.add().CopyFrom(tls.identity_secret(real_proof()))
    path = tmp_path / "bootstrap.json"
    path.write_text(json.dumps(with_static_secrets(plain(message))))
    command: list[str | Path] = [
        find_envoy(),
        "--mode",
        "validate",
        "-c",
        path,
        "--log-level",
        "warning",
        "--disable-hot-restart",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "eprecated" not in done.stderr, done.stderr[-2000:]


def plain(message: Message) -> Any:
    """The message as dicts and lists."""
    return json.loads(json_format.MessageToJson(message, preserving_proto_field_name=True))


def with_static_secrets(tree: Any) -> Any:
    """Without the sources of secrets: in its validation mode Envoy 1.40 crashes on SDS over ADS."""
    if isinstance(tree, list):
        return [with_static_secrets(item) for item in tree]
    if isinstance(tree, dict):
        return {key: with_static_secrets(value) for key, value in tree.items() if key != "sds_config"}
    return tree


def real_proof() -> Proof:
    """A certificate and its key that Envoy can load."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "golden")])
    start = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Proof(certificate.public_bytes(serialization.Encoding.PEM), private)


def whole(message: Bootstrap, built: Mapping[str, Mapping[str, Any]]) -> None:
    """Put everything into the bootstrap itself, endpoints and routes included: Envoy looks only at what it has."""
    for cluster in built[names.CLUSTER_TYPE].values():
        made = message.static_resources.clusters.add()
        made.CopyFrom(cluster)
        if made.type == Cluster.EDS:
            endpoints = built[names.ENDPOINT_TYPE][made.eds_cluster_config.service_name]
            made.type = Cluster.STATIC
            made.ClearField("eds_cluster_config")
            made.load_assignment.CopyFrom(endpoints)
            made.load_assignment.cluster_name = made.name
    for listener in built[names.LISTENER_TYPE].values():
        made = message.static_resources.listeners.add()
        made.CopyFrom(listener)
        inline(made, built.get(names.ROUTE_TYPE, {}))
    for name, secret in built[names.SECRET_TYPE].items():
        if name != names.IDENTITY:
            message.static_resources.secrets.add().CopyFrom(secret)


def inline(listener: Listener, routes: Mapping[str, RouteConfiguration]) -> None:
    for chain in listener.filter_chains:
        for network_filter in chain.filters:
            if network_filter.typed_config.Is(HttpConnectionManager.DESCRIPTOR):
                manager = HttpConnectionManager()
                network_filter.typed_config.Unpack(manager)
                if manager.HasField("rds"):
                    manager.route_config.CopyFrom(routes[manager.rds.route_config_name])
                    network_filter.typed_config.CopyFrom(pack(manager))


def test_an_update_leaves_what_it_does_not_touch() -> None:
    config = sidecar_build.SidecarConfig(way="loopback", cluster="east", identity=Proof(), locality=EU)
    builder = sidecar_build.Builder(config)
    uses = sidecar_build.by_service(
        sidecar_build.Use(name=name, pinned=pinned, vip=vip) for name, pinned, vip, _ in USES
    )
    first = builder.update(VIEW, uses)
    assert {kind: set(made) for kind, made in first.put.items()} == {
        kind: {name for name, _ in made} for kind, made in of_sidecar("loopback").items()
    }
    assert not builder.update(VIEW, uses)

    db = replace(VIEW.imports[DB], backends=(backend("west", 5432, ready=9),))
    changed = replace(VIEW, imports={**VIEW.imports, DB: db, ECHO: replace(VIEW.imports[ECHO])})
    changes = builder.update(changed, uses)
    assert {kind: set(made) for kind, made in changes.put.items()} == {names.ENDPOINT_TYPE: {"out/shop/db/5432/@tls"}}
    assert not changes.removed

    changes = builder.update(changed, {name: those for name, those in uses.items() if name != DB})
    assert not changes.put
    assert changes.removed == {
        names.CLUSTER_TYPE: {"out/shop/db/5432"},
        names.ENDPOINT_TYPE: {"out/shop/db/5432/@tls"},
        names.LISTENER_TYPE: {"out/127.128.0.3:5432"},
    }
