"""What an installation remembers comes back as it was written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from discovery.kube.objects import Name
from federation.cli.installation.record import Record, switched
from federation.errors import CorruptState

RECORD = Record(
    namespace="mesh",
    version="0.1.0",
    values={"cluster": "east", "agent": {"enabled": True}, "gateway": {"enabled": False}, "image": {"tag": "1e3"}},
    objects=frozenset({Name("Service", "mesh", "isthmus-agent"), Name("ClusterRole", "", "isthmus-agent")}),
    made_namespace=True,
)


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


def test_components_are_called_as_fedctl_calls_them() -> None:
    record = Record(namespace="mesh", values=switched(["webhook", "registry"], on=True))
    assert record.components == ("registry", "webhook")
    assert record.values["injector"] == {"enabled": True}
