"""How the demo is shown: lines on a pipe, or on a terminal lines of what was done above a live table of the phases."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from clusters.load import Account
from clusters.progress import Progress
from clusters.stage import CALLER


class Quiet:
    """Says each step in a line on stderr; the result is printed by the caller."""

    def __init__(self) -> None:
        self._say = Progress()

    def step(self, text: str) -> None:
        self._say(text)

    def names(self, names: dict[str, list[str]]) -> None:
        self.step(", ".join(f"{name} is {' '.join(answers)}" for name, answers in names.items()))

    def phase(self, phase: Account, told: str) -> None:
        self.step(f"{phase.name}: {phase.requests} requests, {phase.failed} failed, by {phase.answered_by}: {told}")
        for error in phase.errors:
            self.step(f"  {error}")

    def live(self, name: str, requests: int, failed: int) -> None:
        """Nothing moves on a pipe."""


class Show:
    """A live table of the phases; above it a line for each step, below it the one that is under way."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=10, transient=False)
        self._spinner = Spinner("dots", "starting")
        self._began = time.monotonic()
        self._names: dict[str, list[str]] = {}
        self._phases: list[tuple[Account, str]] = []
        self._current: tuple[str, int, int] | None = None

    @contextmanager
    def on_screen(self) -> Iterator[None]:
        with self._live:
            self._draw()
            yield
            self._live.update(Group(*self._tables()))

    def step(self, text: str) -> None:
        self._current = None
        seconds = time.monotonic() - self._began
        self._live.console.print(f"{seconds:6.1f} s  {text}", style="dim", markup=False, highlight=False)
        self._spinner.update(text=text)
        self._draw()

    def names(self, names: dict[str, list[str]]) -> None:
        self._names = names
        self._draw()

    def phase(self, phase: Account, told: str) -> None:
        self._phases.append((phase, told))
        self._current = None
        self._draw()

    def live(self, name: str, requests: int, failed: int) -> None:
        self._current = (name, requests, failed)
        self._spinner.update(text="requests are running")
        self._draw()

    def _draw(self) -> None:
        self._live.update(Group(*self._tables(), self._spinner))

    def _tables(self) -> list[Any]:
        tables: list[Any] = []
        if self._names:
            names = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
            names.add_column("NAME")
            names.add_column(f"ITS ADDRESS IN {CALLER.upper()}")
            for name, answers in self._names.items():
                names.add_row(name, " ".join(answers))
            tables += [names, ""]
        phases = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("PHASE", "SECONDS", "REQUESTS", "FAILED", "ANSWERED BY", "SWITCH", "WHAT HAPPENED"):
            numbers = ("SECONDS", "REQUESTS", "FAILED", "SWITCH")
            phases.add_column(column, justify="right" if column in numbers else "left")
        for phase, told in self._phases:
            phases.add_row(
                phase.name,
                f"{phase.seconds:.1f}",
                str(phase.requests),
                f"[red]{phase.failed}[/red]" if phase.failed else "[green]0[/green]",
                " ".join(f"{cluster} {count}" for cluster, count in phase.answered_by.items()),
                "-" if phase.switch_ms is None else f"{phase.switch_ms:.0f} ms",
                told,
            )
        if self._current:
            name, requests, failed = self._current
            phases.add_row(name, "", str(requests), str(failed), "…", "", "")
        if self._phases or self._current:
            tables += [phases, ""]
        return tables
