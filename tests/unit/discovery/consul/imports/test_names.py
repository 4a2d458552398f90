"""What imports are called, and who has a name."""

from __future__ import annotations

import pytest

from discovery.consul.imports.names import Book, NameRule, claims
from federation.errors import InvalidName
from federation.model.ids import ServiceName
from federation.model.service import Port

RULE = NameRule("shop")


@pytest.mark.parametrize(
    ("template", "name", "expected"),
    [
        ("", "shop/db", "db"),
        ("", "billing/db", "db-billing"),
        ("{service}", "billing/db", "db"),
        ("{namespace}-{service}", "shop/db", "shop-db"),
    ],
)
def test_the_rule(template, name, expected):
    assert NameRule("shop", template).plain(ServiceName.parse(name)) == expected


@pytest.mark.parametrize("long", ["a" * 63])
def test_a_name_that_is_no_label_is_refused_by_name(make, long):
    with pytest.raises(InvalidName, match=rf"shop/{long}: its name in Consul .*-http' is no DNS label"):
        claims(
            make.imported(name=ServiceName("shop", long), ports=(Port(port=80), Port(name="http", port=81))), RULE, None
        )


def test_two_ports_with_one_name_are_refused(make):
    ports = (Port(port=80), Port(name="90", port=81), Port(port=90))
    with pytest.raises(InvalidName, match="two of its ports"):
        claims(make.imported(ports=ports), RULE, None)


def claim(book: Book, name: str, *services: str) -> set[str]:
    return set(map(str, book.claim(ServiceName.parse(name), {service: Port(port=1) for service in services})))


def test_who_has_a_name_that_several_claim():
    book = Book(RULE)
    assert claim(book, "other/db", "db-other") == set()
    assert claim(book, "shop/db-other", "db-other") == {"other/db"}
    assert str(book.holder("db-other")) == "shop/db-other"  # of the datacenter's own namespace
    assert claim(book, "shop/db-other") == {"other/db"}
    assert str(book.holder("db-other")) == "other/db"
    assert book.holder("nothing") is None


def test_a_plain_name_goes_before_one_with_a_port():
    book = Book(RULE)
    claim(book, "shop/db", "db", "db-admin")
    claim(book, "shop/db-admin", "db-admin")
    assert str(book.holder("db-admin")) == "shop/db-admin"
    assert book.claimants("db-admin") == {ServiceName("shop", "db"), ServiceName("shop", "db-admin")}


def test_a_claim_that_stays_concerns_nobody():
    book = Book(RULE)
    claim(book, "a/db", "x")
    claim(book, "b/db", "x", "y")
    assert claim(book, "b/db", "x", "y") == set()
    assert claim(book, "b/db", "x") == set()
    assert claim(book, "b/db") == {"a/db"}
