"""Decompositions of batches: equal to NumPy's, and one matrix at a time on a CPU."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import linalg


@pytest.fixture
def matrices() -> jax.Array:
    return jax.random.normal(jax.random.key(0), (2, 3, 5, 4))


def test_equal_to_numpy_over_leading_axes_and_under_vmap(matrices: jax.Array) -> None:
    wanted = np.linalg.svd(np.asarray(matrices), compute_uv=False)
    twice = jax.jit(jax.vmap(jax.vmap(linalg.singular_values)))
    for values in (linalg.singular_values(matrices), twice(matrices), jax.vmap(linalg.svd)(matrices)[1]):
        np.testing.assert_allclose(values, wanted, rtol=1e-5)
    u, s, v = linalg.svd(matrices)
    np.testing.assert_allclose((u * s[..., None, :]) @ v, matrices, atol=1e-5)

    gram = linalg.times(jnp.swapaxes(matrices, -1, -2), matrices)
    values, vectors = linalg.eigh(gram)
    np.testing.assert_allclose(vectors @ (values[..., None] * jnp.swapaxes(vectors, -1, -2)), gram, atol=1e-4)
    q = linalg.frame(matrices)
    np.testing.assert_allclose(
        q @ jnp.swapaxes(q, -1, -2), np.broadcast_to(np.eye(5), (2, 3, 5, 5)), atol=1e-5
    )
    right = jnp.ones((4, 2))
    x = jax.vmap(jax.vmap(linalg.solve, (0, None)), (0, None))(gram, right)  # the right side is shared
    np.testing.assert_allclose(gram @ x, np.broadcast_to(right, x.shape), atol=1e-3)


@pytest.mark.cpu
def test_no_decomposition_of_a_batch_runs_on_a_cpu(matrices: jax.Array) -> None:
    """Each waits on the thread pool for its parts; as many at once as the pool has threads never end."""

    def all_of_them(m: jax.Array) -> list[jax.Array]:
        gram = linalg.times(m.T, m)
        found = [linalg.singular_values(m), *linalg.svd(m), *linalg.eigh(gram), linalg.frame(m)]
        return [*found, linalg.solve(gram + jnp.eye(4), m.T)]

    def calls(f: object, platforms: list[str]) -> list[str]:
        text = jax.export.export(f, platforms=platforms)(matrices).mlir_module()  # type: ignore[arg-type]
        return re.findall(r"custom_call @(?:lapack|cusolver)\w*\(.*?: \(tensor<([0-9x]*)", text)

    one_by_one = calls(jax.jit(jax.vmap(jax.vmap(all_of_them))), ["cpu"])
    assert len(one_by_one) >= 5 and all(shape.count("x") == 2 for shape in one_by_one), one_by_one
    whole = calls(jax.jit(jax.vmap(jax.vmap(all_of_them))), ["cuda"])
    assert whole and all(shape.count("x") > 2 for shape in whole), whole
