"""The one error root. Every error that a person may see carries a stable code, one clear line and what to do next.

Third-party errors are translated into these where they enter. A code never changes its meaning; the exit status that
`fedctl` gives for it is the one of its class.
"""

from __future__ import annotations

from typing import ClassVar


class IsthmusError(Exception):
    """Something that a person can act on.

    `code` is stable and snake_case (for `-o json` and for logs), `message` is one line, `hint` says what to do next.
    """

    code: ClassVar[str] = "internal"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.error_code = code or type(self).code

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def as_dict(self) -> dict[str, str]:
        """The error as `-o json` prints it."""
        return {"code": self.error_code, "message": self.message, "hint": self.hint}


class InvalidInput(IsthmusError):
    """What the caller gave cannot be right, whatever the state of the federation."""

    code = "invalid_input"
    exit_status = 2


class InvalidName(InvalidInput):
    """A name that is no DNS label, trust domain or SPIFFE ID."""

    code = "invalid_name"


class InvalidSettings(InvalidInput):
    """A settings file that cannot be used."""

    code = "invalid_settings"


class NotFound(IsthmusError):
    """The named thing does not exist."""

    code = "not_found"
    exit_status = 3


class AlreadyExists(IsthmusError):
    """The named thing exists already."""

    code = "already_exists"
    exit_status = 4


class Denied(IsthmusError):
    """The caller is not who it would have to be, or has no grant."""

    code = "denied"
    exit_status = 5


class Unavailable(IsthmusError):
    """Something that is needed cannot be reached now; trying again can help."""

    code = "unavailable"
    exit_status = 6


class Conflict(IsthmusError):
    """The state of the federation forbids it."""

    code = "conflict"
    exit_status = 7


class QuotaExceeded(IsthmusError):
    """The origin claims more than it may."""

    code = "quota_exceeded"
    exit_status = 8


class CorruptState(IsthmusError):
    """A file of ours is damaged or of another version."""

    code = "corrupt_state"
    exit_status = 9


class StorageFailed(IsthmusError):
    """The disk refused a write or a read: full, read-only, or broken."""

    code = "storage_failed"
    exit_status = 10


class TimedOut(IsthmusError):
    """A wait with a deadline ended without what was waited for."""

    code = "timed_out"
    exit_status = 11
