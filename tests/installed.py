"""What a wheel must do where there is no compiler and no checkout: run by ``make wheel``, not by pytest."""

from __future__ import annotations

import importlib.metadata
import importlib.resources

import jax
import numpy as np
import optax

import jaxnet
from jaxnet import info
from jaxnet.kernels import csr_library


def main() -> None:
    """Raises AssertionError for what is missing."""
    assert "site-packages" in str(jaxnet.__file__), jaxnet.__file__
    files = importlib.resources.files(jaxnet)
    for name in ("py.typed", "__init__.pyi", "lab/__init__.pyi", "lab/templates/document.md"):
        assert files.joinpath(name).is_file(), name
    assert csr_library.available(), csr_library.problem()
    packages = importlib.metadata.packages_distributions()
    assert set(packages["jaxnet"]) == {"jaxnet-sparse"} and "experiments" not in packages
    digits = jaxnet.data.load("digits")
    spec = jaxnet.NetworkSpec((64, 64, 32, 10), density=0.1, allocation="erdos-renyi")
    train, test = (jaxnet.lab.run.make_split(digits, part) for part in ("train", "test"))
    found = {}
    for kernel in ("dense", "csr"):
        task = jaxnet.Task(jaxnet.MLP(spec, jaxnet.kernels.product(kernel)))
        drawn = jaxnet.init(spec, key_mask=jax.random.key(0), key_init=jax.random.key(1))
        state = jaxnet.init_state(jaxnet.Net.of(*drawn, optax.adam(1e-2)))
        epoch = jax.jit(jaxnet.make_epoch(task))
        for number in range(5):
            state, _ = epoch(state, train, jax.random.key(2), np.int32(number))
        found[kernel] = float(jaxnet.evaluate(task, state.net.params, state.net.structure, test).accuracy)
    assert min(found.values()) > 0.7 and abs(found["csr"] - found["dense"]) < 0.05, found
    print(info.report())
    print(f"trained: {found}")


if __name__ == "__main__":
    main()
