"""The pure parts of the tests' Kubernetes client: paths, documents, and what refusals mean."""

from __future__ import annotations

import json

import pytest

from clusters.kubeclient import Gone, Resource, parse, refused
from federation.errors import AlreadyExists, Conflict, Denied, InvalidInput, NotFound, Unavailable


@pytest.mark.parametrize(
    ("resource", "place", "path"),
    [
        (("v1", "services", True), ("shop", "echo"), "/api/v1/namespaces/shop/services/echo"),
        (("v1", "services", True), ("shop",), "/api/v1/namespaces/shop/services"),
        (("v1", "services", True), (None,), "/api/v1/services"),
        (("v1", "nodes", False), ("ignored", "n1", "status"), "/api/v1/nodes/n1/status"),
        (("a.b/v1", "things", True), ("x", "y"), "/apis/a.b/v1/namespaces/x/things/y"),
        (("a.b/v1", "things", False), (None, "a/b"), "/apis/a.b/v1/things/a/b"),
    ],
)
def test_paths(resource: tuple[str, str, bool], place: tuple[str | None, ...], path: str) -> None:
    version, plural, namespaced = resource
    assert Resource(version=version, plural=plural, namespaced=namespaced).path(*place) == path


def test_documents_are_objects() -> None:
    one = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}
    text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n---\n---\napiVersion: v1\nkind: Pod\nmetadata: {}\n"
    assert [found["kind"] for found in parse([one, text])] == ["Namespace", "Namespace", "Pod"]
    for bad in ("just text", {"kind": "Pod"}, "- a\n- b\n"):
        with pytest.raises(InvalidInput):
            parse([bad])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (400, "BadRequest", InvalidInput),
        (401, "Unauthorized", Denied),
        (403, "Forbidden", Denied),
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (410, "Expired", Gone),
        (422, "Invalid", InvalidInput),
        (429, "TooManyRequests", Unavailable),
        (500, "InternalError", Unavailable),
        (503, "ServiceUnavailable", Unavailable),
    ],
)
def test_refusals_are_errors_of_ours(status: int, reason: str, kind: type) -> None:
    error = refused(status, "GET /x", json.dumps({"message": "why", "reason": reason}).encode())
    assert type(error) is kind
    assert error.message == f"GET /x: {status} why"


def test_a_refusal_may_be_plain_text() -> None:
    assert refused(500, "GET /readyz", b"[-]etcd failed").message == "GET /readyz: 500 [-]etcd failed"
    assert refused(502, "GET /", b'"text"').message == 'GET /: 502 "text"'
