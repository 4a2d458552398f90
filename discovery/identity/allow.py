"""Who may have which identity: the settings table of local users. Nobody has one that is not listed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from federation.errors import InvalidSettings, IsthmusError
from federation.model.ids import SYSTEM_NAMESPACE, SpiffeId


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
    """uid → patterns."""

    def __init__(self, table: Mapping[int, Iterable[str]]) -> None:
        """Raises InvalidSettings for a malformed pattern or uid."""
        for uid in table:
            if not 0 <= uid < 2**32 - 1:
                raise InvalidSettings(f"{uid} is no user id")
        self._patterns = {uid: tuple(map(Pattern.parse, patterns)) for uid, patterns in table.items()}

    def admits(self, uid: int, namespace: str, account: str) -> bool:
        return any(p.matches(namespace, account) for p in self._patterns.get(uid, ()))
