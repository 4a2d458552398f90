"""What is read from YAML's events is what is read from its nodes, or it is left to these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from discovery.sources.parse import ManifestError, Parsed, _quickly, _thoroughly

_TEXT = """80 0 007 0x1F 1_000 1:30 -1 1.5 .inf yes No TRUE ~ null = << *a &a !!str ! 2026-01-01 2026-01-01T00:00:00Z
http 10.0.0.1 fd00::1 Service ServiceExport EndpointSlice List kind name ports"""
_WORDS = st.sampled_from(_TEXT.split())
_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-9, 70_000), st.floats(allow_nan=False), st.text(), _WORDS)
_KEYS = st.one_of(_WORDS, st.text(max_size=5), st.integers(0, 9), st.booleans())
_TREES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_KEYS, inner, max_size=4)),
    max_leaves=12,
)


def _of(kind: str, version: str) -> st.SearchStrategy[dict[str, Any]]:
    ports = st.lists(
        st.fixed_dictionaries(
            {"port": st.one_of(st.integers(-1, 70_000), _SCALARS)},
            optional={"name": _WORDS, "protocol": st.sampled_from(["TCP", "UDP", "SCTP"]), "appProtocol": _WORDS},
        ),
        max_size=3,
    )
    endpoints = st.lists(
        st.fixed_dictionaries(
            {"addresses": st.lists(st.sampled_from(["10.0.0.1", "fd00::1", "1:30", "x"]), max_size=2)},
            optional={"zone": _WORDS, "conditions": st.fixed_dictionaries({"ready": st.one_of(st.booleans(), _WORDS)})},
        ),
        max_size=3,
    )
    return st.fixed_dictionaries(
        {
            "apiVersion": st.just(version),
            "kind": st.just(kind),
            "metadata": st.fixed_dictionaries(
                {"name": st.one_of(_WORDS, st.just("echo")), "namespace": st.one_of(_WORDS, st.just("shop"))},
                optional={"labels": st.dictionaries(_WORDS, _WORDS, max_size=2)},
            ),
        },
        optional={
            "spec": st.fixed_dictionaries({}, optional={"ports": ports, "type": _WORDS}),
            "addressType": st.just("IPv4"),
            "ports": ports,
            "endpoints": endpoints,
        },
    )


_DOCUMENTS = st.lists(
    st.one_of(
        _TREES,
        _of("Service", "v1"),
        _of("EndpointSlice", "discovery.k8s.io/v1"),
        _of("ServiceExport", "multicluster.x-k8s.io/v1beta1"),
        st.builds(lambda items: {"apiVersion": "v1", "kind": "List", "items": items}, st.lists(_of("Service", "v1"))),
    ),
    max_size=3,
)


def _outcome(read: Callable[[bytes], Parsed | None], data: bytes) -> Parsed | tuple[int, str, str] | None:
    try:
        return read(data)
    except ManifestError as error:
        return error.line, error.code, error.detail


def _agree(data: bytes) -> Parsed | tuple[int, str, str] | None:
    found = _outcome(_quickly, data)
    assert found is None or found == _outcome(_thoroughly, data)
    return found


@given(
    documents=_DOCUMENTS,
    flow=st.sampled_from([True, False, None]),
    style=st.sampled_from([None, "'", '"', "|"]),
    unicode=st.booleans(),
)
def test_written_trees_are_read_the_same(
    documents: list[Any], flow: bool | None, style: str | None, unicode: bool
) -> None:
    text = yaml.safe_dump_all(
        documents, default_flow_style=flow, default_style=style, sort_keys=False, allow_unicode=unicode
    )
    _agree(text.encode())


@given(
    pieces=st.lists(
        st.one_of(
            _WORDS, st.sampled_from([": ", "- ", "\n", "\n  ", "\n---\n", "{", "}", "[", "]", ", ", "'", '"', "#", "|"])
        ),
        max_size=30,
    )
)
def test_any_text_is_read_the_same(pieces: list[str]) -> None:
    _agree("".join(pieces).encode())


def test_ordinary_manifests_are_read_from_events() -> None:
    data = b"""# a slice
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: echo-1, labels: {kubernetes.io/service-name: echo}}
addressType: IPv4
ports:
- name: http
  port: 8080
endpoints:
- addresses: ["10.0.0.1"]
  conditions: {ready: yes}
---
---
apiVersion: v1
kind: Service
metadata:
  name: echo
  creationTimestamp: null
"""
    found = _agree(data)
    assert isinstance(found, Parsed)
    assert [placed.line for placed in found.manifests] == [2, 14]
