"""The one printer: what a command found, as a table that fits a terminal, as JSON or as YAML.

Arrives: rows of plain values under named columns. Leaves: text on stdout. Errors leave on stderr, as one line or, with
`-o json`, as one object {"error": {"code", "message", "hint"}}.
"""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
import yaml

from federation.errors import IsthmusError


class Format(enum.StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class Printer:
    """Prints results in the format that the user asked for."""

    def __init__(self, format: Format = Format.TABLE) -> None:
        self.format = format

    def rows(self, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, empty: str) -> None:
        """A list. Table columns are upper-cased keys; `empty` says what to do when there is nothing yet."""
        if self.format is not Format.TABLE:
            self._data([dict(row) for row in rows])
        elif not rows:
            print(empty, file=sys.stderr)
        else:
            self._table(columns, rows)

    def item(self, item: Mapping[str, Any], *, line: str) -> None:
        """One thing: `line` for people, the item for programs."""
        if self.format is Format.TABLE:
            print(line)
        else:
            self._data(dict(item))

    def note(self, text: str) -> None:
        """Something that a person should know and a program need not: on stderr, with tables only."""
        if self.format is Format.TABLE:
            print(text, file=sys.stderr)

    def error(self, error: IsthmusError) -> None:
        """What went wrong, and what to do next."""
        if self.format is Format.TABLE:
            print(f"error: {error.message}", file=sys.stderr)
            if error.hint:
                print(f"  next: {error.hint}", file=sys.stderr)
        else:
            print(json.dumps({"error": error.as_dict()}), file=sys.stderr)

    def _data(self, data: object) -> None:
        if self.format is Format.JSON:
            print(json.dumps(data, indent=2))
        else:
            print(yaml.safe_dump(data, sort_keys=False), end="")

    def _table(self, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column.upper().replace("_", " "), overflow="fold")
        for row in rows:
            table.add_row(*(cell(row.get(column)) for column in columns))
        # Piped output is for grep: it is never wrapped or cut.
        console = Console(highlight=False, markup=False)
        Console(highlight=False, markup=False, width=None if console.is_terminal else 500).print(table)


def cell(value: object) -> str:
    """A value as it stands in a table."""
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(cell(v) for v in value)
    return str(value)


def _remember(context: typer.Context, value: Format) -> Format:
    # Errors are printed outside of the command, where only the root context is known.
    context.find_root().ensure_object(dict)["format"] = value
    return value


OutputOption = Annotated[
    Format, typer.Option("-o", "--output", help="table, json or yaml", callback=_remember, show_default="table")
]
