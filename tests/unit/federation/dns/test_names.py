from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.dns import names, wire
from federation.dns.answer import NameRecords, Srv
from federation.dns.names import Ask, GlobalName
from federation.dns.table import Table
from federation.model.ids import ServiceName
from federation.model.service import Backend, Endpoint, FieldConflict, Import, Locality, Port, Protocol, Readiness

ECHO = ServiceName("shop", "echo")


def name(**fields: Any) -> GlobalName:
    return GlobalName(**({"service": ECHO} | fields))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("echo.shop.svc.clusterset.local", name()),
        ("Echo.SHOP.svc.ClusterSet.local.", name()),
        ("echo.shop.global", name()),
        ("echo.shop.east.global", name(cluster="east")),
        ("_http._tcp.echo.shop.global", name(ask=Ask.PORT, port="http", protocol="tcp")),
        ("_dns._udp.echo.shop.svc.clusterset.local", name(ask=Ask.PORT, port="dns", protocol="udp")),
        ("_http._tcp.echo.shop.east.global", name(ask=Ask.PORT, port="http", protocol="tcp", cluster="east")),
        ("_why.echo.shop.global", name(ask=Ask.WHY)),
        ("_why.echo.shop.east.global", name(ask=Ask.WHY, cluster="east")),
        ("_why.echo.shop.svc.clusterset.local", name(ask=Ask.WHY)),
        ("pod-0.east.echo.shop.svc.clusterset.local", name(ask=Ask.ENDPOINT, cluster="east", hostname="pod-0")),
        ("svc.clusterset.local", None),
        ("shop.svc.clusterset.local", None),
        ("east.echo.shop.svc.clusterset.local", None),  # the specification: MUST NOT exist
        ("a.b.c.d.e.svc.clusterset.local", None),
        ("echo.shop.clusterset.local", None),
        ("dns-version.clusterset.local", None),
        ("global", None),
        ("shop.global", None),
        ("a.b.c.d.global", None),
        ("_sig._sctp.echo.shop.global", name(ask=Ask.PORT, port="sig", protocol="sctp")),
        ("_http._quic.echo.shop.global", None),
        ("_http.echo.shop.global", None),
        ("_._tcp.echo.shop.global", None),
        ("_why.shop.global", None),
        ("_why.pod-0.east.echo.shop.svc.clusterset.local", None),
        ("_http._tcp.pod-0.east.echo.shop.svc.clusterset.local", None),
        ("-echo.shop.global", None),
        ("ec_ho.shop.global", None),
        ("*.shop.global", None),
        ("echo\\000.shop.global", None),
        ("echo..global", None),
        ("www.example.com", None),
        ("", None),
    ],
)
def test_parse(text: str, expected: GlobalName | None) -> None:
    assert names.parse(text, suffix="global") == expected


def test_a_suffix_of_several_labels() -> None:
    assert names.parse("echo.shop.east.mesh.example.org", suffix="mesh.example.org") == name(cluster="east")
    assert names.parse("echo.shop.global", suffix="mesh.example.org") is None


def test_what_needs_an_address() -> None:
    assert name(cluster="east").use == (ECHO, "east")
    assert name(cluster="east", ask=Ask.ENDPOINT).use == (ECHO, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("svc.clusterset.local", True),
        ("shop.svc.clusterset.local", True),
        ("SHOP.svc.clusterset.local.", True),
        ("shop.global", True),
        ("shop.east.global", True),
        ("shop.nowhere.global", False),
        ("echo.shop.svc.clusterset.local", False),
        ("echo.shop.east.global", False),
        ("clusterset.local", False),
        ("x.clusterset.local", False),
        ("sh_op.global", False),
        ("example.com", False),
    ],
)
def test_branches(text: str, expected: bool) -> None:
    assert names.is_branch(text, suffix="global", clusters={"east"}) is expected


LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)


@given(LABEL, LABEL, st.none() | LABEL)
def test_the_names_of_a_service_mean_it(service: str, namespace: str, cluster: str | None) -> None:
    wanted = ServiceName(namespace, service)
    for text in names.service_names(wanted, suffix="global", cluster=cluster):
        assert names.parse(text, suffix="global") == GlobalName(service=wanted, cluster=cluster)


@given(st.text("ab_-.*\0é", max_size=30))
def test_no_text_crashes(text: str) -> None:
    for tail in ("", ".global", ".svc.clusterset.local"):
        names.parse(text + tail, suffix="global")
        names.is_branch(text + tail, suffix="global")


def backend(cluster: str, *, ready: int = 1, **fields: Any) -> Backend:
    readiness = (Readiness(Locality(), ready),)
    return Backend(**({"cluster": cluster, "ports": (80,), "readiness": readiness} | fields))


HTTP, METRICS = Port(name="http", port=80), Port(name="metrics", port=9090)
IMPORT = Import(
    name=ECHO,
    ports=(HTTP, METRICS),
    backends=(backend("east", local=True, ports=(80, 9090)), backend("west", ready=2, stale=True)),
)


def test_a_service_with_a_virtual_address() -> None:
    found = names.records(IMPORT, ["127.128.0.1"], suffix="global")
    for base in ("echo.shop.global", "echo.shop.svc.clusterset.local"):
        assert found[base] == NameRecords(a=("127.128.0.1",), srv=(Srv(0, 100, 80, base), Srv(0, 100, 9090, base)))
        assert found[f"_http._tcp.{base}"] == NameRecords(srv=(Srv(0, 100, 80, base),))
        assert found[f"_metrics._tcp.{base}"] == NameRecords(srv=(Srv(0, 100, 9090, base),))
    assert len(found) == 8
    assert found["_why.echo.shop.global"].txt == (
        "shop/echo is reached at 127.128.0.1",
        "east (here): 1 ready",
        "west: 2 ready, not heard of lately",
    )


def test_a_pinned_name_has_the_ports_of_that_cluster_only() -> None:
    found = names.records(IMPORT, ["127.128.0.2"], suffix="global", cluster="west", note="held back")
    assert sorted(found) == [
        "_http._tcp.echo.shop.west.global",
        "_why.echo.shop.west.global",
        "echo.shop.west.global",
    ]
    assert found["echo.shop.west.global"].srv == (Srv(0, 100, 80, "echo.shop.west.global"),)
    assert found["_why.echo.shop.west.global"].txt[-1] == "held back"
    assert names.records(IMPORT, ["127.128.0.2"], suffix="global", cluster="north") == {}


def test_what_why_says_fits_into_records() -> None:
    pods = tuple(endpoint(f"10.0.{n // 250}.{n % 250}") for n in range(2000))
    found = headless(backend("east", endpoints=pods))["_why.echo.shop.global"]
    assert found.txt[0].endswith(" and 1990 more")
    long = Import(name=ECHO, backends=(backend("east"),), conflicts=(FieldConflict("LabelsConflict", "x" * 9000),))
    Table(["global"]).put("_why.echo.shop.global", names.records(long, (), suffix="global")["_why.echo.shop.global"])


def test_both_families_and_conflicts() -> None:
    conflict = FieldConflict("PortConflict", "west says h2c")
    imp = Import(name=ECHO, ports=(Port(port=80),), backends=(backend("east"),), conflicts=(conflict,))
    found = names.records(imp, ["242.0.0.1", "fd00::1"], suffix="global")
    assert found["echo.shop.global"].a == ("242.0.0.1",)
    assert found["echo.shop.global"].aaaa == ("fd00::1",)
    assert not any(n.startswith("_") and not n.startswith("_why.") for n in found)  # the port has no name
    assert "PortConflict: west says h2c" in found["_why.echo.shop.global"].txt


def test_one_srv_record_for_a_number_that_tcp_and_udp_share() -> None:
    ports = (Port(name="dns", port=53), Port(name="dns-udp", port=53, protocol=Protocol.UDP))
    found = names.records(Import(name=ECHO, ports=ports, backends=(backend("east"),)), ["127.128.0.1"], suffix="global")
    assert found["echo.shop.global"].srv == (Srv(0, 100, 53, "echo.shop.global"),)
    assert "_dns._tcp.echo.shop.global" in found
    assert "_dns-udp._udp.echo.shop.global" in found


def test_a_service_without_ready_endpoints_keeps_its_address() -> None:
    imp = Import(name=ECHO, ports=(HTTP,), backends=(backend("east", ready=0),))
    assert names.records(imp, ["127.128.0.1"], suffix="global")["echo.shop.global"].a == ("127.128.0.1",)


def endpoint(address: str, **fields: Any) -> Endpoint:
    return Endpoint(**({"address": address, "ports": {80: 8080}} | fields))


def headless(*backends: Backend) -> dict[str, NameRecords]:
    return names.records(
        Import(name=ECHO, headless=True, ports=(HTTP,), backends=backends), ["127.128.0.1"], suffix="global"
    )


def test_a_headless_service_has_its_ready_endpoints() -> None:
    east = backend(
        "east",
        endpoints=(
            endpoint("10.0.0.2", hostname="pod-1"),
            endpoint("10.0.0.1", hostname="pod-0"),
            endpoint("10.0.0.9", ready=False),
            endpoint("10.0.0.8", terminating=True),
        ),
    )
    west = backend("west", endpoints=(endpoint("10.1.0.1"), endpoint("fd00::1:1")))
    found = headless(east, west)
    base = "echo.shop.svc.clusterset.local"
    assert found[base].a == ("10.0.0.1", "10.0.0.2", "10.1.0.1")
    assert found[base].aaaa == ("fd00::1:1",)
    assert found[f"pod-0.east.{base}"] == NameRecords(a=("10.0.0.1",))
    assert found[f"10-1-0-1.west.{base}"] == NameRecords(a=("10.1.0.1",))
    assert found[f"fd00--1-1.west.{base}"] == NameRecords(aaaa=("fd00::1:1",))
    assert f"east.{base}" not in found
    assert [s.target.split(".")[0] for s in found[f"_http._tcp.{base}"].srv] == [
        "pod-0",
        "pod-1",
        "10-1-0-1",
        "fd00--1-1",
    ]
    assert {s.port for s in found[f"_http._tcp.{base}"].srv} == {8080}
    assert found["echo.shop.global"].a == found[base].a
    assert found["_http._tcp.echo.shop.global"].srv == (Srv(0, 100, 80, "echo.shop.global"),)


def test_a_headless_service_behind_gateways_has_a_virtual_address() -> None:
    assert headless(backend("west"))["echo.shop.global"].a == ("127.128.0.1",)


def test_a_headless_service_with_nothing_ready_does_not_exist() -> None:
    found = headless(backend("east", ready=0, endpoints=(endpoint("10.0.0.1", ready=False),)))
    assert sorted(found) == ["_why.echo.shop.global", "_why.echo.shop.svc.clusterset.local"]
    assert found["_why.echo.shop.global"].txt[0] == "shop/echo has nothing ready"
    table = Table(["clusterset.local", "global"])
    for key, value in found.items():
        table.put(key, value)
    for text in ("echo.shop.global", "echo.shop.svc.clusterset.local"):
        assert not table.exists(wire.encode_name(text))  # its explanation does not make it exist


def test_a_hostname_of_both_families_is_one_name_and_one_target() -> None:
    pods = [endpoint(f"{prefix}{n}", hostname=f"pod-{n}") for n in (0, 1) for prefix in ("10.0.0.", "fd00::1")]
    found = headless(backend("east", endpoints=tuple(pods)))
    base = "echo.shop.svc.clusterset.local"
    assert found[f"pod-1.east.{base}"] == NameRecords(a=("10.0.0.1",), aaaa=("fd00::11",))
    assert [s.target for s in found[f"_http._tcp.{base}"].srv] == [f"pod-{n}.east.{base}" for n in (0, 1)]


def test_several_addresses_of_one_hostname_are_all_given() -> None:
    found = headless(backend("east", endpoints=tuple(endpoint(f"10.0.0.{n}", hostname="web") for n in (1, 2))))
    assert found["web.east.echo.shop.svc.clusterset.local"].a == ("10.0.0.1", "10.0.0.2")


def test_an_endpoint_without_a_port_has_no_record_for_it() -> None:
    imp = Import(
        name=ECHO,
        headless=True,
        ports=(HTTP, METRICS),
        backends=(backend("east", endpoints=(endpoint("10.0.0.1"), endpoint("10.0.0.2", ports={9090: 9091}))),),
    )
    found = names.records(imp, (), suffix="global")
    base = "echo.shop.svc.clusterset.local"
    assert [(s.port, s.target) for s in found[f"_http._tcp.{base}"].srv] == [(8080, f"10-0-0-1.east.{base}")]
    assert [(s.port, s.target) for s in found[f"_metrics._tcp.{base}"].srv] == [(9091, f"10-0-0-2.east.{base}")]
    assert len(found[base].srv) == 2


def test_names_at_the_limit_of_their_labels_fit_or_are_left_out() -> None:
    long = ServiceName("n" * 63, "s" * 63)
    east = backend("c" * 63, endpoints=(endpoint("10.0.0.1", hostname="h" * 63),))
    found = names.records(Import(name=long, headless=True, ports=(HTTP,), backends=(east,)), (), suffix="global")
    base = f"{long.name}.{long.namespace}.svc.clusterset.local"
    assert found[base].a == ("10.0.0.1",)
    assert found[f"_http._tcp.{base}"].srv == (Srv(0, 100, 8080, base),)
    table = Table(["clusterset.local", "global"])
    for key, value in found.items():
        table.put(key, value)


def test_every_record_can_be_put_in_a_table() -> None:
    table = Table(["clusterset.local", "global"])
    east = backend("east", endpoints=(endpoint("10.0.0.1"), endpoint("::1"), endpoint("fe80::")))
    for found in (headless(east), names.records(IMPORT, ["127.128.0.1"], suffix="global")):
        for key, value in found.items():
            table.put(key, value)


def test_why_a_name_is_absent() -> None:
    assert names.absent(name()) == "shop/echo is not exported to this cluster"
    assert names.absent(name(cluster="x"), known_clusters=["east"]) == "no linked cluster is called x"
    assert names.absent(name(cluster="east"), known_clusters=["east"]) == (
        "shop/echo is not exported to this cluster by east"
    )
    assert names.absent(name(cluster="north"), imp=IMPORT) == "shop/echo is not exported to this cluster by north"
    assert "no address here" in names.absent(name(cluster="west"), imp=IMPORT)
    assert names.absent(name(ask=Ask.PORT, port="x", protocol="tcp"), imp=IMPORT) == "shop/echo has no such port"
    idle = Import(name=ECHO, backends=(backend("east", ready=0),))
    assert names.absent(name(), imp=idle) == "shop/echo has nothing ready"
