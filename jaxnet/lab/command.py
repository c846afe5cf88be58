"""The command line of a study: flags from a frozen dataclass, errors in one line.

Cyclopts reads the line: it knows flags from values, suggests the flag that was meant and
writes ``--help``. What a value may be follows from the annotation of its field::

    seeds: int                            --seeds 8
    time_limit: float | None              --time-limit 300, --time-limit none
    sizes: tuple[int, ...]                --sizes 784,256,128,10
    kernel: Literal["dense", "csr"]       --kernel csr
    resume: bool                          --resume, --no-resume
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import gc
import inspect
import math
import os
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from jaxnet.errors import InputError
from jaxnet.files import FULL, is_full, user_path
from jaxnet.lab.flags import flag_name, value_shown

C = TypeVar("C")


def parse(config_class: type[C], argv: Sequence[str] | None = None, **told: str | None) -> C:
    """Makes a configuration from the command line; see :func:`run_main`."""
    made: list[C] = []
    run_main(made.append, config_class, argv, **told)
    return made[0]


def run_main(
    main: Callable[[C], object],
    config_class: type[C],
    argv: Sequence[str] | None = None,
    *,
    description: str | None = None,
    prog: str | None = None,
) -> None:
    """Parses the command line and calls ``main(config)``; returns if that went well.

    ``config_class`` is a dataclass (:mod:`jaxnet.lab.flags`); ``argv`` are the arguments without the
    program's name, those of the process if ``None``; ``prog`` is this name and ``description`` a text
    for ``--help``, the docstring of ``config_class`` if ``None``.

    Raises:
      SystemExit: after one line on stderr. Code 2: wrong input, a file or disk
        that cannot be used, too little memory. Code 130: interrupted. Without a
        line: code 0 after ``--help``, 141 where the reader of the output went away.
    """
    gc.set_threshold(100_000, 20, 50)  # tracing makes much that stays: looking through it often takes seconds
    atexit.register(gc.freeze)  # what is left goes with the process: no last look through it either
    try:
        main(_parse(config_class, argv, description, prog))
        sys.stdout.flush()
    except KeyboardInterrupt:
        again = ": the same command with --resume continues" if hasattr(config_class, "resume") else ""
        _leave(f"interrupted{again}", 130)
    except BrokenPipeError:
        _drop_output()
        raise SystemExit(141) from None
    except Exception as error:
        line = _line(error)
        if line is None:
            raise
        if isinstance(error, OSError):
            _drop_output()  # it may be stdout itself that is full
        _leave(f"error: {line}", 2)


def _line(error: Exception) -> str | None:
    """The one line for an error that is not the program's fault; None for others."""
    if isinstance(error, InputError):
        return str(error)
    name = getattr(error, "filename", None)
    where = f"{name}: " if name is not None else ""
    if is_full(error):
        return f"{where}{FULL}"
    if isinstance(error, OSError):
        return f"{where}{error.strerror or error}"
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    ):
        return "out of memory: use fewer seeds at once, a smaller network or a smaller batch"
    return None


def _parse(config_class: type[C], argv: Sequence[str] | None, description: str | None, prog: str | None) -> C:
    import cyclopts

    if description is None:
        own = not (config_class.__doc__ or "").startswith(f"{config_class.__name__}(")  # dataclass makes one
        description = inspect.cleandoc(config_class.__doc__ or "").split("\n\n")[0] if own else None

    def found(**given: Any) -> dict[str, Any]:
        return given

    hints = typing.get_type_hints(config_class)
    flags = [
        _parameter(field, hints[field.name])
        for field in dataclasses.fields(config_class)  # type: ignore[arg-type]
        if field.init and field.metadata.get("cli", True)
    ]
    found.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
    told: dict[str, Any] = {"help": description or "", "help_format": "plaintext", "version_flags": []}
    app = cyclopts.App(name=prog, **told, result_action="return_value")
    app["--help"].group = cyclopts.Group("", show=False)
    app.default(found)
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        given = app(arguments, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        raise InputError(" ".join(str(error).split()).rstrip(".") + " (--help lists the flags)") from None
    if given is None:  # help was printed
        raise SystemExit(0)
    try:
        return getattr(config_class, "of_flags", config_class)(**given)
    except ValueError as error:  # a check of the library that the configuration calls
        raise InputError(str(error)) from error


def _parameter(field: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    import cyclopts

    meta = field.metadata
    none, unit = meta.get("none", "none"), f" [{meta['unit']}]" if meta.get("unit") else ""

    def read(_: Any, tokens: Sequence[Any]) -> Any:
        if len(tokens) > 1:
            raise ValueError(f"{flag_name(field.name)} is given more than once")
        return _value(hint, tokens[0].value, none)

    # a value may begin with a hyphen: -1e-3
    reading: dict[str, Any] = {"converter": read, "n_tokens": 1, "negative": (), "accepts_keys": False}
    one = cyclopts.Parameter(
        name=flag_name(field.name),
        help=f"{meta.get('help', '')}{unit}".strip(),
        show_default=lambda v: ("no", "yes")[v] if isinstance(v, bool) else value_shown(v, none),
        **({} if hint is bool else {**reading, "allow_leading_hyphen": True}),
    )
    default: Any = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    elif default is dataclasses.MISSING:
        default = inspect.Parameter.empty
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(field.name, kind, default=default, annotation=Annotated[hint, one])


def _value(hint: Any, text: str, none: str) -> Any:
    """A value of type ``hint`` from text; ValueError says what is wrong with it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if len(args) == 2 and type(None) in args:
        if text == none:
            return None
        try:
            return _value(args[args[0] is type(None)], text, none)
        except ValueError as error:
            raise ValueError(f"{error} (or {none})") from None
    if origin is Literal:
        by_text = {str(value): value for value in args}
        if text not in by_text:
            raise ValueError(f"{text!r} is not one of {', '.join(by_text)}")
        return by_text[text]
    if origin is tuple:
        parts = text.split(",") if text.strip() else []
        if args[-1] is Ellipsis:
            args = args[:1] * len(parts)
        if len(parts) != len(args):
            raise ValueError(f"{text!r} is not {len(args)} values with commas between")
        return tuple(_value(arg, part.strip(), none) for arg, part in zip(args, parts, strict=True))
    if hint in (str, Path):
        return text if hint is str else user_path(text)
    if hint not in (int, float):
        raise TypeError(f"no flag can be made for the type {hint}")
    try:
        value = hint(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a {'whole ' if hint is int else ''}number") from None
    if hint is float and not math.isfinite(value):
        raise ValueError(f"{text!r} is not a finite number")
    return value


def _leave(message: str, code: int) -> NoReturn:
    """Ends with one line on stderr, whatever the message holds."""
    try:
        print(" ".join(message.splitlines()), file=sys.stderr, flush=True)
    except OSError:
        _drop_output()
    raise SystemExit(code) from None


def _drop_output() -> None:
    """Points stdout to nowhere: flushing what it still holds at exit would fail once more."""
    # suppressed: a stdout without a file, or closed
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
