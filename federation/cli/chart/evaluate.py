"""What the templates of the chart mean: Go's `text/template` with the few functions of helm that the chart uses.

Stricter than helm: a value that is not there, and one that has no text, is an error and not "<no value>".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from federation.cli.chart import yamltext
from federation.cli.chart.template import (
    Assign,
    Dot,
    Function,
    If,
    Literal,
    Node,
    Operand,
    Output,
    Parsed,
    Pipeline,
    Range,
    TemplateError,
    Text,
    ValueMissing,
    Variable,
    With,
)

_DEEPEST = 100
_GIVE = "give it as an option, with --set or in a file with --values"


@dataclass(slots=True)
class _Scope:
    """Variables of one block, and of those around it."""

    names: dict[str, Any]
    above: _Scope | None = None

    def find(self, name: str) -> _Scope | None:
        scope: _Scope | None = self
        while scope is not None and name not in scope.names:
            scope = scope.above
        return scope


@dataclass(slots=True)
class Evaluator:
    """Renders with the templates that any of the parsed files defines."""

    defined: Mapping[str, tuple[Node, ...]]
    _depth: int = field(default=0, init=False)

    @classmethod
    def of(cls, files: Mapping[str, Parsed]) -> Evaluator:
        """Raises TemplateError when two files define one name."""
        defined: dict[str, tuple[Node, ...]] = {}
        for name, parsed in files.items():
            for one, body in parsed.defined.items():
                if one in defined:
                    raise TemplateError(f"{name}: {one!r} is defined twice")
                defined[one] = body
        return cls(defined)

    def render(self, parsed: Parsed, data: Mapping[str, Any], *, name: str) -> str:
        """The text of a file; raises TemplateError with `name` and the line."""
        return self._run(parsed.body, data, name)

    def _run(self, body: tuple[Node, ...], data: Any, name: str) -> str:
        if self._depth > _DEEPEST:
            raise TemplateError(f"{name}: templates that include each other without end")
        self._depth += 1
        try:
            out: list[str] = []
            _Run(self, name, out).nodes(body, data, _Scope({"": data}))
            return "".join(out)
        finally:
            self._depth -= 1

    def include(self, name: str, data: Any) -> str:
        """A defined template with `data` as its dot; raises TemplateError."""
        if name not in self.defined:
            raise TemplateError(f"there is no template {name!r}")
        return self._run(self.defined[name], data, name)


@dataclass(slots=True)
class _Run:
    """One execution of one template."""

    owner: Evaluator
    name: str
    out: list[str]

    def nodes(self, body: Sequence[Node], dot: Any, scope: _Scope) -> None:
        for node in body:
            if isinstance(node, Text):
                self.out.append(node.text)
                continue
            try:
                self._node(node, dot, scope)
            except TemplateError as error:
                if getattr(error, "placed", False):
                    raise
                placed = TemplateError(f"{self.name}:{node.line}: {error.message}", code=error.error_code)
                placed.placed = True  # type: ignore[attr-defined]
                raise placed from error

    def _node(self, node: Node, dot: Any, scope: _Scope) -> None:
        match node:
            case Output():
                self.out.append(text_of(self.value(node.pipeline, dot, scope)))
            case Assign():
                self._assign(node, dot, scope)
            case If():
                chosen = node.body if truth(self.value(node.pipeline, dot, scope)) else node.otherwise
                self.nodes(chosen, dot, _Scope({}, scope))
            case With():
                value = self.value(node.pipeline, dot, scope)
                if truth(value):
                    self.nodes(node.body, value, _Scope({}, scope))
                else:
                    self.nodes(node.otherwise, dot, _Scope({}, scope))
            case Range():
                self._range(node, dot, scope)
            case Text():
                raise AssertionError("text is written where it is met")

    def _assign(self, node: Assign, dot: Any, scope: _Scope) -> None:
        value = self.value(node.pipeline, dot, scope)
        if node.declares:
            scope.names[node.name] = value
            return
        owner = scope.find(node.name)
        if owner is None:
            raise TemplateError(f"there is no variable ${node.name}")
        owner.names[node.name] = value

    def _range(self, node: Range, dot: Any, scope: _Scope) -> None:
        value = self.value(node.pipeline, dot, scope)
        if isinstance(value, Mapping):
            pairs: list[tuple[Any, Any]] = sorted(value.items())
        elif isinstance(value, list | tuple):
            pairs = list(enumerate(value))
        else:
            raise TemplateError(f"range over {_kind(value)}")
        for key, one in pairs:
            names = dict(zip(node.variables, (key, one) if len(node.variables) == 2 else (one,), strict=False))
            self.nodes(node.body, one, _Scope(names, scope))
        if not pairs:
            self.nodes(node.otherwise, dot, _Scope({}, scope))

    # --- values ------------------------------------------------------------------------------------------------------

    def value(self, pipeline: Pipeline, dot: Any, scope: _Scope) -> Any:
        given: tuple[Any, ...] = ()
        for command in pipeline.commands:
            given = (self._command(command, given, dot, scope),)
        return given[0]

    def _command(self, command: tuple[Operand, ...], given: tuple[Any, ...], dot: Any, scope: _Scope) -> Any:
        first, *rest = command
        if not isinstance(first, Function):
            if given:
                raise TemplateError("a value is handed to what is no function")
            return self._operand(first, dot, scope)
        if first.name in ("and", "or"):  # what decides comes first, and what follows is not looked at
            for one in rest:
                value = self._operand(one, dot, scope)
                if truth(value) == (first.name == "or"):
                    return value
            return value
        arguments = [self._operand(one, dot, scope) for one in rest] + list(given)
        if first.name == "include":
            name, data = arguments
            return self.owner.include(name, data)
        function = FUNCTIONS.get(first.name)
        if function is None:
            raise TemplateError(f"the function {first.name!r} is not known")
        try:
            return function(*arguments)
        except (TypeError, ValueError, yaml.YAMLError) as error:
            raise TemplateError(f"{first.name}: {error}") from error

    def _operand(self, operand: Operand, dot: Any, scope: _Scope) -> Any:
        match operand:
            case Literal():
                return operand.value
            case Dot():
                return _below(dot, operand.path, ".")
            case Variable():
                owner = scope.find(operand.name)
                if owner is None:
                    raise TemplateError(f"there is no variable ${operand.name}")
                return _below(owner.names[operand.name], operand.path, f"${operand.name}.")
            case Pipeline():
                return self.value(operand, dot, scope)
            case Function():
                return self._command((operand,), (), dot, scope)


def _below(value: Any, path: Sequence[str], so_far: str) -> Any:
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            raise TemplateError(f"there is no value {so_far}{'.'.join(path)}")
        value = value[part]
    return value


def _kind(value: Any) -> str:
    for kind, name in ((bool, "bool"), (Mapping, "map"), (str, "string"), (list, "slice"), (int, "int")):
        if isinstance(value, kind):
            return name
    return "invalid" if value is None else type(value).__name__


def truth(value: Any) -> bool:
    """As `if` takes it: nothing, zero, false and what is empty are false."""
    return bool(value)


def text_of(value: Any) -> str:
    """A value as it is printed; raises TemplateError for one that has no text of its own."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    raise TemplateError(f"a {_kind(value)} has no text of its own")


# --- functions -------------------------------------------------------------------------------------------------------


def _required(message: str, value: Any) -> Any:
    if value is None or value == "":
        raise ValueMissing(message, hint=_GIVE)
    return value


def _quote(value: Any) -> str:
    text = text_of(value)
    if not text.isprintable():
        raise TemplateError(f"{text[:40]!r} has characters that cannot be printed")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _printf(form: str, *values: Any) -> str:
    parts = form.split("%")
    if len(parts) != len(values) + 1 or any(part[:1] not in ("s", "d") for part in parts[1:]):
        raise TemplateError(f"printf knows %s and %d, one for each value: {form!r}")
    for part, value in zip(parts[1:], values, strict=True):
        wanted: type = str if part[0] == "s" else int
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise TemplateError(f"printf: %{part[0]} for a {_kind(value)}")
    return parts[0] + "".join(text_of(v) + part[1:] for part, v in zip(parts[1:], values, strict=True))


def _indent(width: int, text: str) -> str:
    pad = " " * width
    return pad + text.replace("\n", "\n" + pad)


def _dict(*pairs: Any) -> dict[str, Any]:
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


def _set(table: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    table[key] = value
    return table


def _equal(first: Any, second: Any) -> bool:
    if _kind(first) != _kind(second):
        raise TemplateError(f"eq of {_kind(first)} and {_kind(second)}")
    return bool(first == second)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "add": lambda *numbers: sum(numbers),
    "default": lambda otherwise, value: value if truth(value) else otherwise,
    "dict": _dict,
    "eq": _equal,
    "fromYaml": lambda text: yamltext.load(text) or {},
    "get": lambda table, key: table.get(key, ""),
    "int": int,
    "kindIs": lambda kind, value: _kind(value) == kind,
    "list": lambda *items: list(items),
    "ne": lambda first, second: not _equal(first, second),
    "nindent": lambda width, text: "\n" + _indent(width, text),
    "not": lambda value: not truth(value),
    "printf": _printf,
    "quote": _quote,
    "required": _required,
    "set": _set,
    "sha256sum": lambda text: hashlib.sha256(text.encode()).hexdigest(),
    "ternary": lambda yes, no, condition: yes if condition else no,
    "toYaml": yamltext.dump,
    "trimPrefix": lambda prefix, text: text.removeprefix(prefix),
    "trimSuffix": lambda suffix, text: text.removesuffix(suffix),
    "trunc": lambda length, text: text[:length],
}
"""Helm's and Go's functions that the chart uses; `and`, `or` and `include` are in the evaluator."""
