"""What an installation remembers comes back as it was written."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from discovery.kube.objects import Name
from federation.cli.installation.record import Record, begin, end, switched
from federation.errors import CorruptState

RECORD = Record(
    namespace="mesh",
    version="0.1.0",
    values={"cluster": "east", "agent": {"enabled": True}, "gateway": {"enabled": False}, "image": {"tag": "1e3"}},
    objects=frozenset({Name("Service", "mesh", "isthmus-agent"), Name("ClusterRole", "", "isthmus-agent")}),
    made_namespace=True,
)
OLD, NEW = Name("ConfigMap", "mesh", "old"), Name("ConfigMap", "mesh", "new")


def stored(record: Record, **changes: Any) -> bytes:
    document = record.document()
    document["metadata"]["resourceVersion"] = "7"
    document["data"] |= changes
    document["data"] = {key: value for key, value in document["data"].items() if value is not None}
    return json.dumps(document).encode()


def test_it_comes_back() -> None:
    found = Record.parse(stored(RECORD))
    assert found.resource_version == "7"
    assert (found.namespace, found.version, found.values) == (RECORD.namespace, RECORD.version, RECORD.values)
    assert (found.objects, found.made_namespace) == (RECORD.objects, True)
    assert found.components == ("agent",)


def test_it_is_written_only_over_what_was_read() -> None:
    assert "resourceVersion" not in RECORD.document()["metadata"]
    assert Record.parse(stored(RECORD)).document()["metadata"]["resourceVersion"] == "7"


@pytest.mark.parametrize(
    "changes", [{"objects": "nonsense"}, {"values.yaml": "- a"}, {"values.yaml": None}, {"version": None}]
)
def test_one_that_somebody_has_damaged_says_so(changes: dict[str, Any]) -> None:
    with pytest.raises(CorruptState, match="ConfigMap mesh/isthmus-values cannot be read"):
        Record.parse(stored(RECORD, **changes))


@pytest.mark.parametrize(
    ("version", "reached", "wanted", "expected"),
    [
        ("0.1.3", "", "0.1.3", "0.1.3"),
        ("0.1.3", "", "0.2.0", "0.2.0"),
        ("0.1.3", "0.2.0", "0.2.0", "0.2.0"),  # the same once more
        ("0.1.3", "0.2.9", "0.2.0", "0.2.9"),  # another one, after that was left
        ("0.1.3", "0.2.0", "0.1.3", "0.2.0"),
        ("0.2.1", "", "0.2.0", "0.2.1"),  # a patch back
        ("0.9.0", "", "0.10.0", "0.10.0"),
    ],
)
def test_what_was_begun_is_remembered_before_it_is_done(version: str, reached: str, wanted: str, expected: str) -> None:
    before = replace(RECORD, version=version, reached=reached, objects=frozenset({OLD}))
    begun = begin(before, replace(RECORD, version=wanted, objects=frozenset()), [NEW])
    assert (begun.version, begun.reached, begun.objects) == (version, expected, {OLD, NEW})
    assert Record.parse(stored(begun)).reached == expected


@pytest.mark.parametrize(
    ("reached", "expected"),
    [("0.2.9", ("0.2.0", "0.2.0")), ("0.3.0", ("0.1.3", "0.3.0"))],  # the second: somebody else has begun meanwhile
)
def test_when_all_is_there_it_is_of_one_version(reached: str, expected: tuple[str, str]) -> None:
    before = replace(RECORD, version="0.1.3", reached="0.2.9", objects=frozenset({OLD}))
    after = replace(RECORD, version="0.2.0", objects=frozenset())
    begun = begin(before, after, [NEW])
    ended = end(replace(begun, reached=reached), begun, after, [OLD])
    assert ((ended.version, ended.reached), ended.objects) == (expected, {NEW})


def test_a_first_installation_is_of_its_own_version() -> None:
    begun = begin(None, RECORD, [NEW])
    found = Record.parse(stored(begun))
    assert (found.version, found.reached, found.objects) == ("0.1.0", "0.1.0", {NEW})
    # A record of before there was `reached`.
    assert Record.parse(stored(begun, reached=None)).reached == "0.1.0"


def test_components_are_called_as_fedctl_calls_them() -> None:
    record = Record(namespace="mesh", values=switched(["webhook", "registry"], on=True))
    assert record.components == ("registry", "webhook")
    assert record.values["injector"] == {"enabled": True}
