"""The reference of a sweep: the same networks as dense matrices times their masks, all weights in Adam.

Nothing of the sparse representation is used in training: not its products, not its optimiser
state, not the part that is live. Masks, initial values and the order of the samples are the sweep's.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.data.batches import Split, epoch_batches
from jaxnet.keys import network_keys
from jaxnet.nn.mlp import MLP, NetworkSpec
from jaxnet.nn.params import to_masked_network
from jaxnet.sweep.bench import Bench
from jaxnet.sweep.family import Variant, draw_variant
from jaxnet.sweep.grid import Grid
from jaxnet.train import Batches, Net, Task, evaluate, train_batches
from jaxnet.types import Array, Key, Scalar


def masked_dense_accuracy(
    bench: Bench, grid: Grid, numbers: Sequence[int], epochs: int, *, at_once: int = 16
) -> list[float]:
    """Accuracy of networks of a grid on the bench's validation samples, trained as masked dense ones.

    Args:
      bench: how they are trained.
      grid: of the networks.
      numbers: in the grid.
      epochs: passes over the training samples.
      at_once: networks per call.

    Raises:
      ValueError: a method rewires them, or every network has an order of the samples of its own.
    """
    config, family, (train, judged, _) = bench.config, grid.family(), bench.splits
    if config.method is not None or not config.common_order:
        raise ValueError("the reference knows fixed masks and one common order of the samples only")
    model = MLP(NetworkSpec(family.sizes, 1.0, config.draw.activation))
    task = Task(model, config.batch_size, transform=config.transform)

    def run(key: Key, key_data: Key, variant: Variant, train: Split, judged: Split) -> Scalar:
        drawn = draw_variant(family, variant, config.draw, **network_keys(key))
        start = Net.of(*to_masked_network(*drawn), config.optimizer(variant))

        def epoch(net: Net, number: Array) -> tuple[Net, None]:
            order = epoch_batches(train.size, config.batch_size, jax.random.fold_in(key_data, number))
            given = config.key_of_draws(key, key_data, number)
            batches = Batches(*order)
            return train_batches(task, net, train, batches, key_forward=given, samples=train.size)[0], None

        net, _ = jax.lax.scan(epoch, start, jnp.arange(epochs, dtype=jnp.int32))
        return evaluate(task, net.params, net.structure, judged).accuracy

    program = jax.jit(jax.vmap(run, in_axes=(0, None, 0, None, None)))
    found: list[float] = []
    for first in range(0, len(numbers), at_once):
        some = list(numbers[first : first + at_once])
        # one program: the last call is filled up
        keys, variants = grid.inputs(some + [some[-1]] * (at_once - len(some)))
        found += np.asarray(program(keys, bench.key_data, variants, train, judged)).tolist()[: len(some)]
    return found
