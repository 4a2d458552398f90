"""An immutable picture of everything that is stored, and what a write would change in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from federation.store.base import Change, Departed, LinkEntry, Member, Token

Result = TypeVar("Result")
K = TypeVar("K", str, bytes)
V = TypeVar("V")


def _nothing() -> Mapping[Any, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Members and links sorted by name."""

    members: Mapping[str, Member] = field(default_factory=_nothing)
    links: Mapping[str, LinkEntry] = field(default_factory=_nothing)
    tokens: Mapping[bytes, Token] = field(default_factory=_nothing)
    departed: Mapping[str, Departed] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Generic[Result]):
    """What to put (a value) or to drop (None) in one atomic write, and what the caller is told."""

    result: Result
    members: Mapping[str, Member | None] = field(default_factory=dict)
    links: Mapping[str, LinkEntry | None] = field(default_factory=dict)
    tokens: Mapping[bytes, Token | None] = field(default_factory=dict)
    departed: Mapping[str, Departed | None] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        return not (self.members or self.links or self.tokens or self.departed)

    @property
    def change(self) -> Change:
        return Change(clusters=frozenset(self.members), links=frozenset(self.links))


def applied(picture: Picture, plan: Plan[Any]) -> Picture:
    """`picture` after `plan`."""
    return Picture(
        members=_merged(picture.members, plan.members),
        links=_merged(picture.links, plan.links),
        tokens=_merged(picture.tokens, plan.tokens),
        departed=_merged(picture.departed, plan.departed),
    )


def _merged(present: Mapping[K, V], changes: Mapping[K, V | None]) -> Mapping[K, V]:
    if not changes:
        return present
    kept = {k: v for k, v in {**present, **changes}.items() if v is not None}
    return MappingProxyType(dict(sorted(kept.items())))
