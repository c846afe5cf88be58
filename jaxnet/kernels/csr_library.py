"""Finds and loads the compiled sparse product, if it was built.

Importing this module loads the library and registers its handlers with JAX;
neither starts a backend. What went wrong, if anything, is kept as one line.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnet.errors import InputError

PRODUCT = "jaxnet_csr_product"
VALUES_GRADIENT = "jaxnet_csr_values_gradient"
TRANSPOSE = "jaxnet_csr_transpose"
INPUT_GRADIENT = "jaxnet_csr_input_gradient"
SELECT = "jaxnet_csr_select"
SORT = "jaxnet_csr_sort"
FIND = "jaxnet_csr_find"
MOVE = "jaxnet_csr_move"

_VERSION = 4  # of the library's functions; csr.cc has the same number
_REBUILD = "install jaxnet again with a C++17 compiler (g++ or clang++) at hand"


def _load() -> tuple[ctypes.CDLL | None, str]:
    """Loads and registers the library; returns it, or ``None`` and why not."""
    if os.environ.get("JAXNET_CSR_ISA") == "none":
        return None, "JAXNET_CSR_ISA=none turns it off"
    try:
        spec = importlib.util.find_spec("jaxnet.kernels._csr")
        if spec is None or spec.origin is None:
            return None, f"it was not built: {_REBUILD}"
        library = ctypes.CDLL(spec.origin)
        version = library.jaxnet_csr_version()
        if version != _VERSION:
            return None, f"it was built from another version ({version}, not {_VERSION}): {_REBUILD}"
        # XLA would find out when it starts, and then leave the process without any CPU device.
        built = (library.jaxnet_csr_xla_ffi_major(), library.jaxnet_csr_xla_ffi_minor())
        installed = _xla_ffi()
        if installed is not None and built > installed:
            return None, (
                "it was built against a newer jaxlib than the one installed "
                f"(its calls have version {_dotted(built)}, not {_dotted(installed)}): upgrade jax, or "
                "install jaxnet again with setuptools and jaxlib there and --no-build-isolation"
            )
        library.jaxnet_csr_instruction_set.restype = ctypes.c_char_p
        library.jaxnet_csr_set_max_threads.argtypes = [ctypes.c_int64]
        library.jaxnet_csr_set_max_threads.restype = None
        for name in (PRODUCT, VALUES_GRADIENT, TRANSPOSE, INPUT_GRADIENT, SELECT, SORT, FIND, MOVE):
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
        return library, ""
    except Exception as error:  # an optional part must never stop the import, whatever is wrong with it
        return None, f"it does not load ({' '.join(str(error).split())}): {_REBUILD}"


def _xla_ffi() -> tuple[int, int] | None:
    """Version of the calls that the installed jaxlib takes, as its headers have it; ``None`` without them."""
    try:
        header = (Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h").read_text(encoding="utf-8")
    except OSError:
        return None
    found = [re.search(rf"^#define XLA_FFI_API_{part} (\d+)", header, re.M) for part in ("MAJOR", "MINOR")]
    major, minor = (int(match[1]) if match else None for match in found)
    return None if major is None or minor is None else (major, minor)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


_LIBRARY, _PROBLEM = _load()


def available() -> bool:
    """Whether the compiled sparse product is there."""
    return _LIBRARY is not None


def problem() -> str:
    """Why it is not there and what to do, as one line; empty if it is there."""
    return _PROBLEM


def require() -> ctypes.CDLL:
    """Returns the library.

    Raises:
      InputError: it is not there.
    """
    if _LIBRARY is None:
        raise InputError(f"the csr kernel is not available: {_PROBLEM}; or choose the dense kernel")
    return _LIBRARY


def on_cpu(
    handler: str,
    result: jax.ShapeDtypeStruct,
    otherwise: Callable[..., Any],
    *operands: Any,
    **attributes: np.int32,
) -> Any:
    """What a handler of the library gives on a CPU, where it is there; elsewhere the same by other means.

    Args:
      handler: its name.
      result: its shape and type for one network.
      otherwise: of the same operands.
      operands: arrays; ``vmap`` hands over those it does not map once for all.
      attributes: of the handler.
    """

    def compiled(*operands: Any) -> Any:
        return jax.ffi.ffi_call(handler, result, vmap_method="expand_dims")(*operands, **attributes)

    if not available():
        return otherwise(*operands)
    return jax.lax.platform_dependent(*operands, cpu=compiled, default=otherwise)


def instruction_set() -> str:
    """The instruction set in use: avx512, avx2, sse2, neon or generic.

    The environment variable ``JAXNET_CSR_ISA`` chooses a smaller one at the
    start of the program; ``none`` turns the kernel off. Results differ between instruction sets by rounding.

    Raises:
      InputError: the library is not there.
    """
    name: bytes = require().jaxnet_csr_instruction_set()
    return name.decode()


def set_max_threads(count: int) -> None:
    """Limits the threads of one call from now on; 0 takes all of XLA's.

    At the start the limit is that of the environment variable
    ``JAXNET_NUM_THREADS``. Results do not depend on the number of threads.

    Raises:
      InputError: the library is not there.
      ValueError: ``count`` is negative.
    """
    if count < 0:
        raise ValueError(f"the number of threads must be 0 (no limit) or more: {count}")
    require().jaxnet_csr_set_max_threads(count)
