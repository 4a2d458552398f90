"""Parses the part of Go's templates that the chart keeps to; everything else is refused, naming the line.

Actions: if, else if, else, with, range, define, variables, pipelines, comments, and `{{-` with `-}}`. What a template
means, federation.cli.chart.evaluate says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from federation.errors import InvalidInput, IsthmusError


class TemplateError(IsthmusError):
    """A template that says what this renderer does not know: a fault of ours."""

    code = "chart_template"


class ValueMissing(InvalidInput):
    """The chart itself says that a value is missing (`required`)."""

    code = "value_missing"


@dataclass(frozen=True, slots=True)
class Literal:
    value: Any


@dataclass(frozen=True, slots=True)
class Dot:
    """`.` and what is below it."""

    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """`$name` and what is below it; the name of `$` is empty."""

    name: str
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Function:
    name: str


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Commands of operands; the value of one is the last argument of the next."""

    commands: tuple[tuple[Operand, ...], ...]


Operand = Literal | Dot | Variable | Function | Pipeline


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Output:
    line: int
    pipeline: Pipeline


@dataclass(frozen=True, slots=True)
class Assign:
    """`$name := …`, or `$name = …` where it is no declaration."""

    line: int
    name: str
    declares: bool
    pipeline: Pipeline


@dataclass(frozen=True, slots=True)
class If:
    line: int
    pipeline: Pipeline
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class With:
    line: int
    pipeline: Pipeline
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """`variables`: none, the element, or key and element."""

    line: int
    variables: tuple[str, ...]
    pipeline: Pipeline
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


Node = Text | Output | Assign | If | With | Range


@dataclass(frozen=True, slots=True)
class Parsed:
    """One file: what it says itself, and the templates that it defines."""

    body: tuple[Node, ...]
    defined: dict[str, tuple[Node, ...]]


_ACTION = re.compile(
    r"\{\{(?P<left>-(?=\s))?\s*(?P<inside>/\*.*?\*/|(?:\"(?:\\.|[^\"\\])*\"|[^\"])*?)\s*(?P<right>(?<=\s)-)?\}\}", re.S
)
_TOKEN = re.compile(
    r"""(?P<space>\s+)
    | (?P<string>"(?:\\.|[^"\\\n])*")
    | (?P<number>-?\d+(?![\w.]))
    | (?P<variable>\$\w*(?:\.\w+)*)
    | (?P<dot>(?:\.\w+)+|\.)
    | (?P<word>[A-Za-z]\w*)
    | (?P<mark>:=|[=,|()])""",
    re.X,
)
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}
_WORDS = {"true": True, "false": False}


def parse(text: str, *, name: str) -> Parsed:
    """The template in `text`; raises TemplateError with `name` and the line of what it does not know."""
    return _Parser(name, text).parse()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str


class _Parser:
    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.line = 1
        self.defined: dict[str, tuple[Node, ...]] = {}
        self.pieces = list(self._split(text))
        self.at = 0

    def parse(self) -> Parsed:
        body, ending = self._block(())
        assert ending is None  # noqa: S101 - nothing may end the outermost block
        return Parsed(body, self.defined)

    def fail(self, why: str) -> TemplateError:
        return TemplateError(f"{self.name}:{self.line}: {why}")

    # --- text and actions --------------------------------------------------------------------------------------------

    def _split(self, text: str) -> Iterator[tuple[int, str | list[_Token]]]:
        """(line, text) and (line, tokens of an action) in turn."""
        position, trim = 0, False
        while True:
            found = _ACTION.search(text, position)
            plain = text[position : found.start() if found else len(text)]
            if found is None and "{{" in plain:
                self.line = text.count("\n", 0, text.index("{{", position)) + 1
                raise self.fail("an action that does not end, or not as it may")
            plain = plain.lstrip(" \t\r\n") if trim else plain
            if found is not None and found["left"]:
                plain = plain.rstrip(" \t\r\n")
            if plain:
                yield self.line, plain
            if found is None:
                return
            self.line = text.count("\n", 0, found.start()) + 1
            if not found["inside"].startswith("/*"):
                yield self.line, list(self._tokens(found["inside"]))
            position, trim = found.end(), bool(found["right"])

    def _tokens(self, text: str) -> Iterator[_Token]:
        position = 0
        while position < len(text):
            found = _TOKEN.match(text, position)
            if found is None or found.lastgroup is None:
                raise self.fail(f"{text[position : position + 20]!r} is not known")
            if found.lastgroup != "space":
                yield _Token(found.lastgroup, found[0])
            position = found.end()

    # --- blocks ------------------------------------------------------------------------------------------------------

    def _block(self, until: tuple[str, ...]) -> tuple[tuple[Node, ...], list[_Token] | None]:
        """Nodes up to an action that begins with one of `until`, and that action."""
        nodes: list[Node] = []
        while self.at < len(self.pieces):
            self.line, piece = self.pieces[self.at]
            self.at += 1
            if isinstance(piece, str):
                nodes.append(Text(piece))
                continue
            word = piece[0].text if piece and piece[0].kind == "word" else ""
            if word in ("end", "else"):
                if word not in until:
                    raise self.fail(f"{word!r} without what it belongs to")
                return tuple(nodes), piece
            if word == "define":
                self._define(piece)
            else:
                nodes.append(self._node(word, piece))
        if until:
            raise self.fail("'end' is missing")
        return tuple(nodes), None

    def _define(self, tokens: list[_Token]) -> None:
        if len(tokens) != 2 or tokens[1].kind != "string":
            raise self.fail("'define' takes a name in quotes")
        name = self._string(tokens[1].text)
        if name in self.defined:
            raise self.fail(f"{name!r} is defined twice")
        body, _ = self._block(("end",))
        self.defined[name] = body

    def _node(self, word: str, tokens: list[_Token]) -> Node:
        line = self.line
        if word in ("if", "with"):
            pipeline = self._pipeline(tokens[1:])
            body, otherwise = self._branches()
            return (If if word == "if" else With)(line, pipeline, body, otherwise)
        if word == "range":
            names, rest = self._range(tokens[1:])
            pipeline = self._pipeline(rest)
            body, otherwise = self._branches()
            return Range(line, names, pipeline, body, otherwise)
        if len(tokens) > 1 and tokens[0].kind == "variable" and tokens[1].text in (":=", "="):
            name = self._name(tokens[0])
            return Assign(line, name, tokens[1].text == ":=", self._pipeline(tokens[2:]))
        return Output(line, self._pipeline(tokens))

    def _branches(self) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
        body, ending = self._block(("end", "else"))
        if ending is None or ending[0].text == "end":
            return body, ()
        if len(ending) == 1:
            return body, self._block(("end",))[0]
        if ending[1].text != "if":
            raise self.fail(f"'else {ending[1].text}' is not known")
        line, pipeline = self.line, self._pipeline(ending[2:])
        inner, otherwise = self._branches()
        return body, (If(line, pipeline, inner, otherwise),)

    def _range(self, tokens: list[_Token]) -> tuple[tuple[str, ...], list[_Token]]:
        marks = [token.text for token in tokens[:4]]
        if marks[1:2] == [":="]:
            return (self._name(tokens[0]),), tokens[2:]
        if marks[1:2] == [","] and marks[3:4] == [":="]:
            return (self._name(tokens[0]), self._name(tokens[2])), tokens[4:]
        return (), tokens

    def _name(self, token: _Token) -> str:
        if token.kind != "variable" or "." in token.text or token.text == "$":
            raise self.fail(f"{token.text} is no variable that can be set")
        return token.text[1:]

    # --- pipelines ---------------------------------------------------------------------------------------------------

    def _pipeline(self, tokens: list[_Token]) -> Pipeline:
        pipeline, rest = self._commands(tokens)
        if rest:
            raise self.fail(f"unexpected {rest[0].text!r}")
        return pipeline

    def _commands(self, tokens: list[_Token]) -> tuple[Pipeline, list[_Token]]:
        """The pipeline at the beginning of `tokens`, and what follows it (nothing, or from ')' on)."""
        commands: list[tuple[Operand, ...]] = []
        command: list[Operand] = []
        while tokens and (tokens[0].kind, tokens[0].text) != ("mark", ")"):
            token, tokens = tokens[0], tokens[1:]
            if token.kind == "mark" and token.text == "|":
                commands.append(tuple(self._checked(command)))
                command = []
            elif token.kind == "mark" and token.text == "(":
                inner, tokens = self._commands(tokens)
                if not tokens:
                    raise self.fail("')' is missing")
                tokens = tokens[1:]
                command.append(inner)
            else:
                command.append(self._operand(token))
        commands.append(tuple(self._checked(command)))
        return Pipeline(tuple(commands)), tokens

    def _checked(self, command: list[Operand]) -> list[Operand]:
        if not command:
            raise self.fail("a pipeline with nothing in it")
        if len(command) > 1 and not isinstance(command[0], Function):
            raise self.fail("arguments to what is no function")
        return command

    def _operand(self, token: _Token) -> Operand:
        if token.kind == "string":
            return Literal(self._string(token.text))
        if token.kind == "number":
            return Literal(int(token.text))
        if token.kind == "dot":
            return Dot(tuple(token.text.split(".")[1:]) if token.text != "." else ())
        if token.kind == "variable":
            name, *path = token.text[1:].split(".")
            return Variable(name, tuple(path))
        if token.kind == "word":
            return Literal(_WORDS[token.text]) if token.text in _WORDS else Function(token.text)
        raise self.fail(f"unexpected {token.text!r}")

    def _string(self, text: str) -> str:
        def escaped(found: re.Match[str]) -> str:
            if found[1] not in _ESCAPES:
                raise self.fail(f"the escape {found[0]} is not known")
            return _ESCAPES[found[1]]

        return re.sub(r"\\(.)", escaped, text[1:-1])
