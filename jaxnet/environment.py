"""Settings of JAX that would change results without a word: they do not matter, or what trains refuses them.

A seed stands for a network on every machine. Keys are of one implementation
whatever ``JAX_DEFAULT_PRNG_IMPL`` says (:mod:`jaxnet.keys`) and products name their
precision, so those settings do not matter. What does is asked for by
:func:`check`, which everything that draws or trains calls first.
"""

from __future__ import annotations

import functools

import jax
import numpy as np

from jaxnet.errors import InputError
from jaxnet.keys import key_of

_DRAWN = (4070199207, 4202968722, 1427181096)
"""The first bits of seed 0, as every release so far draws them."""


def check() -> None:
    """Refuses settings under which a seed would give another network.

    Raises:
      InputError: 64-bit mode is on, random bits are drawn in the old order or shifted,
        this release draws other bits, or the backend that was asked for is not there.
    """
    if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise InputError(
            "JAX_ENABLE_X64 is set: networks are trained in float32 and would not be the same: unset it "
            "(for an analysis in float64 use `with jax.enable_x64():` around it)"
        )
    if not jax.config.jax_threefry_partitionable:  # type: ignore[attr-defined]
        raise InputError(
            "JAX_THREEFRY_PARTITIONABLE=0 draws other random bits, so that seeds stand for other "
            "networks: unset it"
        )
    if jax.config.jax_random_seed_offset:  # type: ignore[attr-defined]
        raise InputError(
            "JAX_RANDOM_SEED_OFFSET moves all seeds, so that they stand for other networks: unset it"
        )
    _check_backend()


@functools.cache
def _check_backend() -> None:
    try:
        jax.devices()
        with jax.ensure_compile_time_eval():  # an epoch may be made inside a function that is traced
            bits = np.asarray(jax.random.bits(key_of(0), (3,), np.uint32)).tolist()
    except (RuntimeError, AssertionError) as error:  # the latter where a backend is there without its devices
        raise InputError(
            f"JAX does not find the backend asked for ({' '.join(str(error).split()) or 'none is there'}): "
            "set JAX_PLATFORMS=cpu or unset it"
        ) from error
    if bits != list(_DRAWN):
        raise InputError(
            f"JAX {jax.__version__} draws other random bits than those that seeds stand for: "
            "use a release that pyproject.toml allows"
        )
