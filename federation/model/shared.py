"""An immutable mapping of which a changed copy costs what changed, not what it holds."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_PARTS = 256
"""With 10,000 keys a part has 40: a copy of one part and of the list of parts takes about a microsecond."""


class SharedMap(Mapping[K, V]):
    """Keys and values in no particular order. `with_` shares every part in which nothing changed."""

    __slots__ = ("_length", "_parts")

    def __init__(self, items: Mapping[K, V] | Iterable[tuple[K, V]] = ()) -> None:
        parts: list[dict[K, V]] = [{} for _ in range(_PARTS)]
        for key, value in items.items() if isinstance(items, Mapping) else items:
            parts[hash(key) % _PARTS][key] = value
        self._parts = parts
        self._length = sum(map(len, parts))

    def with_(self, put: Mapping[K, V], remove: Iterable[K] = ()) -> SharedMap[K, V]:
        """A mapping without the keys of `remove` and with those of `put`; keys that are not there are no error."""
        parts = self._parts.copy()
        own: set[int] = set()
        length = self._length

        def part(key: K) -> dict[K, V]:
            index = hash(key) % _PARTS
            if index not in own:
                own.add(index)
                parts[index] = parts[index].copy()
            return parts[index]

        for key in remove:
            if key in self._parts[hash(key) % _PARTS]:
                found = part(key)
                length -= key in found
                found.pop(key, None)
        for key, value in put.items():
            found = part(key)
            length += key not in found
            found[key] = value
        made: SharedMap[K, V] = SharedMap.__new__(SharedMap)
        made._parts, made._length = parts, length
        return made

    def __getitem__(self, key: K) -> V:
        return self._parts[hash(key) % _PARTS][key]

    def get(self, key: K, default: Any = None) -> Any:
        """The value of `key`, or `default`."""
        return self._parts[hash(key) % _PARTS].get(key, default)

    def __contains__(self, key: object) -> bool:
        return key in self._parts[hash(key) % _PARTS]

    def __iter__(self) -> Iterator[K]:
        for part in self._parts:
            yield from part

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"SharedMap({dict(self)!r})"
