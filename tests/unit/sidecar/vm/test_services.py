"""The services file: what it becomes, and which line is named for what is wrong."""

from __future__ import annotations

import pytest

from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Grant, Port, Protocol
from sidecar.vm.checks.machine import Policy
from sidecar.vm.definition import Check, Definition, Grpc, Http, Script, Tcp
from sidecar.vm.services import MAX_BYTES, MAX_SERVICES, ServicesError, parse

WHOLE = b"""
services:
- name: db
  namespace: shop
  ports:
  - {port: 5432, name: sql, target: 15432}
  - {port: 9187, name: http-metrics}
  - {port: 53, name: dns, protocol: UDP}
  address: 192.0.2.10
  host: 10.0.0.1
  export: {consumers: "west, edge:5432"}
  labels: {tier: gold}
  checks:
  - tcp: {port: 15432}
    interval: 2
    timeout: 0.5
    successes: 2
    failures: 4
  - http: {port: 9187, path: /healthz, method: HEAD, headers: {Host: db.shop}, expect: "200-299, 404"}
  - grpc: {port: 9000, service: shop.Db, host: 127.0.0.1}
  - script: {command: [/usr/lib/check, --fast]}
"""


def test_a_whole_file() -> None:
    (db,) = parse(WHOLE)
    assert db == Definition(
        name=ServiceName("shop", "db"),
        ports=(
            Port(name="sql", port=5432),
            Port(name="http-metrics", port=9187, app=AppProtocol.HTTP),
            Port(name="dns", port=53, protocol=Protocol.UDP),
        ),
        targets={53: 53, 5432: 15432, 9187: 9187},
        address="192.0.2.10",
        host="10.0.0.1",
        exported=True,
        grants=(Grant("edge", (5432,)), Grant("west")),
        labels={"tier": "gold"},
        checks=(
            Check(Tcp("10.0.0.1", 15432), Policy(interval=2, timeout=0.5, successes=2, failures=4)),
            Check(
                Http("10.0.0.1", 9187, "/healthz", "HEAD", (("host", "db.shop"),), ((200, 299), (404, 404))), Policy()
            ),
            Check(Grpc("127.0.0.1", 9000, "shop.Db"), Policy()),
            Check(Script(("/usr/lib/check", "--fast")), Policy()),
        ),
    )


def test_the_least_file_and_none() -> None:
    (web,) = parse(b"services: [{name: web, namespace: shop, ports: [{port: 80}]}]")
    assert (web.exported, web.grants, web.checks, web.address, web.host) == (False, (), (), "", "127.0.0.1")
    assert web.targets == {80: 80}
    assert parse(b"services: []") == ()


@pytest.mark.parametrize(
    ("app", "name", "gives", "declared"),
    [
        (None, "", AppProtocol.OPAQUE, ""),
        (None, "grpc-api", AppProtocol.GRPC, ""),
        (None, "api", AppProtocol.OPAQUE, ""),
        ("h2c", "http", AppProtocol.H2C, "kubernetes.io/h2c"),
        ("tcp", "http", AppProtocol.OPAQUE, ""),
    ],
)
def test_what_is_spoken_on_a_port(app: str | None, name: str, gives: AppProtocol, declared: str) -> None:
    more = f", app: {app}" if app else ""
    text = f"services: [{{name: web, namespace: shop, ports: [{{port: 80, name: '{name}'{more}}}]}}]"
    (port,) = parse(text.encode())[0].ports
    assert (port.app, port.declared) == (gives, declared)


def changed(old: str, new: str) -> bytes:
    assert old.encode() in WHOLE
    return WHOLE.replace(old.encode(), new.encode())


@pytest.mark.parametrize(
    ("data", "line", "says"),
    [
        (b"", 1, "services: []"),
        (b"# nothing\n", 1, "services: []"),
        (b"services:\n- name: [}", 2, "no YAML"),
        (b"\xff\xfe\x00", 1, "no YAML"),
        (b"a: &x [1]\nb: *x\n", 2, "references"),
        (b"[" * 40 + b"]" * 40, 1, "nested"),
        (b"x" * (MAX_BYTES + 1), 1, "bytes"),
        (b"[]", 1, "Expected `object`"),
        (b"service: []", 1, "service"),
        (changed("  labels:", "  label:"), 12, "label"),
        (changed("tier: gold", "tier: 1"), 12, "labels"),
        (changed("name: db", "name: D_B"), 3, "services[0].name: service 'D_B' is no DNS label"),
        (changed("namespace: shop", "namespace: ''"), 4, "namespace"),
        (changed("port: 5432, ", "port: 0, "), 6, "services[0].ports[0].port: port 0 is out of range"),
        (changed("target: 15432}", "target: 70000}"), 6, "ports[0].target"),
        (changed("port: 5432, ", "port: '5432', "), 6, "Expected `int`"),
        (changed("name: http-metrics", "name: sql"), 7, "given twice"),
        (changed("port: 9187, name: http-metrics", "port: 5432, name: x"), 7, "given twice"),
        (changed(", name: http-metrics", ""), 7, "without a name"),
        (changed("protocol: UDP", "protocol: UDP, app: http"), 8, "not spoken over UDP"),
        (changed("protocol: UDP", "protocol: SCTP"), 8, "protocol"),
        (changed("address: 192.0.2.10", "address: db.example"), 9, "no IP address"),
        (changed("host: 10.0.0.1", "host: localhost"), 10, "no IP address"),
        (changed("west, edge:5432", "west,"), 11, "export.consumers: consumer ''"),
        (changed("west, edge:5432", "edge:many"), 11, "'many' is no port"),
        (changed('export: {consumers: "west, edge:5432"}', "export: yes please"), 11, "export"),
        (changed("tcp: {port: 15432}", "tcp: {}"), 14, "port"),
        (changed("tcp: {port: 15432}", "udp: {port: 15432}"), 14, "udp"),
        (changed("  - tcp: {port: 15432}\n    interval", "  - interval"), 14, "exactly one"),
        (changed("- grpc: ", "- tcp: {port: 1}\n    grpc: "), 20, "exactly one"),
        (changed("interval: 2", "interval: 0"), 15, "interval 0 is not 0.1 to 86400"),
        (changed("timeout: 0.5", "timeout: 61"), 16, "timeout 61 is not 0.1 to 60 seconds"),
        (changed("timeout: 0.5", "timeout: .nan"), 16, "timeout"),
        (changed("successes: 2", "successes: 0"), 17, "successes"),
        (changed("failures: 4", "failures: 1000"), 18, "failures"),
        (changed("path: /healthz", "path: healthz"), 19, "path"),
        (changed("path: /healthz", "path: '/a b'"), 19, "path"),
        (changed("method: HEAD", "method: 'GET /'"), 19, "method"),
        (changed("Host: db.shop", '"a b": c'), 19, "header"),
        (changed("Host: db.shop", 'Host: "a\\r\\nx: y"'), 19, "header"),
        (changed("200-299, 404", "200-"), 19, "expect"),
        (changed("200-299, 404", "299-200"), 19, "expect"),
        (changed("[/usr/lib/check, --fast]", "[]"), 21, "absolute path"),
        (changed("[/usr/lib/check, --fast]", "[check]"), 21, "absolute path"),
        (changed("[/usr/lib/check, --fast]", "/usr/lib/check --fast"), 21, "command"),
        (changed("[/usr/lib/check, --fast]", '[/x, "a\\0b"]'), 21, "NUL"),
        (
            b"services:\n" + b"- {name: a, namespace: b, ports: [{port: 1}]}\n" * 2,
            3,
            "services[1].name: b/a is given twice",
        ),
        (b"services:\n" + b"- {name: a, namespace: b, ports: [{port: 1}]}\n" * (MAX_SERVICES + 1), 1, "at most 64"),
        (b"services: [{name: a, namespace: b, ports: []}]", 1, "at least one port"),
    ],
)
def test_bad_files_name_the_line(data: bytes, line: int, says: str) -> None:
    with pytest.raises(ServicesError) as caught:
        parse(data)
    assert says in caught.value.message
    assert "\n" not in str(caught.value)
    assert (caught.value.line, caught.value.error_code) == (line, "services_malformed")
