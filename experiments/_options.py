"""Fields of the experiments' configurations, and the checks of their values that all share.

Every check raises an ``InputError`` that names the flag and what was given.
A value of ``None`` (``auto``, ``none``) passes: it is decided later.
"""

from __future__ import annotations

import math
from dataclasses import field
from typing import Any

from experiments._cli import flag_name
from jaxnet.errors import InputError
from jaxnet.files import user_path

BY_FINGERPRINT = ("dataset",)
"""Flags in whose place the fingerprint of the data decides whether a run may be continued."""


def option(default: Any, help: str, unit: str | None = None, **more: Any) -> Any:
    """A field of a configuration with its text for ``--help``."""
    metadata = {"help": help, **more}
    return field(default=default, metadata=metadata if unit is None else {**metadata, "unit": unit})


def check_at_least(config: Any, **least: float) -> None:
    """Checks that every field named has at least this value."""
    for name, bound in least.items():
        value = getattr(config, name)
        if value is not None and value < bound:
            raise InputError(f"{flag_name(name)} must be at least {bound}: {value}")


def check_fractions(config: Any, *names: str) -> None:
    """Checks that these fields are above 0 and at most 1."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value <= 1:
            raise InputError(f"{flag_name(name)} must be above 0 and at most 1: {value}")


def check_positive(config: Any, *names: str) -> None:
    """Checks that these fields are finite and above 0."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(f"{flag_name(name)} must be above 0: {value}")


def check_seeds(config: Any) -> None:
    """Checks that the numbers of all seeds, 0 or more, fit into the 32 bits of a key."""
    if config.seed + config.num_seeds > 2**32 or config.data_seed >= 2**32:
        raise InputError("seeds must be below 2**32 (--seed, --num-seeds, --data-seed)")


def check_folder(config: Any) -> None:
    """Checks that ``--out`` names a folder, and that ``--resume`` and ``--overwrite`` are not both given."""
    if config.resume and config.overwrite:
        raise InputError("--resume and --overwrite exclude each other: continue the run or replace it")
    if not config.out.strip():
        raise InputError("--out must name a folder: it is empty")
    user_path(config.out)  # a home folder that is not known is refused before anything is loaded


def check_document(doc: str | None) -> None:
    """Checks that a document could be written there."""
    if doc is not None and not user_path(doc).parent.is_dir():
        raise InputError(f"--doc: the folder {user_path(doc).parent} does not exist")


def run_values(config: Any, name: str) -> dict[str, Any]:
    """What the configuration of a document hands to one of its runs, whose folder is called after it.

    Args:
      config: with the fields ``dataset``, ``data_dir``, ``kernel``, ``out``, ``resume`` and ``overwrite``.
      name: of the run; in the folder's name what is no letter or digit is a hyphen.
    """
    folder = "".join(c if c.isalnum() else "-" for c in name.encode("ascii", "ignore").decode().lower())
    handed = {key: getattr(config, key) for key in ("dataset", "data_dir", "kernel", "resume", "overwrite")}
    return {**handed, "out": str(user_path(config.out) / folder)}
