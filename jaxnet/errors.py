"""The one error a user sees: one clear line that says what, where and what is allowed."""

from __future__ import annotations


class InputError(ValueError):
    """Wrong input from outside: a flag, a file, a folder.

    The message is a single line that says what is wrong, where, and which
    values or ways out there are. Experiment scripts print it and exit with
    code 2; nothing is left half-written.
    """
