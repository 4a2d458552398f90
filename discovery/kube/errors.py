"""What an API server answers when it does not do what was asked, as errors of this project.

`translate` turns a Status (meta/v1) into one of them; network errors are translated where they arise
(discovery.kube.client).
"""

from __future__ import annotations

import msgspec

from discovery.kube.resources import Resource
from federation import errors


class Forbidden(errors.Denied):
    """RBAC does not allow it."""

    code = "kube_forbidden"


class Unauthorised(errors.Denied):
    """The API server does not know who is calling."""

    code = "kube_unauthorised"


class Gone(errors.Unavailable):
    """The resourceVersion is too old (or of another history) for a watch or the next page: list again."""

    code = "kube_gone"


class Conflict(errors.Conflict):
    """The object changed meanwhile, or another field manager owns what was to be written."""

    code = "kube_conflict"


class AlreadyExists(errors.AlreadyExists):
    code = "kube_exists"


class NotFound(errors.NotFound):
    """There is no such object; with `kind_missing` not even its kind (no CRD, or a version that is not served)."""

    code = "kube_not_found"

    def __init__(self, message: str, *, hint: str = "", code: str | None = None, kind_missing: bool = False) -> None:
        super().__init__(message, hint=hint, code=code)
        self.kind_missing = kind_missing


class Invalid(errors.InvalidInput):
    """The API server's validation or an admission plugin refuses the object."""

    code = "kube_invalid"


class TooMany(errors.Unavailable):
    """The API server is busy; `retry_after` seconds is what it asks for, 0 when it does not say."""

    code = "kube_busy"

    def __init__(self, message: str, *, hint: str = "", code: str | None = None, retry_after: float = 0.0) -> None:
        super().__init__(message, hint=hint, code=code)
        self.retry_after = retry_after


class Unreachable(errors.Unavailable):
    """No answer, or none that makes sense."""

    code = "kube_unreachable"


class ServerFailed(errors.Unavailable):
    """The API server says that it failed (5xx)."""

    code = "kube_server_failed"


class _Details(msgspec.Struct):
    name: str = ""
    retry_after: float = msgspec.field(default=0.0, name="retryAfterSeconds")


class Status(msgspec.Struct):
    """meta/v1 Status: the body of a failed request, or the object of a watch's ERROR event."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


_status = msgspec.json.Decoder(Status)
_MISSING = "the server could not find the requested resource"
_ETCD_RESTORED = "Too large resource version"


def parse_status(body: bytes | msgspec.Raw) -> Status:
    """`body` as far as it is a Status; anything else gives one whose message is the beginning of the body."""
    try:
        return _status.decode(body)
    except msgspec.MsgspecError:
        return Status(message=bytes(body)[:200].decode("utf-8", "replace").replace("\n", " ").strip())


def rule(verb: str, resource: Resource, subresource: str = "") -> str:
    """The rule of a ClusterRole that allows it."""
    plural = f"{resource.plural}/{subresource}" if subresource else resource.plural
    return f'{{apiGroups: ["{resource.group}"], resources: ["{plural}"], verbs: ["{verb}"]}}'


def translate(
    status: int,
    body: bytes | msgspec.Raw,
    *,
    verb: str,
    resource: Resource | None,
    what: str,
    subresource: str = "",
    retry_after: float = 0.0,
) -> errors.IsthmusError:
    """The error for HTTP `status` with `body`; `verb` is RBAC's, `what` names what was asked for, in words."""
    said = parse_status(body)
    message = said.message.partition("\n")[0][:300] or f"status {status}"
    retry_after = retry_after or (said.details.retry_after if said.details else 0.0)
    if status == 401:
        return Unauthorised(
            f"the API server does not accept our credentials ({what})",
            hint="check the user of the kubeconfig, or the pod's service account",
        )
    if status == 403:
        if resource is None:
            return Forbidden(f"not allowed: {verb} {what}: {message}")
        plural = f"{resource.plural}/{subresource}" if subresource else resource.plural
        return Forbidden(
            f"not allowed: {verb} {plural}.{resource.group or 'core'}",
            hint=f"the agent's ClusterRole lacks {rule(verb, resource, subresource)}",
        )
    if status == 404:
        named = said.details is not None and bool(said.details.name)
        missing = said.message.startswith(_MISSING) or (not named and verb in ("list", "watch"))
        return NotFound(f"{what}: {message}", kind_missing=missing)
    if status == 409:
        kind = AlreadyExists if said.reason == "AlreadyExists" else Conflict
        return kind(f"{what}: {message}")
    if status == 410 or (status in (500, 504) and message.startswith(_ETCD_RESTORED)):
        return Gone(f"{what}: {message}")
    if status in (400, 413, 415, 422):
        return Invalid(f"{what}: {message}")
    if status == 429 or (status == 503 and retry_after):
        return TooMany(f"the API server is busy ({what})", hint="try again in a moment", retry_after=retry_after)
    if status >= 500:
        return ServerFailed(f"the API server fails: {message} ({what})")
    return Unreachable(f"{what}: unexpected answer {status}: {message}")
