"""Who may have which identity: the settings table of local users. Nobody has one that is not listed."""

from __future__ import annotations

import pwd
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from federation.errors import InvalidSettings, IsthmusError
from federation.model.ids import SYSTEM_NAMESPACE, SpiffeId

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Pattern:
    """ "<namespace>/<account>"; "*" stands for every one, but for the namespace of our own identities only if named."""

    namespace: str
    account: str

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Raises InvalidSettings."""
        namespace, _, account = text.partition("/")
        try:
            # Both halves must be able to stand in an identity, where they are not stars.
            SpiffeId.workload("td", namespace if namespace != "*" else "any", account if account != "*" else "any")
        except IsthmusError as error:
            raise InvalidSettings(
                f"{text[:80]!r} is no pattern of identities: {error.message}",
                hint="write NAMESPACE/ACCOUNT; either may be *",
            ) from error
        return cls(namespace, account)

    def matches(self, namespace: str, account: str) -> bool:
        if self.account not in ("*", account):
            return False
        return self.namespace == namespace or (self.namespace == "*" and namespace != SYSTEM_NAMESPACE)


class AllowTable:
    """User → patterns. A user is a user id, or a name that this host may come to know later."""

    def __init__(self, table: Mapping[int | str, Iterable[str]]) -> None:
        """Raises InvalidSettings for a malformed pattern, user id or user name."""
        for user in table:
            if isinstance(user, int) and not 0 <= user < 2**32 - 1:
                raise InvalidSettings(f"{user} is no user id")
            if isinstance(user, str) and not _NAME.match(user):
                raise InvalidSettings(f"{user[:80]!r} is no name of a user", hint="a user id is written without quotes")
        self._patterns = {user: tuple(map(Pattern.parse, patterns)) for user, patterns in table.items()}

    def admits(self, uid: int, namespace: str, account: str) -> bool:
        """Whether processes of this user may have the identity."""
        patterns = self._patterns.get(uid, ())
        if any(isinstance(user, str) for user in self._patterns):
            patterns += self._patterns.get(_name(uid), ())
        return any(p.matches(namespace, account) for p in patterns)


def _name(uid: int) -> str:
    """Empty for a user that has none: no entry is for it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""
