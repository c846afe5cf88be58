"""What is measured of the arms of ``experiments.level_transformer``."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import losses
from jaxnet.levels import kept_bytes, matmul_flops, num_params
from jaxnet.levels.gluing import disagreement
from jaxnet.train import Task, evaluate
from jaxnet.train.batch import batch_loss
from jaxnet.types import Array, Scalar


def spread_over(size: int, number: int) -> np.ndarray:
    """The places of ``number`` of ``size`` windows, evenly over all: the first ones may be of one file.

    >>> spread_over(10, 4).tolist()
    [0, 2, 5, 7]
    """
    return np.arange(number, dtype=np.int64) * size // number


def judgements(looks: int, fair: float) -> list[tuple[str, int, float]]:
    """What is judged after which look, and by which share it takes the place of what was judged before.

    At equal products a network is between two looks, where its loss is taken for linear: rounded to a look,
    it would be up to half a look ahead or behind, which is as much as arms differ by.

    >>> judgements(20, 19.25)
    [('steps', 20, 1.0), ('flops', 19, 1.0), ('flops', 20, 0.25)]
    """
    before = int(fair)
    after = [("flops", before + 1, fair - before)] if fair > before else []
    return [("steps", looks, 1.0), ("flops", before, 1.0), *after]


def judge(task: Task, params: Any, structure: Any, parts: Any, text: Any) -> dict[str, Array]:
    """Loss and accuracy on every part (test text, suites, controls), ``(part,)``; disagreement on a text."""

    def one(data: Any) -> tuple[Scalar, Scalar]:
        found = evaluate(task, params, structure, data)
        return found.loss, found.accuracy

    loss, right = jax.lax.map(one, parts)
    module: Any = task.model
    apart = disagreement(module.module, params, text.batch(jnp.arange(text.size))[0])
    return {"loss": loss, "right": right, "apart": jnp.mean(apart)}


class Cost(NamedTuple):
    """Of one network: parameters; products of a step of training, in FLOPs; bytes kept for going back."""

    params: int
    flops: float
    kept: int

    @classmethod
    def of(cls, config: Any, arm: Any, spec: Any) -> Cost:
        """Of a step with the batch of the flags: the mean over the phases, the most memory of any."""
        found = [
            (_step(arm, one, config.batch_size), steps) for one, steps in arm.trained(spec, config.steps)
        ]
        flops = sum(flops * steps for (flops, _), steps in found) / config.steps
        return cls(num_params(arm.module(spec)), flops, max(kept for (_, kept), _ in found))


@lru_cache(256)
def _step(arm: Any, spec: Any, batch_size: int) -> tuple[int, int]:
    task = arm.task(spec, batch_size)
    tokens = jnp.zeros((batch_size, spec.length), jnp.int32)
    labels = losses.TokenLabels(tokens, jnp.ones(tokens.shape))
    net = jax.eval_shape(lambda key: arm.model(spec).init(tokens[:1], key=key), jax.random.key(0))

    # what a look gives is made between steps, not in them
    seen = jax.eval_shape(lambda params: arm.carried(spec, params, 1.0, 1.0), net[0])
    carried = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), seen)

    def loss(params: Any) -> Scalar:
        return batch_loss(task, params, net[1], carried, tokens, labels, jnp.ones(batch_size), None)[0]

    return matmul_flops(jax.value_and_grad(loss), net[0]), kept_bytes(loss, net[0])
