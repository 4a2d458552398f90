"""One AdmissionReview (admission.k8s.io/v1): what the API server asks about a pod, and what it is answered. Pure.

Whatever goes wrong with us admits the pod as it is, with a warning: a cluster must not stand still for want of a
sidecar. What its author wrote wrongly is refused, with one line that says where.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from federation.errors import InvalidInput, IsthmusError
from sidecar.injector.inject import inject
from sidecar.injector.options import WAY, Options, Way
from sidecar.injector.patch import Operation, diff

VERSION = "admission.k8s.io/v1"
_LONGEST_WARNING = 250
"""Bytes; kubectl shows no more of one, and the API server cuts them all at 4 KiB."""


UNPRIVILEGED = (
    f"its way is loopback in this namespace, because Pod Security refuses what redirect needs; annotate {WAY} to choose"
)


class Outcome(StrEnum):
    """What became of a pod."""

    INJECTED = "injected"
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    FAILED = "failed"
    """It is admitted unchanged, because we could not tell what it needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`text`: why a pod was left alone, refused, or not understood. `told`: what is worth an Event.

    `hints` are for whoever creates the pod: nothing is wrong.
    """

    outcome: Outcome
    uid: str
    namespace: str
    pod: Mapping[str, Any] = field(default_factory=dict)
    way: Way | None = None
    patch: tuple[Operation, ...] = ()
    text: str = ""
    warnings: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    dry_run: bool = False

    @property
    def told(self) -> tuple[str, ...]:
        """A dry run leaves no trace."""
        return () if self.dry_run else self.warnings

    def review(self) -> dict[str, Any]:
        """The AdmissionReview that answers."""
        response: dict[str, Any] = {"uid": self.uid, "allowed": self.outcome is not Outcome.REFUSED}
        if self.outcome is Outcome.REFUSED:
            response["status"] = {"code": 422, "reason": "Invalid", "message": self.text}
        if self.patch:
            response["patchType"] = "JSONPatch"
            response["patch"] = base64.b64encode(json.dumps(list(self.patch)).encode()).decode()
        if texts := (*self.warnings, *self.hints):
            response["warnings"] = [_cut(f"isthmus: {text}") for text in texts]
        response["auditAnnotations"] = {"outcome": self.outcome.value, **({"why": self.text} if self.text else {})}
        return {"apiVersion": VERSION, "kind": "AdmissionReview", "response": response}


def answer(body: bytes, options: Callable[[], Options], *, way: Way | None = None) -> Answer:
    """The answer to a review; `way` replaces the default one of `options`.

    Raises InvalidInput (no_review) for what is no review of this version: nobody can be answered then.
    """
    request = _request(body)
    blank = Answer(
        outcome=Outcome.UNCHANGED,
        uid=request["uid"],
        namespace=str(request.get("namespace") or ""),
        dry_run=bool(request.get("dryRun")),
    )
    pod = request.get("object")
    if (request.get("kind") or {}).get("kind") != "Pod" or request.get("operation") != "CREATE":
        return replace(blank, text="it is no pod that is being created")
    if not isinstance(pod, dict):
        return _failed(blank, "the review has no pod")
    try:
        return _decide(replace(blank, pod=pod), pod, options(), way)
    except InvalidInput as error:
        return replace(blank, outcome=Outcome.REFUSED, pod=pod, text=f"isthmus: {error}")
    except IsthmusError as error:
        return _failed(replace(blank, pod=pod), str(error))
    except Exception as error:  # a pod that is shaped as we never thought must not be kept from running
        return _failed(replace(blank, pod=pod), f"{type(error).__name__}: {error}")


def _decide(blank: Answer, pod: dict[str, Any], options: Options, way: Way | None) -> Answer:
    usual = options.way
    if way is not None:
        options = replace(options, way=way)
    decision = inject(pod, namespace=blank.namespace, options=options)
    if decision.way is None:
        return replace(blank, text=decision.reason)
    wished = WAY in ((pod.get("metadata") or {}).get("annotations") or {})
    moved = usual is Way.REDIRECT and decision.way is Way.LOOPBACK and not wished
    return replace(
        blank,
        outcome=Outcome.INJECTED,
        way=decision.way,
        patch=tuple(diff(pod, decision.pod)),
        warnings=decision.warnings,
        hints=(UNPRIVILEGED,) if moved else (),
    )


def _failed(blank: Answer, why: str) -> Answer:
    text = " ".join(why.split())
    warning = f"the pod is admitted without a sidecar: {text}"
    return replace(blank, outcome=Outcome.FAILED, text=text, warnings=(warning,))


def _request(body: bytes) -> dict[str, Any]:
    try:
        review = json.loads(body)
        request = review["request"]
        if review["apiVersion"] != VERSION or not isinstance(request["uid"], str):
            raise KeyError("apiVersion")
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"this is no AdmissionReview of {VERSION}", code="no_review") from error
    return dict(request)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_WARNING else f"{text[: _LONGEST_WARNING - 1]}…"
