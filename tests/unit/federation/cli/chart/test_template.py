"""What the parser takes of Go's templates, and what it refuses."""

from __future__ import annotations

import pytest

from federation.cli.chart.template import (
    Assign,
    Dot,
    Function,
    If,
    Literal,
    Output,
    Pipeline,
    Range,
    TemplateError,
    Text,
    Variable,
    With,
    parse,
)


def one(text: str) -> object:
    (node,) = parse(text, name="t").body
    return node


def operand(text: str) -> object:
    node = one(f"{{{{ {text} }}}}")
    assert isinstance(node, Output)
    ((found,),) = node.pipeline.commands
    return found


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (".", Dot(())),
        (".Values.a.b", Dot(("Values", "a", "b"))),
        ("$", Variable("", ())),
        ("$.Values.a", Variable("", ("Values", "a"))),
        ("$x", Variable("x", ())),
        ("$x.y", Variable("x", ("y",))),
        ('"a \\"b\\" \\\\ \\n"', Literal('a "b" \\ \n')),
        ('"}}"', Literal("}}")),
        ("17", Literal(17)),
        ("-1", Literal(-1)),
        ("true", Literal(True)),
        ("list", Function("list")),
    ],
)
def test_operands(text: str, wanted: object) -> None:
    assert operand(text) == wanted


def test_pipelines_nest() -> None:
    node = one('{{ include "a" (dict "b" .c) | nindent 4 }}')
    inner = Pipeline(((Function("dict"), Literal("b"), Dot(("c",))),))
    wanted = Pipeline(((Function("include"), Literal("a"), inner), (Function("nindent"), Literal(4))))
    assert node == Output(1, wanted)


def test_blocks() -> None:
    dot = Pipeline(((Dot(()),),))
    a, b, c = (Text(name) for name in "abc")
    assert one("{{ if . }}a{{ else if . }}b{{ else }}c{{ end }}") == If(1, dot, (a,), (If(1, dot, (b,), (c,)),))
    assert one("{{ with . }}a{{ else }}b{{ end }}") == With(1, dot, (a,), (b,))
    assert one("{{ range . }}a{{ end }}") == Range(1, (), dot, (a,), ())
    assert one("{{ range $x := . }}a{{ else }}b{{ end }}") == Range(1, ("x",), dot, (a,), (b,))
    assert one("{{ range $k, $v := . }}a{{ end }}") == Range(1, ("k", "v"), dot, (a,), ())
    assert one("{{ $x := . }}") == Assign(1, "x", True, dot)
    assert one("{{ $x = . }}") == Assign(1, "x", False, dot)
    parsed = parse('{{ define "t" }}a{{ end }}b', name="t")
    assert (parsed.body, parsed.defined) == ((b,), {"t": (a,)})


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("a {{ 1 }} b", ["a ", " b"]),
        ("a \n {{- 1 }} b", ["a", " b"]),
        ("a {{ 1 -}} \n b", ["a ", "b"]),
        ("a {{- 1 -}} b", ["a", "b"]),
        ("a {{/* {{ 1 }} */}} b", ["a ", " b"]),
        ("a {{- /* it */ -}} b", ["a", "b"]),
        ("a {{-1}} b", ["a ", " b"]),  # a negative number, and no trimming
    ],
)
def test_white_space_goes_where_a_dash_says_so(text: str, texts: list[str]) -> None:
    assert [node.text for node in parse(text, name="t").body if isinstance(node, Text)] == texts


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a\n{{ if . }}b", "t:2: 'end' is missing"),
        ("{{ end }}", "'end' without what it belongs to"),
        ("\n\n{{ else }}", "t:3: 'else' without what it belongs to"),
        ("{{ if . }}{{ else with . }}{{ end }}", "'else with' is not known"),
        ("{{ . ", "does not end"),
        ("{{ (1 }}", r"'\)' is missing"),
        ("{{ 1) }}", r"unexpected '\)'"),
        ("{{ 1 | }}", "nothing in it"),
        ("{{ }}", "nothing in it"),
        ("{{ .a .b }}", "no function"),
        ('{{ "a\\q" }}', "the escape"),
        ("{{ 1.5 }}", "'1.5 ' is not known|'1.5' is not known"),
        ("{{ `raw` }}", "not known"),
        ("{{ $x.y := 1 }}", "no variable that can be set"),
        ('{{ define "a" }}{{ end }}{{ define "a" }}{{ end }}', "defined twice"),
        ("{{ define a }}{{ end }}", "a name in quotes"),
        ("{{ (.a).b }}", "not known|unexpected|no function"),
    ],
)
def test_what_it_does_not_know_it_refuses_naming_the_line(text: str, why: str) -> None:
    with pytest.raises(TemplateError, match=why):
        parse(text, name="t")
