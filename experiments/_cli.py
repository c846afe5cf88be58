"""The command line of an experiment: flags from a frozen dataclass, errors in one line.

A field becomes a flag, its annotation decides what the flag takes::

    @dataclass(frozen=True)
    class Config:
        seeds: int = field(default=64, metadata={"help": "networks trained at once"})
        time_limit: float | None = field(default=None, metadata={"help": "stop after", "unit": "s"})
        sizes: tuple[int, ...] = (784, 256, 128, 10)      # --sizes 784,256,128,10
        kernel: Literal["dense", "csr"] = "dense"         # --kernel csr
        resume: bool = False                              # --resume, --no-resume

Metadata: ``help``; ``unit``; ``none``, the word that stands for ``None``
("none" unless given, for instance "auto"); ``nonfinite=True`` to allow nan and
inf; ``cli=False`` for a field without a flag. Ranges are checked by the
configuration itself, in ``__post_init__``, with an ``InputError``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import inspect
import math
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from jaxnet.errors import InputError
from jaxnet.files import user_path

C = TypeVar("C")


def parse(
    config_class: type[C],
    argv: Sequence[str] | None = None,
    *,
    description: str | None = None,
    prog: str | None = None,
) -> C:
    """Makes a configuration from the command line; ``--help`` prints and exits with code 0.

    Args:
      config_class: a dataclass as described above.
      argv: the arguments without the program's name; those of the process if ``None``.
      description: for ``--help``; the docstring of ``config_class`` if ``None``.
      prog: name of the program for ``--help``.

    Raises:
      SystemExit: with code 2 after one line ``error: ...`` on stderr.
    """
    try:
        return _parse(config_class, argv, description, prog)
    except InputError as error:
        _report(f"error: {error}")
        raise SystemExit(2) from None


def run_main(
    main: Callable[[C], object],
    config_class: type[C],
    argv: Sequence[str] | None = None,
    *,
    description: str | None = None,
    prog: str | None = None,
) -> None:
    """Parses the command line and calls ``main(config)``; returns if that went well.

    Raises:
      SystemExit: after one line on stderr. Code 2: wrong input, a file or disk
        that cannot be used, too little memory. Code 130: interrupted. Code 141,
        without a line: the reader of the output went away.
    """
    try:
        main(parse(config_class, argv, description=description, prog=prog))
        sys.stdout.flush()
    except InputError as error:
        _leave(f"error: {error}", 2)
    except KeyboardInterrupt:
        names = {f.name for f in dataclasses.fields(config_class)}  # type: ignore[arg-type]
        again = ": the same command with --resume continues" if "resume" in names else ""
        _leave(f"interrupted{again}", 130)
    except BrokenPipeError:
        _drop_output()
        raise SystemExit(141) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        _drop_output()  # it may be stdout itself that is full
        _leave(f"error: {where}{error.strerror or error}", 2)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _leave("error: out of memory: use fewer seeds at once, a smaller network or a smaller batch", 2)


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


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises its errors."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message.removeprefix("argument ").replace("the following arguments are", "flags"))


def _parse(config_class: type[C], argv: Sequence[str] | None, description: str | None, prog: str | None) -> C:
    if description is None:
        own = not (config_class.__doc__ or "").startswith(f"{config_class.__name__}(")  # dataclass makes one
        description = inspect.cleandoc(config_class.__doc__ or "").split("\n\n")[0] if own else None
    parser = _Parser(prog=prog, description=description, allow_abbrev=False)
    hints = typing.get_type_hints(config_class)
    takes_value = set()
    for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
        if field.init and field.metadata.get("cli", True):
            _add_flag(parser, field, hints[field.name])
            if hints[field.name] is not bool:
                takes_value.add(flag_name(field.name))
    known = [flag for action in parser._actions for flag in action.option_strings]
    arguments = _joined(sys.argv[1:] if argv is None else list(argv), takes_value, set(known) - takes_value)
    namespace, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise InputError(_unknown(unknown[0], known))
    try:
        return config_class(**vars(namespace))
    except InputError:
        raise
    except ValueError as error:  # a check of the library that the configuration calls
        raise InputError(str(error)) from error


def _joined(arguments: list[str], takes_value: set[str], switches: set[str]) -> list[str]:
    """Joins a flag and its value by ``=``, so that ``-1e-3`` or ``-inf`` is not taken for a flag."""
    joined: list[str] = []
    seen = set()
    rest = iter(arguments)
    for argument in rest:
        flag = argument.split("=", 1)[0]
        if flag in switches and flag != argument:
            raise InputError(f"{flag} takes no value: give {flag} alone")
        if flag in takes_value:
            if flag in seen:
                raise InputError(f"{flag} is given twice: give it once")
            seen.add(flag)
        if argument in takes_value:
            value = next(rest, None)
            if value is None or value.startswith("--"):
                raise InputError(f"{flag} needs a value: --help shows which")
            argument = f"{argument}={value}"
        joined.append(argument)
    return joined


def _unknown(argument: str, known: list[str]) -> str:
    flag = argument.split("=", 1)[0]
    if not flag.startswith("-"):
        return f"unexpected argument {argument!r}: every value follows its flag; --help lists the flags"
    near = difflib.get_close_matches(flag, known, n=1) or [f for f in known if f.startswith(flag)][:1]
    return f"unknown flag {flag}: " + (f"did you mean {near[0]}? " if near else "") + "--help lists the flags"


def _add_flag(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], hint: Any) -> None:
    default: Any = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    required = default is dataclasses.MISSING
    none = str(field.metadata.get("none", "none"))
    unit = f" [{field.metadata['unit']}]" if field.metadata.get("unit") else ""
    tail = "(required)" if required else f"(default: {_shown(default, none)})"
    options: dict[str, Any] = {
        "dest": field.name,
        "required": required,
        # argparse reads % as the start of a format
        "help": f"{field.metadata.get('help', '')}{unit} {tail}".strip().replace("%", "%%"),
    }
    if hint is bool:
        parser.add_argument(flag_name(field.name), action=argparse.BooleanOptionalAction, **options)
        if not required:  # given above, Python 3.11 and 3.12 would write it into the help once more
            parser.set_defaults(**{field.name: default})
        return
    if not required:
        options["default"] = default
    convert, placeholder = _converter(hint, none, bool(field.metadata.get("nonfinite", False)))
    parser.add_argument(flag_name(field.name), type=convert, metavar=placeholder, **options)


def flag_name(name: str) -> str:
    """The flag of a field: ``--num-seeds`` for ``num_seeds``."""
    return "--" + name.replace("_", "-")


def _shown(value: Any, none: str) -> str:
    if value is None:
        return none
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _converter(hint: Any, none: str, nonfinite: bool) -> tuple[Callable[[str], Any], str]:
    """The function that reads a value of type ``hint`` from text, and its placeholder in --help."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType) and len(args) == 2 and type(None) in args:
        inner, placeholder = _converter(args[args[0] is type(None)], none, nonfinite)

        def optional(text: str) -> Any:
            if text == none:
                return None
            try:
                return inner(text)
            except argparse.ArgumentTypeError as error:
                raise argparse.ArgumentTypeError(f"{error} (or {none})") from None

        return optional, f"{placeholder}|{none}"
    if origin is Literal:

        def choice(text: str) -> Any:
            for value in args:
                if str(value) == text:
                    return value
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(map(str, args))}")

        return choice, "|".join(map(str, args))
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        inner, placeholder = _converter(args[0], none, nonfinite)

        def several(text: str) -> Any:
            return tuple(inner(part.strip()) for part in text.split(",")) if text.strip() else ()

        return several, f"{placeholder},..."
    if origin is tuple and args:
        parts = [_converter(arg, none, nonfinite) for arg in args]

        def fixed(text: str) -> Any:
            given = text.split(",")
            if len(given) != len(parts):
                raise argparse.ArgumentTypeError(f"{text!r} is not {len(parts)} values with commas between")
            return tuple(part[0](one.strip()) for part, one in zip(parts, given, strict=True))

        return fixed, ",".join(part[1] for part in parts)
    if hint is int:
        return _integer, "INT"
    if hint is float:
        return (lambda text: _real(text, nonfinite)), "FLOAT"
    if hint is str:
        return str, "TEXT"
    if hint is Path:
        return _path, "PATH"
    raise TypeError(f"no flag can be made for the type {hint}")


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _real(text: str, nonfinite: bool) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not math.isfinite(value) and not nonfinite:
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def _path(text: str) -> Path:
    try:
        return user_path(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _report(message: str) -> None:
    """Prints one line on stderr, whatever the message holds."""
    try:
        print(" ".join(message.splitlines()), file=sys.stderr, flush=True)
    except OSError:
        _drop_output()


def _leave(message: str, code: int) -> NoReturn:
    _report(message)
    raise SystemExit(code) from None


def _drop_output() -> None:
    """Points stdout to nowhere: flushing what it still holds at exit would fail once more."""
    with contextlib.suppress(OSError, ValueError):  # a stdout without a file, or closed
        target = sys.stdout.fileno()
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, target)
        os.close(devnull)
