"""The reference of a hunt: the same networks as dense matrices times their masks, all weights in Adam.

Nothing of the sparse representation is used in training: not its products, not
its optimiser state, not the part that is live. Masks, initial values and the
order of the samples are those of the hunt.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._hunt_plan import Stage, make_jobs
from experiments._hunt_setup import ACTIVATION, Rules, inputs, make_groups, make_splits
from experiments.seed_hunt import Config
from jaxnet import data, losses
from jaxnet.network import NetworkSpec, Params, forward, to_masked_network
from jaxnet.sweep import DrawRules, Member, draw_member
from jaxnet.train import Split, Task, epoch_batches, evaluate
from jaxnet.types import Array, Key, Scalar


def masked_dense_accuracy(
    config: Config, dataset: data.Dataset, num_seeds: int, *, at_once: int = 16
) -> list[float]:
    """Accuracy of the first seeds of a hunt, trained as masked dense networks.

    Args:
      config: of the hunt; one architecture and density, common order.
      dataset: its samples.
      num_seeds: how many of its seeds.
      at_once: networks per call.

    Returns:
      On the samples that the hunt's rows judge by.
    """
    rules = Rules.of(config.protocol)
    stage = Stage("reference", 0, config.epochs or 5, config.densities or (0.02,))
    seeds = range(config.seed, config.seed + num_seeds)
    (job,), _ = make_jobs(stage, make_groups(config, dataset), seeds, rules.mask)
    family, draw = job.family(), DrawRules(rules.mask, rules.init, ACTIVATION)
    spec = NetworkSpec(family.sizes, 1.0, ACTIVATION)
    train, judged, _ = make_splits(config, dataset)
    optimizer = optax.adam(config.lr)

    def run(key: Key, key_data: Key, member: Member, train: Split, judged: Split) -> Scalar:
        key_mask, key_init = (jax.random.fold_in(key, purpose) for purpose in (0, 1))
        params, structure = to_masked_network(
            *draw_member(family, member, draw, key_mask=key_mask, key_init=key_init)
        )

        def step(carry: tuple[Params, Any], batch: tuple[Array, Array]) -> tuple[tuple[Params, Any], None]:
            params, opt_state = carry
            x, y = train.batch(batch[0])

            def loss(p: Params) -> Scalar:
                return losses.cross_entropy(forward(spec, p, structure, x)[0], y, batch[1])

            with jax.numpy_dtype_promotion("standard"):
                updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
                return (optax.apply_updates(params, updates), opt_state), None

        def epoch(carry: tuple[Params, Any], number: Array) -> tuple[tuple[Params, Any], None]:
            key_order = jax.random.fold_in(key_data, number)
            return jax.lax.scan(step, carry, epoch_batches(train.size, config.batch_size, key_order))

        start = params, optimizer.init(params)
        (params, _), _ = jax.lax.scan(epoch, start, jnp.arange(stage.epochs, dtype=jnp.int32))
        return evaluate(Task(spec), params, structure, judged).accuracy

    program = jax.jit(jax.vmap(run, in_axes=(0, None, 0, None, None)))
    found: list[float] = []
    for first in range(0, num_seeds, at_once):
        some = [min(i, num_seeds - 1) for i in range(first, first + at_once)]
        keys, members = inputs(job, some)
        accuracy = np.asarray(program(keys, jax.random.key(config.data_seed), members, train, judged))
        found += accuracy.tolist()
    return found[:num_seeds]
