"""Reads ordinary YAML straight from libyaml's events: no nodes, no marks, a third of the time.

What ordinary manifests do not have (anchors, aliases, tags, merge keys, numbers other than decimal ones) raises
Unusual, and so does nothing else: discovery.sources.parse then reads the same bytes by nodes, as PyYAML does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from yaml.constructor import SafeConstructor
from yaml.events import MappingEndEvent, MappingStartEvent, ScalarEvent, SequenceEndEvent, StreamEndEvent

MAX_DEPTH = 100
"""Deeper trees are read by nodes, where the bound on nesting is proven first."""

_TAG = "tag:yaml.org,2002:"
_WORD = 64
"""Longer scalars are not remembered."""


class Unusual(Exception):
    """To be read by nodes."""


Plain = Callable[[str], Any]
"""What a scalar without quotes means; raises Unusual."""


def plain(resolvers: Mapping[str | None, Sequence[tuple[str, re.Pattern[str]]]]) -> Plain:
    """By the implicit resolvers of a loader. The same words stand in every manifest, so the last few are remembered."""

    def meaning(text: str) -> Any:
        for tag, pattern in resolvers.get(text[:1], ()):
            if pattern.match(text):
                return _construct(tag, text)
        return text

    remembered = lru_cache(maxsize=4096)(meaning)
    return lambda text: remembered(text) if len(text) <= _WORD else meaning(text)


def _construct(tag: str, text: str) -> Any:
    if tag == _TAG + "int" and text.isascii() and text.isdigit() and (text[0] != "0" or text == "0"):
        return int(text)
    if tag == _TAG + "bool":
        return SafeConstructor.bool_values[text.lower()]
    if tag == _TAG + "null":
        return None
    raise Unusual


def trees(loader: Any, meaning: Plain) -> Iterator[tuple[int, Any]]:
    """(line of its beginning, content) of each document; raises Unusual and yaml.YAMLError. Empty ones are skipped."""
    next_event = loader.get_event
    next_event()  # the stream's beginning
    while type(event := next_event()) is not StreamEndEvent:
        if event.version is not None or event.tags:
            raise Unusual
        root = next_event()
        tree = _value(root, next_event, meaning, 0)
        next_event()  # the document's end
        if tree is not None and not (type(root) is ScalarEvent and root.value == ""):
            yield root.start_mark.line + 1, tree


def _value(event: Any, next_event: Callable[[], Any], meaning: Plain, depth: int) -> Any:
    if event.anchor is not None or event.tag is not None or depth > MAX_DEPTH:
        raise Unusual
    if type(event) is ScalarEvent:
        return meaning(event.value) if event.implicit[0] else event.value
    if type(event) is MappingStartEvent:
        mapping = {}
        while type(event := next_event()) is not MappingEndEvent:
            if type(event) is not ScalarEvent:
                raise Unusual
            key = _value(event, next_event, meaning, depth)
            mapping[key] = _value(next_event(), next_event, meaning, depth + 1)
        return mapping
    sequence = []
    while type(event := next_event()) is not SequenceEndEvent:
        sequence.append(_value(event, next_event, meaning, depth + 1))
    return sequence
