"""What a study shows in the terminal: progress with the time left, what is being compiled, tables."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from rich import progress as bars
from rich.console import Console
from rich.table import Table
from rich.text import Text


@contextlib.contextmanager
def progress(total: float, label: str) -> Iterator[Callable[..., None]]:
    """A bar with the time left, on stderr; silent where that is no terminal.

    Gives a function that takes how much is ``completed`` (a continued run starts in the middle),
    or by how much to ``advance``, and a ``note`` to stand behind the bar.
    """
    console = Console(stderr=True)
    with bars.Progress(
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        "left",
        bars.TimeRemainingColumn(),
        bars.TextColumn("{task.fields[note]}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=False,
    ) as bar:
        yield functools.partial(bar.update, bar.add_task(label, total=total, note=""))


@contextlib.contextmanager
def compiling(what: str) -> Iterator[None]:
    """Says on stderr what is being compiled and for how long; silent where that is no terminal."""
    console = Console(stderr=True)
    text = bars.TextColumn("compiling {task.description}", markup=False)
    columns = bars.SpinnerColumn(), text, bars.TimeElapsedColumn()
    live = console.is_terminal and not console._live_stack  # a bar may be running: rich shows one at a time
    with bars.Progress(*columns, console=console, transient=True, disable=not live) as bar:
        bar.add_task(what, total=None)
        yield


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a table to stdout, every cell in full; plain aligned text where that is no terminal.

    ``None`` is ``-``; numbers are aligned to the right. ValueError: not as many cells as columns.
    """
    for row in (body := [list(row) for row in rows]):
        if len(row) != len(columns):
            raise ValueError(f"{len(columns)} columns need as many cells: {row}")
    cells = [["-" if cell is None else str(cell) for cell in row] for row in body]
    right = [_is_numeric(column) for column in zip(*body, strict=True)] or [False] * len(columns)
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
    for line in (list(columns), ["-" * width for width in widths], *cells):
        padded = (
            cell.rjust(width) if at_right else cell.ljust(width)
            for cell, width, at_right in zip(line, widths, right, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
    encoding = sys.stdout.encoding or "utf-8"  # a sign the terminal does not know must not end a run
    print("\n".join(lines).encode(encoding, "replace").decode(encoding))


def _is_numeric(column: Iterable[object]) -> bool:
    try:
        return bool([float(str(cell)) for cell in column if cell is not None])
    except ValueError:
        return False
