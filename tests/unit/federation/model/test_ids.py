import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import InvalidInput, InvalidName
from federation.model.ids import ServiceName, SpiffeId, parse_domain, parse_label, parse_port, trust_domain_of


@pytest.mark.parametrize("good", ["a", "0", "echo", "a-b", "x" * 63, "1-2"])
def test_labels(good: str):
    assert parse_label(good, what="service") == good


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "-a",
        "a-",
        "A",
        "a_b",
        "a.b",
        "x" * 64,
        "a\n",
        "a\0b",
        "*",
        "é",
        "xn--é",
        "a b",
        "a/b",
        "\u0661",
        "@registry",
    ],
)
def test_what_is_no_label(bad: str):
    with pytest.raises(InvalidName, match=r"service .* is no DNS label"):
        parse_label(bad, what="service")


@given(st.text(max_size=70))
def test_a_label_that_passes_is_safe_in_names_and_paths(text: str):
    try:
        parse_label(text, what="name")
    except InvalidName:
        return
    assert text.isascii()
    assert text == text.lower()
    assert 1 <= len(text) <= 63
    assert not set(text) - set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_service_names_parse_print_and_sort():
    name = ServiceName.parse("shop/echo")
    assert str(name) == "shop/echo"
    assert sorted([ServiceName("b", "a"), ServiceName("a", "z")])[0] == ServiceName("a", "z")
    for bad in ("echo", "/echo", "shop/", "shop/a/b"):
        with pytest.raises(InvalidName):
            ServiceName.parse(bad)


def test_spiffe_ids():
    identity = SpiffeId.workload(trust_domain_of("east", "demo.isthmus"), "shop", "echo.v1")
    assert str(identity) == "spiffe://east.demo.isthmus/ns/shop/sa/echo.v1"
    assert SpiffeId.parse(str(identity)) == identity


@pytest.mark.parametrize(
    "bad",
    [
        "https://east/ns",
        "spiffe://east",
        "spiffe://east/",
        "spiffe://east/a//b",
        "spiffe://east/a/",
        "spiffe://east/../b",
        "spiffe://east/./b",
        "spiffe://EAST/b",
        "spiffe://east:8080/b",
        "spiffe://u@east/b",
        "spiffe://east/%41",
        "spiffe://east/a?b",
        "spiffe://east/a#b",
        "spiffe://east/a\0b",
        "spiffe://east/" + "x" * 2048,
        "spiffe:///a",
    ],
)
def test_what_is_no_spiffe_id(bad: str):
    with pytest.raises(InvalidName):
        SpiffeId.parse(bad)


@pytest.mark.parametrize("bad", [0, -1, 65536])
def test_ports(bad: int):
    assert parse_port(65535, what="port") == 65535
    with pytest.raises(InvalidInput, match="out of range") as caught:
        parse_port(bad, what="port")
    assert caught.value.error_code == "invalid_port"


@pytest.mark.parametrize("bad", ["", "a..b", ".a", "a.", "A.b", "a" * 201, "a_b.c"])
def test_domains(bad: str):
    assert parse_domain("demo.isthmus", what="federation domain") == "demo.isthmus"
    with pytest.raises(InvalidName):
        parse_domain(bad, what="federation domain")
