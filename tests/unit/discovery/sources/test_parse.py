"""One file of manifests: what is read, and what each kind of nonsense is called, with its line."""

from __future__ import annotations

import pytest

from discovery.sources.manifests import EndpointSlice, Service, ServiceExport
from discovery.sources.parse import MAX_DEPTH, ManifestError, parse

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: shop}
spec:
  ports:
  - name: http
    port: 80
"""
SLICE = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: echo-1
  namespace: shop
  labels: {kubernetes.io/service-name: echo}
addressType: IPv4
ports:
- {name: http, port: 8080}
endpoints:
- addresses: [10.0.0.1]
"""
EXPORT = """\
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: echo, namespace: shop}
"""
DEPLOYMENT = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: echo}\n"


def test_several_documents_with_their_lines_and_other_kinds_counted() -> None:
    parsed = parse("---\n".join([SERVICE, SLICE, DEPLOYMENT, EXPORT, ""]).encode())
    assert [(type(p.manifest), p.line) for p in parsed.manifests] == [
        (Service, 1),
        (EndpointSlice, 9),
        (ServiceExport, 25),
    ]
    assert parsed.ignored == 1


def test_json_and_lists() -> None:
    one = b'{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}'
    assert len(parse(one).manifests) == 1
    many = b'{"apiVersion": "v1", "kind": "List",\n"items": [\n' + one + b",\n" + one.replace(b'"a"', b'"b"') + b"]}"
    assert [p.line for p in parse(many).manifests] == [3, 4]


def test_flow_yaml_that_looks_like_json() -> None:
    assert parse(b"{apiVersion: v1, kind: Service, metadata: {name: a}}").manifests


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n---\n", "{}\n"[:0]])
def test_nothing_is_no_error(text: str) -> None:
    assert parse(text.encode()).manifests == ()


def test_timestamps_are_understood_quoted_or_not() -> None:
    for stamp in ("2024-05-06T07:08:09Z", '"2024-05-06T07:08:09Z"', "null"):
        text = EXPORT.replace("namespace: shop", f"namespace: shop, creationTimestamp: {stamp}")
        (placed,) = parse(text.encode()).manifests
        assert (placed.manifest.metadata.creation_timestamp is None) == (stamp == "null")


def replaced(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


BAD = {
    "tabs": ("kind: Service\n\tx: 1\n", 2, "file_malformed"),
    "unclosed": (SERVICE + "  - {name: x\n", 9, "file_malformed"),
    "json": ('{"kind": "Service",\n "x": ]', 2, "file_malformed"),
    "binary": ("\x00\x01", 1, "file_malformed"),
    "scalar": ("just text\n", 1, "not_an_object"),
    "sequence": ("- a\n", 1, "not_an_object"),
    "no kind": ("apiVersion: v1\n", 1, "not_an_object"),
    "no version": ("kind: Service\n", 1, "not_an_object"),
    "old version": (replaced(SLICE, "k8s.io/v1", "k8s.io/v1beta1"), 1, "unsupported_version"),
    "port is text": (replaced(SERVICE, "port: 80", 'port: "80"'), 7, "invalid_value"),
    "port too large": (replaced(SERVICE, "port: 80", "port: 65536"), 7, "invalid_port"),
    "port zero": (replaced(SERVICE, "port: 80", "port: 0"), 7, "invalid_port"),
    "name is no label": (replaced(SERVICE, "name: echo", "name: Echo_1"), 3, "invalid_name"),
    "namespace is no label": (replaced(SERVICE, "namespace: shop", "namespace: '*'"), 3, "invalid_name"),
    "label is a number": (replaced(SLICE, "service-name: echo", "service-name: 1"), 6, "invalid_value"),
    "owner is no label": (replaced(SLICE, "service-name: echo", "service-name: e.x"), 6, "invalid_name"),
    "no name": (replaced(SERVICE, "name: echo, ", ""), 3, "invalid_value"),
    "address": (replaced(SLICE, "10.0.0.1", "10.0.0.256"), 11, "invalid_address"),
    "family": (replaced(SLICE, "10.0.0.1", "'fd00::1'"), 11, "invalid_address"),
    "scope": (replaced(replaced(SLICE, "IPv4", "IPv6"), "10.0.0.1", "'fe80::1%eth0'"), 11, "invalid_address"),
    "multicast": (replaced(SLICE, "10.0.0.1", "224.0.0.1"), 11, "invalid_address"),
    "unspecified": (replaced(SLICE, "10.0.0.1", "0.0.0.0"), 11, "invalid_address"),
    "no address": (replaced(SLICE, "[10.0.0.1]", "[]"), 11, "invalid_address"),
    "FQDN": (replaced(SLICE, "IPv4", "FQDN"), 7, "address_type"),
    "slice port": (replaced(SLICE, "port: 8080", "port: -1"), 9, "invalid_port"),
    "unnamed port": (SERVICE + "  - port: 81\n", 8, "port_unnamed"),
    "port twice": (SERVICE + "  - {name: x, port: 80}\n", 8, "duplicate_port"),
    "port name twice": (SERVICE + "  - {name: http, port: 81}\n", 8, "duplicate_port"),
    "object twice": (SERVICE + "---\n" + SERVICE, 9, "duplicate_object"),
    "consumers": (EXPORT[:-2] + ", annotations: {isthmus.io/consumers: 'west:http'}}\n", 3, "invalid_consumers"),
    "no consumers": (EXPORT[:-2] + ", annotations: {isthmus.io/consumers: ''}}\n", 3, "invalid_consumers"),
    "deep": ("a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), 1, "file_malformed"),
    "very deep": ("[" * 200_000, 1, "file_malformed"),
    "deep blocks": ("- " * 100_000 + "x", 1, "file_malformed"),
    "deep json": ('{"a":' * 100_000, 1, "file_malformed"),
    "tags": ("!!python/object/apply:os.system [id]\n", 1, "file_malformed"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad(case: str) -> None:
    text, line, code = BAD[case]
    with pytest.raises(ManifestError) as caught:
        parse(text.encode())
    assert (caught.value.line, caught.value.code) == (line, code)
    assert caught.value.detail


def test_merge_keys_cannot_blow_up() -> None:
    lines = ["a0: &a0 {" + ", ".join(f"k{i}: 0" for i in range(10)) + "}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 12)]
    with pytest.raises(ManifestError) as caught:
        parse("\n".join(lines).encode())
    assert caught.value.code == "file_malformed"


def test_anchors_are_read() -> None:
    text = SERVICE + "---\n" + SLICE.replace("[10.0.0.1]", "&a [10.0.0.1]") + "- addresses: *a\n"
    assert len(parse(text.encode()).manifests) == 2


def test_a_kind_of_the_same_name_in_another_group_is_ignored() -> None:
    assert parse(b"apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: x}\n").ignored == 1
