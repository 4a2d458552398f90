"""What templates mean; that helm means the same, tests/integration/kubernetes/test_chart.py shows with the chart."""

from __future__ import annotations

from typing import Any

import pytest

from federation.cli.chart.evaluate import Evaluator
from federation.cli.chart.template import TemplateError, ValueMissing, parse
from federation.errors import IsthmusError

VALUES: dict[str, Any] = {
    "text": "a",
    "empty": "",
    "zero": 0,
    "no": False,
    "yes": True,
    "list": ["x", "y"],
    "map": {"b": 2, "a": 1},
    "nothing": {},
    "deep": {"er": {"port": 80}},
}


def render(text: str, data: Any = VALUES) -> str:
    parsed = parse(text, name="t")
    return Evaluator.of({"t": parsed}).render(parsed, data, name="t")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{{ .text }}{{ .zero }}{{ .yes }}", "a0true"),
        ("{{ .deep.er.port }} {{ $.deep.er.port }}", "80 80"),
        ("{{ if .empty }}1{{ else if .zero }}2{{ else if .nothing }}3{{ else }}4{{ end }}", "4"),
        ("{{ if and .yes .text }}{{ and .yes .text }}{{ end }}", "a"),
        ("{{ or .empty .no .text }}{{ or .empty .zero }}", "a0"),
        ("{{ if not .no }}y{{ end }}", "y"),
        ('{{ if eq .text "a" }}y{{ end }}{{ if ne .zero 0 }}n{{ end }}', "y"),
        ("{{ with .deep.er }}{{ .port }}{{ $.text }}{{ end }}{{ with .empty }}x{{ else }}{{ .text }}{{ end }}", "80aa"),
        ("{{ range .list }}[{{ . }}]{{ end }}{{ range .nothing }}x{{ else }}none{{ end }}", "[x][y]none"),
        ("{{ range $k, $v := .map }}{{ $k }}={{ $v }} {{ end }}", "a=1 b=2 "),
        ("{{ range $i, $v := .list }}{{ $i }}{{ $v }}{{ end }}", "0x1y"),
        ("{{ $x := 1 }}{{ if .yes }}{{ $x = 2 }}{{ $y := 3 }}{{ end }}{{ $x }}", "2"),
        ("{{ $x := 1 }}{{ if .yes }}{{ $x := 2 }}{{ end }}{{ $x }}", "1"),
        ('{{ define "n" }}<{{ .a }}{{ $.a }}>{{ end }}{{ include "n" (dict "a" .text) }}', "<aa>"),
        ('{{ "b" | default "a" }}{{ .empty | default "a" }}', "ba"),
        ('{{ ternary "t" "f" .yes }}{{ ternary "t" "f" .no }}', "tf"),
        ("{{ add (int .zero) 20 }}", "20"),
        ('{{ printf "%s:%d" .text (int .deep.er.port) }}', "a:80"),
        ('{{ .text | quote }}{{ "a\\"b" | quote }}{{ .zero | quote }}', '"a""a\\"b""0"'),
        ('{{ "a\\nb" | nindent 2 }}', "\n  a\n  b"),
        ("{{ toYaml .map }}", "a: 1\nb: 2"),
        ('{{ $m := "a: {b: 1}" | fromYaml }}{{ $_ := set $m "c" 2 }}{{ toYaml $m }}', "a:\n  b: 1\nc: 2"),
        ('{{ get .map "a" }}[{{ get .map "z" }}]', "1[]"),
        ('{{ if kindIs "map" .map }}m{{ end }}{{ if kindIs "map" .list }}x{{ end }}', "m"),
        ('{{ "[::]" | trimPrefix "[" | trimSuffix "]" }}{{ "abc" | trunc 2 }}', "::ab"),
        ('{{ sha256sum "" | trunc 8 }}', "e3b0c442"),
        ('{{ range list "a" "b" }}{{ . }}{{ end }}', "ab"),
    ],
)
def test_what_it_means(text: str, wanted: str) -> None:
    assert render(text) == wanted


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a\n{{ .no_such }}", "t:2: there is no value .no_such"),
        ("{{ .text.x }}", "there is no value .text.x"),
        ("{{ $x }}", r"there is no variable \$x"),
        ("{{ $x = 1 }}", r"there is no variable \$x"),
        ("{{ .list }}", "a slice has no text of its own"),
        ("{{ .map }}", "a map has no text of its own"),
        ("{{ upper .text }}", "the function 'upper' is not known"),
        ('{{ include "no" . }}', "there is no template 'no'"),
        ("{{ range .text }}{{ end }}", "range over string"),
        ("{{ eq .text 1 }}", "eq of string and int"),
        ('{{ printf "%v" 1 }}', "printf knows"),
        ('{{ printf "%d" .text }}', "printf: %d for a string"),
        ('{{ dict "a" }}', "dict: "),
        ('{{ define "a" }}{{ include "a" . }}{{ end }}{{ include "a" . }}', "without end"),
        ('{{ "a: [" | fromYaml }}', "fromYaml: "),
        ("{{ .text | .yes }}", "no function"),
    ],
)
def test_what_cannot_be_is_an_error_with_its_line(text: str, why: str) -> None:
    with pytest.raises(TemplateError, match=why) as it:
        render(text)
    assert it.value.error_code == "chart_template"


@pytest.mark.parametrize(
    "text",
    [
        '{{ required "it is missing" .empty }}',
        '{{ if .yes }}{{ required "it is missing" .empty }}{{ end }}',
    ],
)
def test_what_the_chart_itself_says_stands_alone(text: str) -> None:
    with pytest.raises(ValueMissing) as it:
        render(text)
    error: IsthmusError = it.value
    assert (error.message, error.error_code, error.exit_status) == ("it is missing", "value_missing", 2)


def test_two_files_do_not_define_one_name() -> None:
    parsed = parse('{{ define "a" }}{{ end }}', name="t")
    with pytest.raises(TemplateError, match="defined twice"):
        Evaluator.of({"one": parsed, "two": parsed})
