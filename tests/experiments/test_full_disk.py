"""A disk that fills up: one line, exit code 2, nothing lost, and the run goes on once there is room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.experiments.patched import quick_variables
from tests.experiments.small_runs import command, summaries


def rows(out: Path) -> dict[str, bytes]:
    """What was reported: rows as lines, parts of a table."""
    found = {
        path: path.read_bytes() for pattern in ("metrics.jsonl", "*.parquet") for path in out.rglob(pattern)
    }
    return {str(path.relative_to(out)): data for path, data in found.items() if not path.name.startswith(".")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hunt", "growth", "controls"])
def test_a_disk_that_fills_up_loses_nothing(
    name: str,
    tmp_path: Path,
    mount_disk: Callable[[int], Path],
    xla_cache: Path,
    run_python: Callable[..., Any],
) -> None:
    def run(out: Path) -> Any:
        module, flags = command(name, out)
        return run_python("-m", module, *flags, env=quick_variables(xla_cache), timeout=900)

    whole = run(tmp_path / "whole")
    assert (whole.returncode, whole.stderr) == (0, "")
    reported: list[dict[str, bytes]] = []
    for size in (64 * 2**k for k in range(20)):
        small_disk = mount_disk(size)
        done = run(small_disk / "out")
        if done.returncode == 0:
            break
        (line,) = done.stderr.splitlines()
        assert done.returncode == 2 and line.startswith(f"error: {small_disk}/out")
        assert line.endswith(": the disk is full: make room, then continue with --resume")
        reported.append(rows(small_disk / "out"))
    assert done.stderr == "" and len(reported) > 1 and any(reported), "it was full more than once"
    now = rows(small_disk / "out")
    for before in reported:
        assert all(now[file].startswith(data) for file, data in before.items())
    assert summaries(small_disk / "out") == summaries(tmp_path / "whole")
