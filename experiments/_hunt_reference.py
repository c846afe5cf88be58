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

from experiments._hunt_plan import ACTIVATION, Stage, epochs_of, first_densities, make_groups, make_jobs
from experiments._hunt_train import Trainer
from jaxnet.data import Dataset
from jaxnet.data.batches import Split, epoch_batches
from jaxnet.keys import INIT, MASK, key_of, purpose
from jaxnet.nn.mlp import MLP, NetworkSpec
from jaxnet.nn.params import to_masked_network
from jaxnet.sweep import Variant, draw_variant
from jaxnet.train import Batches, Net, Task, evaluate, train_batches
from jaxnet.types import Array, Key, Scalar


def masked_dense_accuracy(config: Any, dataset: Dataset, num_seeds: int, *, at_once: int = 16) -> list[float]:
    """Accuracy of the first seeds of a hunt of one architecture and density, as masked dense networks.

    On the samples that the hunt's rows judge by; ``at_once`` networks per call.
    """
    trainer, seeds = (
        Trainer(config, dataset.fingerprint, dataset),
        range(config.seed, config.seed + num_seeds),
    )
    stage = Stage("reference", 0, epochs_of(config, "single"), first_densities(config))
    (job,), _ = make_jobs(stage, make_groups(config, dataset), seeds, config)
    family, optimizer = job.grid.family(), optax.adam(config.lr)
    task = Task(MLP(NetworkSpec(family.sizes, 1.0, ACTIVATION)), config.batch_size)
    train, judged, _ = trainer.splits

    def run(key: Key, key_data: Key, variant: Variant, train: Split, judged: Split) -> Scalar:
        keys = {"key_mask": purpose(key, MASK), "key_init": purpose(key, INIT)}
        drawn = draw_variant(family, variant, trainer.bench.config.draw, **keys)
        start = Net.of(*to_masked_network(*drawn), optimizer)

        def epoch(net: Net, number: Array) -> tuple[Net, None]:
            order = epoch_batches(train.size, config.batch_size, jax.random.fold_in(key_data, number))
            return train_batches(task, net, train, Batches(*order), samples=train.size)[0], None

        net, _ = jax.lax.scan(epoch, start, jnp.arange(stage.epochs, dtype=jnp.int32))
        return evaluate(task, net.params, net.structure, judged).accuracy

    program = jax.jit(jax.vmap(run, in_axes=(0, None, 0, None, None)))
    found: list[float] = []
    for first in range(0, num_seeds, at_once):
        keys, variants = job.grid.inputs([min(i, num_seeds - 1) for i in range(first, first + at_once)])
        accuracy = program(keys, key_of(config.data_seed), variants, train, judged)
        found += np.asarray(accuracy).tolist()
    return found[:num_seeds]
