"""The `consul:` block: each refusal names its key."""

from __future__ import annotations

from typing import Any

import pytest

from discovery.consul.imports.settings import WriteSettings
from discovery.consul.settings import ConsulSettings, split_url
from federation.errors import InvalidSettings, IsthmusError


def made(**given: Any) -> ConsulSettings:
    return ConsulSettings(**{"datacenters": {"dc1": "shop"}, **given})


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://127.0.0.1:8500", ("http", "127.0.0.1", 8500)),
        ("http://consul.example.com", ("http", "consul.example.com", 8500)),
        ("https://consul.example.com/", ("https", "consul.example.com", 8501)),
        ("https://[2001:db8::1]:443", ("https", "2001:db8::1", 443)),
    ],
)
def test_addresses(url: str, parts: tuple[str, str, int]) -> None:
    assert split_url(url) == parts


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8500",
        "consul.example.com",
        "ftp://x:1",
        "http://",
        "http://a:99999",
        "http://u:p@a",
        "http://a/v1",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(InvalidSettings, match=r"consul\.address"):
        split_url(url)


def test_the_defaults_fit_into_what_consul_allows_one_address() -> None:
    settings = made(datacenters={f"dc{n}": f"ns{n}" for n in range(10)})
    settings.check()
    assert settings.connections < 200


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"address": "http://192.0.2.1:8500"}, True),
        ({"address": "http://consul.example.com:8500"}, True),
        ({"address": "http://[2001:db8::1]:8500"}, True),
        ({"address": "http://192.0.2.1:8500", "plain_token": True}, False),
        ({"address": "http://192.0.2.1:8500", "token_file": ""}, False),
        ({"address": "https://192.0.2.1:8501"}, False),
        ({"address": "http://127.0.0.7:8500"}, False),
        ({"address": "http://[::1]:8500"}, False),
        ({"address": "http://localhost:8500"}, False),
    ],
)
def test_whether_others_can_read_the_token(given: dict[str, Any], plain: bool) -> None:
    assert made(**{"token_file": "token", **given}).sends_plain_token is plain


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"datacenters": {}}, "consul.datacenters is empty"),
        ({"datacenters": {"dc 1": "shop"}}, "no name of a datacenter"),
        ({"datacenters": {"dc1": "Shop"}}, "consul.datacenters.dc1: namespace"),
        ({"datacenters": {"dc1": "shop", "dc2": "shop"}}, "the same namespace"),
        ({"address": "https://a", "cert_file": "c"}, "cert_file and consul.key_file"),
        ({"ca_file": "ca.pem"}, "consul.ca_file is set"),
        ({"wait": 0.5}, "consul.wait"),
        ({"wait": 601}, "consul.wait"),
        ({"max_stale": 0}, "consul.max_stale"),
        ({"confirm": -1}, "consul.confirm"),
        ({"resync": -1}, "consul.resync"),
        ({"watches": -1}, "consul.watches"),
        ({"sweep": 0}, "consul.sweep"),
        ({"max_bytes": 10}, "consul.max_bytes"),
        ({"lock_ttl": 9}, "consul.lock_ttl"),
        ({"lock_prefix": "/x"}, "consul.lock_prefix"),
        ({"write": WriteSettings(enabled=True), "lock": False}, "consul.write.enabled needs consul.lock"),
        ({"write": WriteSettings(ttl=1)}, "consul.write.ttl"),
    ],
)
def test_refusals(given: dict[str, Any], says: str) -> None:
    with pytest.raises(IsthmusError) as caught:
        made(**given).check()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
