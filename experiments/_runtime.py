"""What every experiment sets up before it computes."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxnet.data import Dataset
from jaxnet.files import read_json
from jaxnet.kernels import product
from jaxnet.kernels.choice import choose
from jaxnet.network import NetworkSpec
from jaxnet.records import CONFIG, MAY_DIFFER, RunFolder


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, unless JAX_COMPILATION_CACHE_DIR says otherwise."""
    # a cache that cannot be read or written costs compile time, nothing else
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(root / "jaxnet" / "xla"))


def resolve_kernel(
    kernel: str, spec: NetworkSpec, batch_size: int, num_seeds: int, out: str, resume: bool
) -> str:
    """Name of the sparse product for a run; ``auto`` is measured once for the task and remembered.

    A continued run keeps the product that it started with, so that it ends with
    the same bits whatever a new measurement would say.

    Raises:
      InputError: the product asked for is not available here.
    """
    if kernel == "auto" and resume:
        stored = _stored_kernel(Path(out) / CONFIG)
        kernel = stored or kernel
    if kernel == "auto":
        kernel = choose(spec.sizes, spec.density, batch_size, num_seeds, spec.allocation)
    product(kernel)
    return kernel


def open_folder(config: Any, dataset: Dataset, owns: Sequence[str]) -> RunFolder:
    """Opens the folder of a run; see :meth:`jaxnet.records.RunFolder.open`.

    Where the data lie does not change the results; which data they are does.
    """
    flags = {**dataclasses.asdict(config), "data_fingerprint": dataset.fingerprint}
    return RunFolder.open(
        config.out,
        flags,
        resume=config.resume,
        overwrite=config.overwrite,
        may_differ=(*MAY_DIFFER, "data_dir"),
        owns=owns,
    )


def _stored_kernel(path: Path) -> str | None:
    if not path.exists():
        return None
    config = read_json(path)
    kernel = config.get("kernel") if isinstance(config, dict) else None
    return kernel if isinstance(kernel, str) else None
