"""What every experiment sets up before it computes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from experiments._options import BY_FINGERPRINT
from jaxnet import environment
from jaxnet.data import Dataset
from jaxnet.files import cache_folder, read_json, user_path
from jaxnet.kernels import product
from jaxnet.kernels.choice import choose
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.provenance import processors
from jaxnet.records import CONFIG, MAY_DIFFER, RunFolder
from jaxnet.sweep.memory import available_memory


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, unless JAX_COMPILATION_CACHE_DIR says otherwise."""
    # a cache that cannot be read or written costs compile time, nothing else
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        with contextlib.suppress(OSError):  # no home folder, no cache
            jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))


def use_all_processors() -> None:
    """Has JAX see a CPU as one device per processor, before it starts.

    Networks that are trained in one call are laid over the devices: then every part of a step runs
    on all processors, and not the sparse products alone. JAX_NUM_CPU_DEVICES says otherwise; samples
    lie on every device, so there are no more devices than the free memory has GiB.
    """
    if "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):  # JAX has started
        jax.config.update("jax_num_cpu_devices", min(processors(), max(1, available_memory() // 2**30)))


def resolve_kernel(
    kernel: str, spec: NetworkSpec, batch_size: int, num_seeds: int, out: str, resume: bool
) -> str:
    """Name of the sparse product for a run; ``auto`` is measured once for the task and remembered.

    A continued run keeps the product that it started with, so that it ends with
    the same bits whatever a new measurement would say.

    Raises:
      InputError: the product asked for is not available here, or a setting would change results.
    """
    environment.check()
    if kernel == "auto" and resume:
        stored = _stored_kernel(user_path(out) / CONFIG)
        kernel = stored or kernel
    if kernel == "auto":
        kernel = choose(spec.sizes, spec.density, batch_size, num_seeds, spec.allocation)
    product(kernel)
    return kernel


def open_folder(
    config: Any,
    dataset: Dataset,
    owns: Sequence[str],
    *,
    may_differ: Sequence[str] = (),
    leave_out: Sequence[str] = (),
) -> RunFolder:
    """Opens the folder of a run; see :meth:`jaxnet.records.RunFolder.open`.

    Where the data lie does not change the results; which data they are does.

    Args:
      config: the flags.
      dataset: the data.
      owns: files that the run draws besides its records.
      may_differ: flags that a continued run may change, besides the usual ones.
      leave_out: flags that are not to be stored.
    """
    flags = {**dataclasses.asdict(config), "data_fingerprint": dataset.fingerprint}
    flags = {name: value for name, value in flags.items() if name not in leave_out}
    return RunFolder.open(
        config.out,
        flags,
        resume=config.resume,
        overwrite=config.overwrite,
        may_differ=(*MAY_DIFFER, "data_dir", *may_differ),
        only_stored=BY_FINGERPRINT,
        owns=owns,
    )


def _stored_kernel(path: Path) -> str | None:
    if not path.exists():
        return None
    config = read_json(path)
    kernel = config.get("kernel") if isinstance(config, dict) else None
    return kernel if isinstance(kernel, str) else None
