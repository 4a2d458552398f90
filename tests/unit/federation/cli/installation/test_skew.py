"""Which version may follow which."""

from __future__ import annotations

import pytest

from federation.cli.installation.skew import Version, check, version_of_image
from federation.errors import Conflict, InvalidInput


@pytest.mark.parametrize(
    ("installed", "wanted", "own", "code"),
    [
        ("0.1.0", "0.1.0", "0.1.0", ""),
        ("0.1.0", "0.1.7", "0.1.0", ""),
        ("0.1.7", "0.1.0", "0.1.7", ""),  # a patch back: nothing on disk differs
        ("0.1.0", "0.2.0", "0.2.0", ""),
        ("0.1.0", "0.2.0", "0.1.0", ""),
        ("0.2.0", "0.1.9", "0.2.0", "downgrade_refused"),
        ("1.0.0", "0.9.0", "1.0.0", "version_skew"),  # no fedctl of 1.0 knows 0.9
        ("1.0.0", "0.9.0", "0.9.0", "downgrade_refused"),
        ("0.1.0", "0.3.0", "0.3.0", "version_skew"),
        ("0.1.0", "0.3.0", "0.2.0", "version_skew"),
        ("0.1.0", "1.1.0", "1.1.0", "version_skew"),
        ("0.9.0", "0.10.0", "0.10.0", ""),
        ("0.1.0", "0.3.0", "0.1.0", "version_skew"),
    ],
)
def test_what_may_follow(installed: str, wanted: str, own: str, code: str) -> None:
    versions = map(Version.parse, (installed, wanted))
    if not code:
        check(*versions, own=Version.parse(own))
        return
    with pytest.raises(Conflict) as it:
        check(*versions, own=Version.parse(own))
    assert it.value.error_code == code
    assert it.value.hint


@pytest.mark.parametrize("text", ["1.2.3", "v1.2.3", "1.2.3-rc.1", "1.2.3+build.7", "1.2.3.dev4"])
def test_versions(text: str) -> None:
    assert str(Version.parse(text)) == "1.2.3"


@pytest.mark.parametrize("text", ["", "1", "1.2", "latest", "1.2.x", "1.2.3 ", "1.2.3/4", "v"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(InvalidInput, match="no version"):
        Version.parse(text)


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        ("isthmus:0.2.0", "0.2.0"),
        ("registry.example.com:5000/mesh/isthmus:v1.2.3", "1.2.3"),
        ("registry.example.com:5000/isthmus", None),
        ("isthmus:latest", None),
        ("isthmus", None),
        (f"isthmus@sha256:{'0' * 64}", None),
        (f"isthmus:1.2.3@sha256:{'0' * 64}", "1.2.3"),
    ],
)
def test_the_version_that_an_image_tells(image: str, wanted: str | None) -> None:
    found = version_of_image(image)
    assert (str(found) if found else None) == wanted
