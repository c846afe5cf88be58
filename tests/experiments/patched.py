"""Small runs of ``experiments.patched_density`` and how their results are read back."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from experiments.patched_density import STUDY, Config
from jaxnet.data import Dataset
from jaxnet.kernels import PRODUCTS
from jaxnet.lab.stages import Trained

SMALL: dict[str, Any] = {
    "sizes": (64, 24, 16, 10),
    "density": 0.2,
    "num_seeds": 3,
    "scaffold_epochs": 3,
    "patch_epochs": 3,
    # not auto: what is measured as the fastest may change, and the last bits with it
    "kernel": "csr" if "csr" in PRODUCTS else "dense",
}
"""Digits, in seconds: extrema of both kinds, two hidden layers."""


def cache_variables(cache: Path) -> dict[str, str]:
    """What makes a subprocess share compiled programs with this one."""
    return {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAXNET_CACHE_DIR": str(cache / "jaxnet"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def quick_variables(cache: Path) -> dict[str, str]:
    """The same for a subprocess that is compared with others like it: it compiles in half the time."""
    return {**cache_variables(cache), "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}


@contextlib.contextmanager
def compiling_once(cache: Path) -> Iterator[None]:
    """Keeps compiled programs in ``cache``, which tests of one session share, and nowhere else."""
    names = {
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": str(cache),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in names}
    # the first so that the experiment does not choose its own, the second for the choice of the kernel
    folders = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAXNET_CACHE_DIR": str(cache / "jaxnet")}
    try:
        for name, value in names.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        with mock.patch.dict(os.environ, folders):
            yield
    finally:
        for name, old in before.items():
            jax.config.update(name, old)
        compilation_cache.reset_cache()


class Finished:
    """A finished run: what it returned and what lies in its folder."""

    def __init__(
        self, folder: Path, config: Config, summary: dict[str, Any], scaffolds: dict[str, Trained]
    ) -> None:
        self.folder, self.config, self.returned, self.scaffolds = folder, config, summary, scaffolds

    @property
    def summary(self) -> dict[str, Any]:
        """``summary.json``."""
        return read_json(self.folder / "summary.json")

    @property
    def seeds(self) -> list[dict[str, Any]]:
        """The entries of the seeds."""
        return list(self.summary["seeds"])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """``metrics.jsonl``."""
        return read_rows(self.folder)

    def results(self) -> dict[str, Any]:
        """Everything that must be the same, bit for bit, whenever and wherever the run is done."""
        return results(self.folder)


class Runner:
    """Runs the experiment in this process, in folders below ``root``."""

    def __init__(self, root: Path, cache: Path) -> None:
        self.root, self.cache = root, cache

    def __call__(
        self,
        name: str,
        *,
        images: Dataset | None = None,
        scaffolds: dict[str, Trained] | None = None,
        **changes: Any,
    ) -> Finished:
        """Runs the small configuration with ``changes`` in the folder ``name``.

        ``images`` take the place of what would be loaded, ``scaffolds`` of what would be trained.
        """
        folder = self.root / name
        config = Config(**{**SMALL, "out": str(folder), **changes})
        with compiling_once(self.cache):
            summary, found = STUDY.compute(config, report=lambda line: None, dataset=images, given=scaffolds)
        return Finished(folder, config, summary, found.shared)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that knows no NaN."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{path} holds {word}, which is no JSON")

    value: dict[str, Any] = json.loads(path.read_text(), parse_constant=refuse)
    return value


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run, of which every line must be whole."""
    text = (folder / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def results(folder: Path) -> dict[str, Any]:
    """See :meth:`Finished.results`."""
    summary = read_json(folder / "summary.json")
    return {
        "rows": (folder / "metrics.jsonl").read_bytes(),
        "seeds": summary["seeds"],
        "aggregate": summary["aggregate"],
        "arrays": {path: array.tobytes() for path, array in arrays(folder).items()},
    }


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """The newest checkpoint by plain Orbax: path of the leaf -> array, leaves ``(seed, ...)``."""
    import orbax.checkpoint as ocp

    newest = max(p for p in (folder / "checkpoints").iterdir() if not p.name.endswith(".partial"))
    leaves = read_json(newest / "manifest.json")["leaves"]
    handler = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    names = [str(i) for i, leaf in enumerate(leaves) if 0 not in leaf["shape"]]
    plan = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
    stored = handler.restore((newest / "state").absolute(), ocp.args.PyTreeRestore(restore_args=plan))
    return {leaves[int(name)]["path"]: np.asarray(stored[name]) for name in names}


def contents(folder: Path) -> dict[str, str]:
    """Every file below ``folder`` and the hash of what it holds."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def as_flags(changes: dict[str, Any]) -> list[str]:
    """The small configuration with ``changes`` as command-line flags."""
    flags = []
    for name, value in {**SMALL, **changes}.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            flags += [flag] if value else []
        else:
            flags += [flag, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return flags


def shown_nan(text: str) -> list[str]:
    """Lines of a table or document that show what does not exist as NaN or None (a sentence may begin so)."""
    lines = (line for line in text.splitlines() if not line.startswith("python -m"))
    return [line for line in lines if re.search(r"\bnan\b|\bNone\b(?! \w)", line)]
