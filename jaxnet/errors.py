"""The one error a user sees: one clear line that says what, where and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable


class InputError(ValueError):
    """Wrong input from outside: a flag, a file, a folder.

    The message is a single line that says what is wrong, where, and which
    values or ways out there are. Experiment scripts print it and exit with
    code 2; nothing is left half-written.
    """


def check_choice(what: str, value: str, allowed: Iterable[str]) -> None:
    """Raises ValueError unless ``value`` is one of the names that ``what`` can have."""
    known = tuple(allowed)
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}: choose one of {', '.join(known)}")
