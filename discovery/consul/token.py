"""The ACL token in its file: read, and read again when the file changes.

What the file holds counts as soon as it is a token. Where it no longer holds one, the last that was read counts: a file
that is just being written must not cost the connection.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TypeAlias

from discovery.consul.errors import TokenMissing
from federation.log import Logger
from federation.model.cluster import Problem

_MAX_BYTES = 4096
_Fingerprint: TypeAlias = tuple[int, int, int, int]


class TokenFile:
    """`value` is the token, empty before the first `read` and where `path` is empty. Its methods block."""

    def __init__(self, path: str, *, log: Logger) -> None:
        self.value = ""
        self.problem: Problem | None = None
        """Why the file is not what counts."""
        self.path = path
        self._log = log
        self._seen: _Fingerprint | None = None
        self._warned = False

    def read(self) -> bool:
        """Take what the file holds; whether that is another token than before. Raises TokenMissing where there has
        never been one."""
        if not self.path:
            return False
        self._seen = _fingerprint(Path(self.path))  # first: what is written meanwhile is seen at the next look
        try:
            token = read_token(Path(self.path))
        except TokenMissing as error:
            if not self.value:
                raise
            problem = Problem(error.error_code, self.path, f"{error}; the token that was read before counts")
            if problem != self.problem:
                self._log.warning("token not read", error=str(error))
            self.problem = problem
            return False
        self.problem = None
        self._warn()
        changed, self.value = token != self.value, token
        return changed

    def changed(self) -> bool:
        """Whether the file is another one than that which was read."""
        return bool(self.path) and _fingerprint(Path(self.path)) != self._seen

    def _warn(self) -> None:
        exposed = self._seen is not None and bool(self._seen[3] & stat.S_IROTH)
        if exposed and not self._warned:
            self._log.warning("everybody on this machine can read the token", file=self.path, hint="chmod 600")
        self._warned = exposed


def read_token(path: Path) -> str:
    """The token in a file. Raises TokenMissing."""
    hint = "write the ACL token to it, and nothing else"
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise TokenMissing(f"the token file {path} cannot be read: {error.strerror}", hint=hint) from error
    text = data.decode("ascii", "replace").strip()
    if not text or len(data) > _MAX_BYTES or not text.isprintable() or " " in text or "\ufffd" in text:
        what = "is empty" if not text else "holds something that is no token"
        raise TokenMissing(f"the token file {path} {what}", hint=hint)
    return text


def _fingerprint(path: Path) -> _Fingerprint | None:
    """Equal ones are taken for the same content; None where there is no such file, or it may not be looked at."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode
