"""What a person asked for, beside what is remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from federation.cli.installation.record import Record
from federation.cli.installation.request import HIDDEN, Given, check_same, image, installed, join_secret, only
from federation.errors import Conflict, InvalidName


@pytest.mark.parametrize(
    ("text", "repository", "tag", "digest"),
    [
        ("isthmus", "isthmus", "", ""),
        ("isthmus:1.2.3", "isthmus", "1.2.3", ""),
        ("localhost:5000/isthmus", "localhost:5000/isthmus", "", ""),
        ("localhost:5000/a/b:dev", "localhost:5000/a/b", "dev", ""),
        ("a/b@sha256:ff", "a/b", "", "sha256:ff"),
        ("a/b:1@sha256:ff", "a/b", "1", "sha256:ff"),
    ],
)
def test_images(text: str, repository: str, tag: str, digest: str) -> None:
    assert image(text) == {"repository": repository, "tag": tag, "digest": digest}


def test_an_option_stands_above_set_and_that_above_a_file(tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text("cluster: file\nagent: {replicas: 3}\ngateway: {address: 192.0.2.1}\n")
    given = Given(
        values={"gateway": {"address": "192.0.2.3"}},
        cluster="option",
        sets=["cluster=set", "gateway.address=192.0.2.2", "agent.replicas=2"],
        files=[tmp_path / "values.yaml"],
    )
    assert given.tree() == {"cluster": "option", "agent": {"replicas": 2}, "gateway": {"address": "192.0.2.3"}}


@pytest.mark.parametrize("given", [Given(cluster="East"), Given(federation="a b")])
def test_names_are_checked(given: Given) -> None:
    with pytest.raises(InvalidName):
        given.tree()


def test_what_is_remembered_lies_below_what_is_given() -> None:
    record = Record(namespace="x", values={"cluster": "east", "gateway": {"enabled": True, "replicas": 3}})
    values = installed(record, "agent", {"gateway": {"replicas": 1}})
    assert values == {"cluster": "east", "gateway": {"enabled": True, "replicas": 1}, "agent": {"enabled": True}}
    alone = only(values, "webhook")
    assert [key for key in ("registry", "agent", "gateway", "injector") if alone[key]["enabled"]] == ["injector"]


@pytest.mark.parametrize(
    ("held", "given", "code"),
    [
        ({"cluster": "east"}, {"cluster": "west"}, "cluster_renamed"),
        ({"federation": "a.b"}, {"federation": "c.d"}, "other_federation"),
        ({"cluster": "east"}, {"cluster": "east"}, ""),
        ({"cluster": "east"}, {}, ""),
        ({}, {"cluster": "west"}, ""),
    ],
)
def test_a_cluster_has_one_name(held: dict[str, Any], given: dict[str, Any], code: str) -> None:
    record = Record(namespace="x", values=held)
    if not code:
        check_same(record, given)
        return
    with pytest.raises(Conflict) as it:
        check_same(record, given)
    assert it.value.error_code == code


def test_a_token_is_shown_to_nobody_who_did_not_ask() -> None:
    assert join_secret("t", "x")["stringData"] == {"token": "t"}
    assert join_secret("t", "x", shown=False)["stringData"] == {"token": HIDDEN}
