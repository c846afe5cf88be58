"""What a study shows in the terminal: progress with the time left, what is being compiled, tables."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text


class Progress:
    """A bar with the time left, on stderr; silent where stderr is not a terminal.

    Use it as a context; ``total`` counts steps of any kind.
    """

    def __init__(self, total: float, label: str) -> None:
        console = Console(stderr=True)
        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            redirect_stdout=False,
        )
        self._task = self._bar.add_task(label, total=total, note="")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def advance(self, steps: float = 1, note: str | None = None) -> None:
        """Counts ``steps`` more as done and shows ``note`` behind the bar."""
        self._bar.advance(self._task, steps)
        if note is not None:
            self._bar.update(self._task, note=note)

    def update(self, done: float, note: str | None = None) -> None:
        """Sets how much is done (a continued run starts in the middle)."""
        self._bar.update(self._task, completed=done)
        if note is not None:
            self._bar.update(self._task, note=note)


@contextlib.contextmanager
def compiling(what: str) -> Iterator[None]:
    """Says on stderr what is being compiled and for how long; silent where that is no terminal."""
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("compiling {task.description}", markup=False), TimeElapsedColumn()
    live = console.is_terminal and not console._live_stack  # a bar may be running: rich shows one at a time
    with RichProgress(*columns, console=console, transient=True, disable=not live) as bar:
        bar.add_task(what, total=None)
        yield


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a table to stdout, every cell in full; plain aligned text where that is no terminal.

    ``None`` is shown as ``-``; numbers are aligned to the right, as given by ``str``.

    Raises:
      ValueError: a row has not as many cells as there are columns.
    """
    body = [list(row) for row in rows]
    for row in body:
        if len(row) != len(columns):
            raise ValueError(f"{len(columns)} columns need as many cells: {row}")
    cells = [["-" if cell is None else str(cell) for cell in row] for row in body]
    right = [_is_numeric(column) for column in zip(*body, strict=True)] if body else [False] * len(columns)
    console = Console()
    if console.is_terminal:
        table = Table(title=Text(title), title_justify="left")
        for name, at_right in zip(columns, right, strict=True):
            table.add_column(Text(name), justify="right" if at_right else "left", overflow="fold")
        for line in cells:
            table.add_row(*(Text(cell) for cell in line))
        console.print(table)
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = [title]
    for line in [list(columns), *cells]:
        padded = (
            cell.rjust(width) if at_right else cell.ljust(width)
            for cell, width, at_right in zip(line, widths, right, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
    lines.insert(2, "  ".join("-" * width for width in widths))
    encoding = sys.stdout.encoding or "utf-8"  # a sign the terminal does not know must not end a run
    print("\n".join(lines).encode(encoding, "replace").decode(encoding))


def _is_numeric(column: Iterable[object]) -> bool:
    cells = [cell for cell in column if cell is not None]
    for cell in cells:
        try:
            float(str(cell))
        except ValueError:
            return False
    return bool(cells)
