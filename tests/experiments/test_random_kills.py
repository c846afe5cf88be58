"""Every experiment, killed five times in a row at random moments, ends with the undisturbed summary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.experiments.patched import quick_variables
from tests.experiments.small_runs import RUNS, summaries


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_killed_five_times_it_ends_the_same(
    name: str, tmp_path: Path, xla_cache: Path, run_python: Callable[..., Any]
) -> None:
    environment = quick_variables(xla_cache)
    command = "-m", "tests.experiments.small_runs", name, str(tmp_path)
    done = run_python(*command, env=environment, devices=2, timeout=999)
    assert (done.returncode, done.stderr) == (0, "")
    assert summaries(tmp_path / "killed") == summaries(tmp_path / "whole") == summaries(tmp_path / "again")
