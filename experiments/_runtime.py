"""What every experiment sets up before it computes."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from jaxnet.errors import InputError
from jaxnet.kernels import PRODUCTS, Product, product


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, unless JAX_COMPILATION_CACHE_DIR says otherwise."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(root / "jaxnet" / "xla"))


def choose_product(kernel: str) -> tuple[str, Product]:
    """Name and function of the sparse product asked for.

    Raises:
      InputError: it is not available here.
    """
    if kernel == "auto":
        kernel = "csr" if "csr" in PRODUCTS and jax.default_backend() == "cpu" else "dense"
    try:
        return kernel, product(kernel)
    except ValueError as error:
        raise InputError(f"--kernel {kernel}: {error}") from None
