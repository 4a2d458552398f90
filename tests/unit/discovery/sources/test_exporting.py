"""Cutting a ServiceExport out of a file, and writing one."""

from __future__ import annotations

import pytest

from discovery.sources import exporting
from discovery.sources.manifests import ServiceExport
from discovery.sources.parse import parse
from federation.model.ids import ServiceName
from federation.model.service import Grant

A = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n"
B = "apiVersion: v1\nkind: Service\nmetadata: {name: b}\n"
EXPORT = "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {name: a}\n"


def cut(text: str) -> str | None:
    (placed,) = [p for p in parse(text.encode()).manifests if isinstance(p.manifest, ServiceExport)]
    rest = exporting.without(text.encode(), placed)
    return None if rest is None else rest.decode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (EXPORT, None),
        ("---\n" + EXPORT, None),
        (A + "---\n" + EXPORT, A),
        (EXPORT + "---\n" + A, A),
        (A + "---\n" + EXPORT + "---\n" + B, A + "---\n" + B),
        (A + "--- # the export\n" + EXPORT + "---\r\n" + B, A + "---\r\n" + B),
        ("# head\n---\n" + A + "---\n# why\n" + EXPORT, "# head\n---\n" + A),
    ],
)
def test_cut_out(before: str, after: str | None) -> None:
    assert cut(before) == after


def test_items_of_a_list_are_not_cut() -> None:
    text = (
        '{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Service", "metadata": '
        '{"name": "a"}}, {"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport", "metadata": '
        '{"name": "a"}}]}'
    )
    with pytest.raises(ValueError, match="shares"):
        cut(text)


def test_written_manifests_are_read_back() -> None:
    name = ServiceName("shop", "echo")
    text = exporting.manifest(name, (Grant("west"), Grant("edge", (80,))), created="2026-01-02T03:04:05Z")
    (placed,) = parse(text).manifests
    assert placed.manifest.metadata.name == "echo"
    assert placed.manifest.metadata.annotations == {"isthmus.io/consumers": "edge:80, west"}


def test_file_names_are_unique() -> None:
    assert exporting.file_name(ServiceName("a-b", "c")) != exporting.file_name(ServiceName("a", "b-c"))
