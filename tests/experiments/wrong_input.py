"""Wrong input of a command: one line, exit code 2, nothing written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from jaxnet.lab import run_main


def assert_refused(
    main: Callable[[Any], Any], config: Any, flags: Sequence[str], said: str, out: Path, capsys: Any
) -> None:
    """The flags are refused in one line that says so, and the folder ``out`` does not come to be."""
    with pytest.raises(SystemExit) as left:
        run_main(main, config, [*flags, "--out", str(out)])
    error = capsys.readouterr().err
    assert left.value.code == 2 and said in error and len(error.splitlines()) == 1 and not out.exists()
