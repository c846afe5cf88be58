"""Fixtures of the experiments' tests: compiled programs shared by a session, runs shared by tests."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxnet.store import checkpoint
from tests.experiments.hunts import Hunted, Hunter
from tests.experiments.patched import Finished, Runner

checkpoint.OVERHEAD = math.inf  # a checkpoint after every epoch, however short


@pytest.fixture(scope="session")
def xla_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for compiled programs, common to all workers of a session."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "xla-cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def skewed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """600 samples of 32 features in 5 classes, class 0 about 58 %: a NaN network answers 0 and seems good."""
    draw = np.random.default_rng(0)
    y = np.where(draw.random(600) < 0.55, 0, draw.integers(0, 5, 600))
    x = (draw.normal(size=(5, 32))[y] + draw.normal(size=(600, 32))).astype(np.float32)
    path = tmp_path_factory.mktemp("skewed") / "i.npz"
    np.savez(path, x_train=x[:480], y_train=y[:480], x_test=x[480:], y_test=y[480:])
    return str(path)


@pytest.fixture(scope="session")
def patched(tmp_path_factory: pytest.TempPathFactory, xla_cache: Path) -> Runner:
    """Runs ``experiments.patched_density`` in this process: ``patched("name", density=0.3)``."""
    return Runner(tmp_path_factory.mktemp("patched"), xla_cache)


@pytest.fixture(scope="session")
def base(patched: Runner) -> Finished:
    """The small run as it is; not to be changed by tests."""
    return patched("base")


@pytest.fixture(scope="session")
def hunter(tmp_path_factory: pytest.TempPathFactory, xla_cache: Path) -> Hunter:
    """Runs ``experiments.seed_hunt`` in this process: ``hunter("name", num_seeds=3)``."""
    return Hunter(tmp_path_factory.mktemp("hunt"), xla_cache)


@pytest.fixture(scope="session")
def hunted(hunter: Hunter) -> Hunted:
    """The small hunt as it is; not to be changed by tests."""
    return hunter("base")


@pytest.fixture
def copy_of_hunted(hunted: Hunted, tmp_path: Path) -> Path:
    """A copy of the finished hunt, to be damaged."""
    copy = tmp_path / "copy"
    shutil.copytree(hunted.folder, copy)
    return copy
