"""Fixtures of the experiments' tests: compiled programs shared by a session, runs shared by tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.experiments.patched import Finished, Runner


@pytest.fixture(scope="session")
def xla_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for compiled programs, common to all workers of a session."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "xla-cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def patched(tmp_path_factory: pytest.TempPathFactory, xla_cache: Path) -> Runner:
    """Runs ``experiments.patched_density`` in this process: ``patched("name", density=0.3)``."""
    return Runner(tmp_path_factory.mktemp("patched"), xla_cache)


@pytest.fixture(scope="session")
def base(patched: Runner) -> Finished:
    """The small run as it is; not to be changed by tests."""
    return patched("base")
