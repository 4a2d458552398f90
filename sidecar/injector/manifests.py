"""Injects into manifests of a file: pods, and the templates of what makes pods; everything else passes unchanged. Pure.

A person who names a file has opted in for what is in it; only a label that says `disabled` is obeyed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from federation.errors import InvalidInput
from sidecar.injector.inject import Decision, inject
from sidecar.injector.options import Options, Way

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "Pod": (),
    "PodTemplate": ("template",),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
"""Where each kind has its pod."""
Object = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of one object that has pods. `way` None: it is unchanged, because of `reason`."""

    kind: str
    namespace: str
    name: str
    way: Way | None = None
    reason: str = ""
    warnings: tuple[str, ...] = ()


def load(text: str, *, where: str) -> list[Object]:
    """The documents of a YAML or JSON text; empty ones are dropped. Raises InvalidInput naming `where` and the line."""
    try:
        documents = [one for one in yaml.safe_load_all(text) if one is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f"{where}:{mark.line + 1}" if mark is not None else where
        raise InvalidInput(f"{at}: no YAML: {getattr(error, 'problem', error)}", code="manifest_invalid") from error
    for number, one in enumerate(documents, 1):
        if not isinstance(one, dict) or not isinstance(one.get("kind"), str) or "apiVersion" not in one:
            raise InvalidInput(
                f"{where}: document {number} is no Kubernetes object: it has no apiVersion and kind",
                code="manifest_invalid",
            )
    if not documents:
        raise InvalidInput(f"{where} holds no object", code="manifest_invalid")
    return documents


def dump(documents: Iterable[Object]) -> str:
    """As YAML; texts of several lines stay readable."""
    return "---\n".join(yaml.dump(one, Dumper=_Dumper, sort_keys=False, width=1000) for one in documents)


def inject_all(documents: Iterable[Object], *, namespace: str, options: Options) -> tuple[list[Object], list[Done]]:
    """Every document, changed or as it was, and what became of those with pods.

    `namespace`: of objects that name none; empty: such objects are refused. Raises InvalidInput, naming the object.
    """
    done: list[Done] = []

    def one(document: Object) -> Object:
        if document["kind"] == "List" or (document["kind"].endswith("List") and "items" in document):
            items = [one(item) if _is_object(item) else item for item in document.get("items") or []]
            return {**document, "items": items}
        if document["kind"] not in TEMPLATES:
            return document
        return _injected(document, namespace, options, done.append)

    return [one(document) for document in documents], done


def _injected(document: Object, namespace: str, options: Options, tell: Callable[[Done], None]) -> Object:
    kind, metadata = document["kind"], document.get("metadata") or {}
    name = str(metadata.get("name") or metadata.get("generateName") or "")
    where = str(metadata.get("namespace") or namespace)
    subject = f"{kind} {where}/{name}" if where else f"{kind} {name}"
    if not where:
        raise InvalidInput(
            f"{subject} names no namespace, and how names are looked up in its pods depends on it",
            hint="give --namespace, or write it into the manifest",
            code="namespace_missing",
        )
    made = copy.deepcopy(document)
    holder, key = _template(made, TEMPLATES[kind], subject)
    pod = holder[key] if key else holder
    if not isinstance(pod, dict) or not isinstance(pod.get("spec"), dict):
        raise InvalidInput(f"{subject} has no pod: its spec is missing", code="manifest_invalid")
    try:
        decision = inject(pod, namespace=where, options=options, owner=name if key else "")
    except InvalidInput as error:
        raise InvalidInput(f"{subject}: {error.message}", hint=error.hint, code=error.error_code) from error
    tell(_done(decision, kind=kind, namespace=where, name=name))
    if decision.way is None:
        return document
    if not key:
        return decision.pod
    holder[key] = decision.pod
    return made


def _done(decision: Decision, *, kind: str, namespace: str, name: str) -> Done:
    return Done(
        kind=kind,
        namespace=namespace,
        name=name,
        way=decision.way,
        reason=decision.reason,
        warnings=decision.warnings,
    )


def _template(document: Object, path: tuple[str, ...], subject: str) -> tuple[Object, str]:
    """What holds the pod, and under which key; no key: it is the document."""
    holder = document
    for key in path[:-1]:
        found = holder.get(key)
        if not isinstance(found, dict):
            raise InvalidInput(f"{subject} has no pod: {'.'.join(path)} is missing", code="manifest_invalid")
        holder = found
    return holder, path[-1] if path else ""


def _is_object(item: object) -> bool:
    return isinstance(item, dict) and isinstance(item.get("kind"), str)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and the same list twice instead of as a reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def summary(done: Iterable[Done]) -> Iterator[str]:
    """A line for each object, and for each warning."""
    for one in done:
        subject = f"{one.kind} {one.namespace}/{one.name}"
        yield f"{subject}: {one.way.value} way" if one.way is not None else f"{subject}: unchanged: {one.reason}"
        yield from (f"{subject}: warning: {text}" for text in one.warnings)
