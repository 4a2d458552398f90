import pytest

from federation.cli.link import parse_grant
from federation.errors import InvalidInput
from federation.model.cluster import LinkGrant

TWO = ("east", "west")


@pytest.mark.parametrize(
    ("text", "grant"),
    [
        ("east:shop/*", LinkGrant(origin="east", consumer="west", namespace="shop")),
        ("west:*/*", LinkGrant(origin="west", consumer="east")),
        ("west:*/echo", LinkGrant(origin="west", consumer="east", service="echo")),
        (
            "east:shop/echo:80,443",
            LinkGrant(origin="east", consumer="west", namespace="shop", service="echo", ports=(80, 443)),
        ),
    ],
)
def test_grants(text: str, grant: LinkGrant):
    assert parse_grant(text, TWO) == grant


@pytest.mark.parametrize(
    "bad", ["", "east", "east:shop", "moon:shop/echo", "east:Shop/echo", "east:a/b:x", "east:a/b:0"]
)
def test_what_is_no_grant(bad: str):
    with pytest.raises(InvalidInput):
        parse_grant(bad, TWO)
