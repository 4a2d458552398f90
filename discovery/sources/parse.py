"""Reads one file of manifests: bytes in, checked manifests with their lines out, or one ManifestError with its line.

YAML (several documents) and JSON (one object, or a List of kubectl) are read; kinds that the agent does not use are
counted. A file is taken whole or not at all, so that a half-edited one never removes what it held before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml

from discovery.sources.manifests import VERSIONS, Invalid, Manifest, Placed, check, identity
from discovery.sources.quick import Unusual, plain, trees
from federation.lines import Step, line_of, shown, steps

MAX_DEPTH = 200
_MAX_MERGED = 10_000
_NESTED = re.compile(rb"(?:[-?:] +){50}")
_BYTE = re.compile(r"\(byte (\d+)\)")


class ManifestError(Exception):
    """What is wrong with a file, and on which line."""

    def __init__(self, line: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.line, self.code, self.detail = line, code, detail


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a file holds: the manifests that are used, and how many objects of other kinds."""

    manifests: tuple[Placed, ...]
    ignored: int


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML as Kubernetes reads it: timestamps stay text, merge keys cannot blow up."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's way to say it
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MAX_MERGED:
            raise yaml.constructor.ConstructorError(None, None, "merge keys of this size are refused", node.start_mark)


_meaning = plain(_Loader.yaml_implicit_resolvers)


def parse(data: bytes) -> Parsed:
    """The manifests in `data`; raises ManifestError."""
    if data.lstrip()[:1] == b"{":
        try:
            tree = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError) as error:
            at = _BYTE.search(str(error))
            line = data.count(b"\n", 0, int(at[1])) + 1 if at else 1
            try:
                return _yaml(data)  # a YAML flow mapping begins with a brace, too
            except ManifestError as other:
                if other.code != "file_malformed":
                    raise
                raise ManifestError(line, "file_malformed", f"no JSON: {error}") from error
        else:
            return _json(tree, data)
    return _yaml(data)


def _json(tree: object, data: bytes) -> Parsed:
    manifests, ignored = [], 0
    for path, value in _objects(tree):
        try:
            manifest = _manifest(value)
        except Invalid as error:
            raise ManifestError(_json_line(data, (*path, *error.path)), error.code, error.detail) from error
        if manifest is None:
            ignored += 1
        else:
            manifests.append(Placed(1 if not path else _json_line(data, path), manifest))
    return _distinct(manifests, ignored)


def _json_line(data: bytes, path: tuple[Step, ...]) -> int:
    """JSON is YAML: the line comes from a second, slower reading; only errors and Lists need it."""
    try:
        first = next(iter(_nodes(data)), None)
    except (yaml.YAMLError, ManifestError):
        return 1
    return 1 if first is None else line_of(first[0], path)


def _yaml(data: bytes) -> Parsed:
    return _quickly(data) or _thoroughly(data)


def _quickly(data: bytes) -> Parsed | None:
    """None for what is unusual or wrong: it is read by nodes, which know the lines of everything."""
    manifests, ignored = [], 0
    loader = _Loader(data)
    try:
        for line, tree in trees(loader, _meaning):
            if isinstance(tree, dict) and tree.get("kind") == "List":
                return None
            manifest = _manifest(tree)
            if manifest is None:
                ignored += 1
            else:
                manifests.append(Placed(line, manifest))
    except (Invalid, Unusual, yaml.YAMLError, ValueError, RecursionError):
        return None
    finally:
        loader.dispose()
    return _distinct(manifests, ignored)


def _thoroughly(data: bytes) -> Parsed:
    manifests, ignored = [], 0
    try:
        for node, loader in _nodes(data):
            for path, value in _objects(loader.construct_document(node)):
                try:
                    manifest = _manifest(value)
                except Invalid as error:
                    raise ManifestError(line_of(node, (*path, *error.path)), error.code, error.detail) from error
                if manifest is None:
                    ignored += 1
                else:
                    manifests.append(Placed(line_of(node, path), manifest))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else 1
        detail = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ManifestError(line, "file_malformed", f"no YAML: {detail}") from error
    except (ValueError, RecursionError, UnicodeDecodeError) as error:
        raise ManifestError(1, "file_malformed", f"no YAML: {error}") from error
    return _distinct(manifests, ignored)


def _nodes(data: bytes) -> Iterator[tuple[yaml.Node, Any]]:
    """The root node of each document, with the loader that constructs it; anything empty is skipped.

    Refuses nesting that would exhaust the stack.
    """
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH or _NESTED.search(data):
        _check_depth(data)
    loader = _Loader(data)
    try:
        while loader.check_node():
            node = loader.get_node()
            if not (isinstance(node, yaml.ScalarNode) and node.value == ""):
                yield node, loader
    finally:
        loader.dispose()


def _check_depth(data: bytes) -> None:
    depth = 0
    for event in yaml.parse(data, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise ManifestError(line, "file_malformed", f"nested deeper than {MAX_DEPTH}")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _objects(tree: object, path: tuple[Step, ...] = ()) -> Iterator[tuple[tuple[Step, ...], Any]]:
    """The object itself, or the items of a List."""
    if isinstance(tree, dict) and tree.get("kind") == "List" and isinstance(tree.get("items"), list):
        for index, item in enumerate(tree["items"]):
            yield (*path, "items", index), item
    elif tree is not None:
        yield path, tree


def _manifest(value: Any) -> Manifest | None:
    """`value` typed and checked, None for a kind that is not used; raises Invalid."""
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise Invalid((), "no Kubernetes object: it has no kind", "not_an_object")
    known = VERSIONS.get(value["kind"])
    version = value.get("apiVersion")
    if not isinstance(version, str):
        raise Invalid(("apiVersion",), f"the {value['kind'][:80]} has no apiVersion", "not_an_object")
    if known is None:
        return None
    kind, versions = known
    if version not in versions:
        if "/" in version and version.partition("/")[0] not in {v.partition("/")[0] for v in versions}:
            return None  # another API group's kind of the same name, e.g. Knative's Service
        raise Invalid(
            ("apiVersion",), f"{value['kind']} {version[:80]!r} is not read; use {max(versions)}", "unsupported_version"
        )
    try:
        manifest: Manifest = msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        path, detail = steps(error)
        raise Invalid(path, f"{detail} at {shown(path)}" if path else detail) from error
    check(manifest)
    return manifest


def _distinct(manifests: list[Placed], ignored: int) -> Parsed:
    seen: dict[tuple[str, str, str], int] = {}
    for placed in manifests:
        key = identity(placed.manifest)
        if key in seen:
            detail = f"{key[0]} {key[1]}/{key[2]} stands on line {seen[key]} already"
            raise ManifestError(placed.line, "duplicate_object", detail)
        seen[key] = placed.line
    return Parsed(tuple(manifests), ignored)
