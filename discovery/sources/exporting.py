"""Writes and removes ServiceExport manifests in the folder, for `fedctl export` and `fedctl unexport`.

Pure functions over the text of files; discovery.sources.files does the reading and writing.
"""

from __future__ import annotations

import re

import msgspec
import yaml

from discovery.sources.manifests import CONSUMERS, MANAGED_BY, Placed, consumers
from discovery.sources.parse import ManifestError, parse
from federation.model.ids import ServiceName
from federation.model.service import Grant

_SEPARATOR = re.compile(rb"^---(?:[ \t].*)?\r?$")


def file_name(name: ServiceName) -> str:
    """The file of an export that was made by command. Labels have no dots, so it is unique."""
    return f"serviceexport.{name.namespace}.{name.name}.yaml"


def manifest(name: ServiceName, grants: tuple[Grant, ...], *, created: str) -> bytes:
    """The text of a ServiceExport; `created` is RFC 3339."""
    metadata: dict[str, object] = {
        "name": name.name,
        "namespace": name.namespace,
        "labels": {MANAGED_BY: "isthmus"},
        "creationTimestamp": created,
    }
    if grants:
        metadata["annotations"] = {CONSUMERS: consumers(grants)}
    tree = {"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport", "metadata": metadata}
    return yaml.safe_dump(tree, sort_keys=False).encode()


def without(data: bytes, placed: Placed) -> bytes | None:
    """The file's text without the document of `placed`; None when nothing would be left.

    Raises ValueError where the document cannot be cut out cleanly (an item of a List, a file of JSON).
    """
    lines = data.splitlines(keepends=True)
    separators = [i for i, line in enumerate(lines) if _SEPARATOR.match(line.rstrip(b"\n"))]
    begin = max((i for i in separators if i < placed.line), default=-1)
    end = min((i for i in separators if i >= placed.line), default=len(lines))
    before, after = lines[: max(begin, 0)], lines[end:]
    rest = b"".join(before + after) if before else b"".join(after[1:])
    try:
        old, new = parse(data), parse(rest)
    except ManifestError as error:
        raise ValueError(error.detail) from error
    kept = [_plain(p) for p in old.manifests if p != placed]
    if [_plain(p) for p in new.manifests] != kept or new.ignored != old.ignored:
        raise ValueError("the export shares its document with other objects")
    return rest if kept or new.ignored else None


def _plain(placed: Placed) -> bytes:
    return msgspec.msgpack.encode(placed.manifest)
