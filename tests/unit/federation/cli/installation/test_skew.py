"""Which version may follow which."""

from __future__ import annotations

import pytest

from federation.cli.installation.skew import Version, check, check_same, version_of_image
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


@pytest.mark.parametrize(
    ("installed", "reached", "wanted", "code"),
    [
        ("0.1.0", "0.2.0", "0.1.0", "downgrade_refused"),
        ("0.1.0", "0.2.0", "0.1.9", "downgrade_refused"),
        ("0.1.0", "0.2.0", "0.2.0", ""),
        ("0.1.0", "0.2.9", "0.2.0", ""),
        ("0.1.0", "0.2.0", "0.3.0", "version_skew"),  # something may still be of 0.1
        ("0.1.0", "0.1.5", "0.1.0", ""),
        ("0.1.0", "0.1.0", "0.1.0", ""),
    ],
)
def test_the_way_back_begins_where_an_upgrade_was_interrupted(
    installed: str, reached: str, wanted: str, code: str
) -> None:
    held, highest, new = map(Version.parse, (installed, reached, wanted))
    if not code:
        check(held, new, own=highest, reached=highest)
        return
    with pytest.raises(Conflict) as it:
        check(held, new, own=highest, reached=highest)
    assert it.value.error_code == code
    if code == "downgrade_refused":
        assert it.value.message.startswith("0.2.0 was begun with, and")


@pytest.mark.parametrize(
    ("installed", "reached", "wanted", "told"),
    [
        ("0.1.0", "0.1.0", "0.1.0", ""),
        ("0.1.0", "0.1.0", "0.2.0", "0.1.0 is installed, and this would be 0.2.0"),
        ("0.1.0", "0.2.0", "0.1.0", "0.2.0 was begun with, and this would be 0.1.0"),
        ("0.1.0", "0.2.0", "0.2.0", "0.1.0 is installed, and this would be 0.2.0"),
    ],
)
def test_what_may_be_put_beside_what_is_there(installed: str, reached: str, wanted: str, told: str) -> None:
    if not told:
        check_same(installed, wanted, reached=reached)
        return
    with pytest.raises(Conflict, match=told) as it:
        check_same(installed, wanted, reached=reached)
    assert it.value.error_code == "upgrade_first"


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
