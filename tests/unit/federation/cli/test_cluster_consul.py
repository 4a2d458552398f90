"""`fedctl cluster join --consul`: what is said wrongly gets one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.cli.cluster import _consul
from federation.errors import IsthmusError


def test_options_become_settings() -> None:
    made = _consul("https://c:8501", ["dc1=shop", "dc2=lab"], {"token_file": Path("t"), "ca_file": None, "rules": None})
    assert made is not None
    assert made.datacenters == {"dc1": "shop", "dc2": "lab"}
    assert (made.token_file, made.ca_file) == ("t", "")
    assert _consul("", [], {"token_file": None}) is None


@pytest.mark.parametrize(
    ("address", "datacenters", "token", "says"),
    [
        ("", ["dc1=shop"], None, "--consul-datacenter needs --consul"),
        ("", [], Path("t"), "--consul-token-file needs --consul"),
        ("http://c", [], None, "--consul needs --consul-datacenter"),
        ("http://c", ["dc1"], None, "is not DATACENTER=NAMESPACE"),
        ("http://c", ["dc1=a", "dc1=b"], None, "each datacenter once"),
        ("http://c", ["dc1=a", "dc2=a"], None, "the same namespace"),
        ("c:8500", ["dc1=shop"], None, "no URL of Consul"),
    ],
)
def test_refusals(address: str, datacenters: list[str], token: Path | None, says: str) -> None:
    with pytest.raises(IsthmusError) as caught:
        _consul(address, datacenters, {"token_file": token})
    assert says in str(caught.value)
