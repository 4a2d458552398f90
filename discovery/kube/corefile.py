"""The stub domain in a cluster's CoreDNS: one marked server block in its Corefile, put in, renewed and taken out. Pure.

CoreDNS picks the server block with the longest zone, so that a block of our own zones changes nothing for other names.
What stands outside of the marks is never touched; what somebody has changed between them is not overwritten.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence

from federation.errors import Conflict, InvalidInput

_BEGIN, _END = "# BEGIN isthmus", "# END isthmus"
_MARKED = re.compile(rf"\n?{_BEGIN}(?P<label>[^\n]*)\n(?P<body>.*?){_END}[^\n]*(?:\n|\Z)", re.DOTALL)
_TOKEN = re.compile(r'(?P<comment>#[^\n]*)|"(?:\\.|[^"\\])*"|(?P<open>")|(?P<word>[^\s"]+)|(?P<line>\n)', re.DOTALL)


def block(zones: Sequence[str], servers: Sequence[str]) -> str:
    """The server block, with its marks: `zones` are asked of `servers` (ADDRESS:PORT, tried in any order).

    Without `cache`: our answers change when a service moves, and they come from memory.
    """
    keys = " ".join(f"{zone}:53" for zone in zones)
    body = f"{keys} {{\n    errors\n    forward . {' '.join(servers)}\n}}\n"
    return f"{_BEGIN} {_digest(body)}: global names; `fedctl install dns --undo` takes it out\n{body}{_END}\n"


def put(text: str, wanted: str, *, zones: Sequence[str]) -> str:
    """`text` with `wanted` (from `block`) in it, in the place of ours where there is one.

    Raises InvalidInput for a Corefile that is not understood, Conflict where something else serves one of `zones`
    (zone_taken) or our block was edited (corefile_edited).
    """
    found = _find(text)
    rest = _without(text, found)
    _check(rest, zones)
    if found is None:
        return f"{text}\n{wanted}" if text else wanted
    digest = found["label"].split(":")[0].strip()
    if digest != _digest(found["body"]):
        raise Conflict(
            "the block of isthmus in the Corefile was edited by hand",
            hint="keep it, or take it out with `fedctl install dns --undo` and install it again",
            code="corefile_edited",
        )
    lead = "\n" if found[0].startswith("\n") else ""
    return text[: found.start()] + lead + wanted + text[found.end() :]


def take_out(text: str) -> str:
    """`text` as it was before `put`, with whatever was changed outside of our block. Raises InvalidInput."""
    return _without(text, _find(text))


def reloads(text: str) -> bool:
    """Whether CoreDNS follows changes of its Corefile by itself."""
    return any(word == "reload" for word in _words(text))


def present(text: str) -> bool:
    """Whether our block is in it. Raises InvalidInput for damaged marks."""
    return _find(text) is not None


def block_of(text: str) -> str:
    """Which block of ours is in it, told apart by what it says; empty where there is none. Raises InvalidInput."""
    found = _find(text)
    return _digest(found["body"]) if found is not None else ""


def check(text: str, zones: Sequence[str]) -> None:
    """That `put` could put a block for `zones` there. Raises as it does."""
    _check(_without(text, _find(text)), zones)


def _find(text: str) -> re.Match[str] | None:
    marks = [line for line in text.splitlines() if line.startswith((_BEGIN, _END))]
    if not marks:
        return None
    found = _MARKED.search(text)
    if found is None or len(marks) != 2:
        raise InvalidInput(
            "the marks of isthmus in the Corefile are damaged: there is not one BEGIN followed by one END",
            hint="take the rest of the block out by hand",
            code="corefile_not_understood",
        )
    return found


def _without(text: str, found: re.Match[str] | None) -> str:
    if found is None:
        return text
    before, after = text[: found.start()], text[found.end() :]
    if found[0].startswith("\n") and after and before and not before.endswith("\n"):
        before += "\n"  # the line ended in the mark's own line break, and something follows now
    return before + after


def _check(text: str, zones: Sequence[str]) -> None:
    """That the braces of server blocks match, and that nobody else has anything to do with our zones."""
    depth, keys = 0, False
    ours = tuple(zone.rstrip(".") for zone in zones)
    for word in _words(text):
        if word == "{":
            if not keys:
                raise _not_understood("a block begins without a zone")
            depth += 1
        elif word == "}":
            depth -= 1
            if depth < 0:
                raise _not_understood("a brace closes what was not opened")
            keys = depth > 0
        else:
            keys = True
            zone = re.sub(r"^[a-z0-9]+://", "", word.lower()).rsplit(":", 1)[0].rstrip(".,")
            if any(zone == own or zone.endswith(f".{own}") for own in ours):
                raise Conflict(
                    f"the Corefile has {word} already, outside of the block of isthmus",
                    hint="take out what serves this zone, or choose another --suffix",
                    code="zone_taken",
                )
    if depth:
        raise _not_understood("a block is not closed")
    if keys:
        raise _not_understood("it has words outside of server blocks")


def _words(text: str) -> Iterator[str]:
    """The tokens but for comments; a quoted one without its quotes."""
    for token in _TOKEN.finditer(text):
        if token["open"] is not None:
            raise _not_understood("a quote is not closed")
        if token["comment"] is None and token["line"] is None:
            yield token["word"] if token["word"] is not None else token[0][1:-1]


def _not_understood(why: str) -> InvalidInput:
    return InvalidInput(
        f"the Corefile is not understood: {why}",
        hint="write a server block for our zones by hand: forward . ADDRESS:PORT of the agent's dns.listen",
        code="corefile_not_understood",
    )


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:12]
