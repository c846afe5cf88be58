"""One network of a sweep, from its key to its row of results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from jaxnet import optim, reach, signals
from jaxnet.data.batches import Split, epoch_batches
from jaxnet.keys import METHOD, ORDER, network_keys, purpose
from jaxnet.nn.mlp import MLP, NetworkSpec
from jaxnet.nn.params import Params, Structure
from jaxnet.sweep.family import Family, Variant, draw_network
from jaxnet.sweep.live import LivePart, put_back, take_live, take_values
from jaxnet.sweep.persistent import make_epochs
from jaxnet.sweep.rows import Carried, Row, SweepConfig, Trained
from jaxnet.train import Batches, Net, Task, collect_stats, evaluate, outside, train_batches
from jaxnet.trees import where
from jaxnet.types import Array, Bool, Key, PyTree, Scalar

Number = int | Array


class Learner(flax.struct.PyTreeNode):
    """A network between its epochs.

    Attributes:
      drawn: values at the start.
      structure: which weights exist.
      part: what can change; None where that is everything.
      net: what is trained: the part or everything.
      method: state of the method that changes the structure; None without one.
    """

    drawn: Params
    structure: Structure
    part: LivePart | None
    net: Net
    method: PyTree = None

    def resume(self, carried: Carried) -> Learner:
        """The network after the epochs that ``carried`` comes from."""
        params, opt_state = carried
        if self.part is not None:
            part, values = self.part, take_values(params, self.part)
            opt_state = optim.followed(
                self.net.optimizer, opt_state, params, values, lambda whole: take_values(whole, part)
            )
            params = values
        return self.replace(net=self.net.replace(params=params, opt_state=opt_state))

    def carried(self) -> Carried:
        """What :meth:`resume` takes. Of units that cannot change all moments are zero."""
        net, part = self.net, self.part
        if part is None:
            return net.params, net.opt_state
        whole, zero = put_back(self.drawn, part, net.params), jax.tree.map(jnp.zeros_like, self.drawn)
        return whole, optim.followed(
            net.optimizer, net.opt_state, net.params, whole, lambda moments: put_back(zero, part, moments)
        )


class Phases(NamedTuple):
    """The life of one network of a sweep; see :func:`make_phases`."""

    begin: Callable[[Key, Variant], Learner]
    train: Callable[[Learner, Variant, Key, Key, Split, Number, Number], tuple[Learner, Scalar]]
    finish: Callable[[Learner, Variant, Scalar, Split, Split], Trained]


def make_phases(family: Family, config: SweepConfig) -> Phases:
    """Builds the phases that :func:`make_run` and :func:`make_rung` are composed of.

    Returns:
      ``begin(key, variant)`` draws; ``train(learner, variant, key, key_data,
      split, first, last)`` trains the epochs from ``first`` up to, without, ``last`` and
      gives the mean loss of the last one; ``finish(learner, variant, loss, val,
      watched)`` measures. The order of the samples depends on ``key_data`` and
      the number of the epoch only.
    """
    task = Task(
        MLP(NetworkSpec(family.sizes, 1.0, config.draw.activation), config.product),
        config.batch_size,
        transform=config.transform,
    )
    method = config.method

    def begin(key: Key, variant: Variant) -> Learner:
        params, structure = draw_network(family, variant, config.draw, **network_keys(key))
        part, optimizer = None, config.optimizer(variant)
        if family.live is not None and method is None and config.draw.enforced:
            part = take_live(params, structure, family.live)
            return Learner(params, structure, part, Net.of(part.params, part.structure, optimizer))
        net = Net.of(params, structure, optimizer)
        if method is None:
            return Learner(params, structure, part, net)
        net, state = method.init(net, _no_gradient, key=purpose(key, METHOD))
        return Learner(params, structure, part, net, state)

    def train(
        learner: Learner, variant: Variant, key: Key, key_data: Key, split: Split, first: Number, last: Number
    ) -> tuple[Learner, Scalar]:
        start = learner.net
        if config.persistent:
            params, opt_state, loss = make_epochs(config)(start, variant, key_data, split, first, last)
            return learner.replace(net=start.replace(params=params, opt_state=opt_state)), loss

        def epoch(number: Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            params, opt_state, changed, _ = carry
            net = start.replace(params=params, opt_state=opt_state)
            structure, state = (None, None) if changed is None else changed
            if structure is not None:
                net = net.replace(structure=structure)
            shuffled = jax.random.fold_in(key_data, number) if config.shuffle else None
            order = epoch_batches(split.size, config.batch_size, shuffled)
            net, state, info = train_batches(
                task,
                net,
                split,
                Batches(*order),
                key_forward=config.key_of_draws(key, key_data, number),
                method=method,
                method_state=state,
                key_method=purpose(key, METHOD),
                steps_before=number * order[0].shape[0],
                samples=split.size,
            )
            changed = None if changed is None else (net.structure, state)
            return net.params, net.opt_state, changed, info.loss

        changed = None if method is None else (start.structure, learner.method)
        params, opt_state, changed, loss = jax.lax.fori_loop(
            first, last, epoch, (start.params, start.opt_state, changed, jnp.zeros(()))
        )
        net = start.replace(params=params, opt_state=opt_state)
        if changed is None:
            return learner.replace(net=net), loss
        net = net.replace(structure=changed[0])
        return learner.replace(net=net, structure=net.structure, method=changed[1]), loss

    def finish(learner: Learner, variant: Variant, loss: Scalar, val: Split, watched: Split) -> Trained:
        values, part = learner.net.params, learner.part
        judged = evaluate(task, values, learner.net.structure, val)
        if part is not None:
            values = put_back(learner.drawn, part, values)
        row = _measure(family, task, config, variant, values, learner.structure, watched)
        fits = jnp.ones((), bool) if part is None else part.fits
        diverged = ~(jnp.isfinite(judged.accuracy) & jnp.isfinite(loss))
        accuracy = jnp.where(diverged, jnp.nan, judged.accuracy)
        row = row.replace(accuracy=accuracy, loss=loss, diverged=diverged)
        return Trained(values, learner.structure, row, fits)

    return Phases(begin, train, finish)


def make_run(
    family: Family, config: SweepConfig
) -> Callable[[Key, Key, Variant, Split, Split, Split], Trained]:
    """Builds ``run(key, key_data, variant, train, val, watched) -> Trained`` for one network.

    Args:
      family: shapes.
      config: how to train and measure.

    Returns:
      A function of the seed's key, the key of the data order, the variant, the
      samples to train on, to validate on and to watch for extrema. Seed ``k``
      alone gives its row of any chunk.
    """
    phases = make_phases(family, config)

    def run(key: Key, key_data: Key, variant: Variant, train: Split, val: Split, watched: Split) -> Trained:
        learner, order = phases.begin(key, variant), _order(config, key, key_data)
        learner, loss = phases.train(learner, variant, key, order, train, 0, config.epochs)
        return phases.finish(learner, variant, loss, val, watched)

    return run


def make_rung(
    family: Family, config: SweepConfig
) -> Callable[[Key, Key, Variant, Split, Split, Split, Carried, Number, Number], Trained]:
    """Builds ``rung(..., carried, first, last) -> Trained``: some epochs of :func:`make_run`.

    Args:
      family: shapes.
      config: how to train and measure; its ``epochs`` play no part.

    Returns:
      A function as that of :func:`make_run`, with three more arguments: what an
      earlier rung gave out (ignored if ``first`` is 0), and the epochs to train,
      from ``first`` up to, without, ``last``. They are data, so one compiled
      program serves all rungs. Rungs one after the other give the row of the
      whole run: to the last bit in one program, elsewhere but for rounding.
    """
    if config.method is not None:
        raise ValueError("rungs carry values from one to the next, not structures: a method needs whole runs")
    phases = make_phases(family, config)

    def rung(
        key: Key,
        key_data: Key,
        variant: Variant,
        train: Split,
        val: Split,
        watched: Split,
        carried: Carried,
        first: Number,
        last: Number,
    ) -> Trained:
        drawn, order = phases.begin(key, variant), _order(config, key, key_data)
        learner = where(jnp.asarray(first) == 0, drawn, drawn.resume(carried))
        learner, loss = phases.train(learner, variant, key, order, train, first, last)
        trained = phases.finish(learner, variant, loss, val, watched)
        return trained.replace(opt_state=learner.carried()[1])

    return rung


def _order(config: SweepConfig, key: Key, key_data: Key) -> Key:
    """Key of the order in which a seed sees the samples."""
    return key_data if config.common_order else purpose(key, ORDER)


def _no_gradient() -> PyTree:
    raise ValueError("a method that looks at a gradient before it starts has no place in a sweep")


def _measure(
    family: Family,
    task: Task,
    config: SweepConfig,
    variant: Variant,
    params: Params,
    structure: Structure,
    watched: Split,
) -> Row:
    """Extrema, dead and saturated units of a trained network: its row but for what training gave."""
    hidden = family.sizes[1:-1]
    exists: list[Bool[Array, "unit"]] = [jnp.arange(n) < variant.widths[k + 1] for k, n in enumerate(hidden)]
    dead = jnp.zeros((), jnp.int32)
    high: list[Scalar] = []
    low: list[Scalar] = []
    saturated = jnp.zeros(())
    if hidden:
        every = collect_stats(task, params, structure, watched, values=config.watch)
        for stats, here in zip(signals.with_paths(every, structure, config.detector), exists, strict=True):
            # a unit that does not exist counts as not finite: left out of means and extrema
            found = signals.detect(stats.replace(mean=jnp.where(here, stats.mean, jnp.nan)), config.detector)
            high.append(jnp.sum(found.high, dtype=jnp.int32))
            low.append(jnp.sum(found.low, dtype=jnp.int32))
            dead += jnp.sum(here & (stats.active == 0), dtype=jnp.int32)
            saturated += jnp.sum(jnp.where(here, stats.fraction_saturated, 0.0))
    units = jnp.sum(variant.widths[1:-1], dtype=jnp.int32)
    count = jnp.maximum(units, 1).astype(jnp.float32)
    if config.draw.enforced:
        there = [entry.num_nonzeros for entry in structure.weights]
    else:
        there = [jnp.sum(layer.weight != 0, dtype=jnp.int32) for layer in params.scaffold]
    outputs = jnp.zeros(())
    if config.outputs:
        every_unit = [*exists, jnp.arange(family.sizes[-1]) < variant.widths[-1]]
        outputs = outside(task, params, structure, watched, exist=every_unit)
    nothing = jnp.full((), jnp.nan)
    by_layer = [jnp.stack(counts) if counts else jnp.zeros(0, jnp.int32) for counts in (high, low)]
    return Row(
        accuracy=nothing,
        loss=nothing,
        high=jnp.sum(by_layer[0], dtype=jnp.int32),
        low=jnp.sum(by_layer[1], dtype=jnp.int32),
        high_by_layer=by_layer[0],
        low_by_layer=by_layer[1],
        dead=dead.astype(jnp.float32) / count,
        saturated=saturated / count,
        hidden=units,
        nonzeros=sum(there, jnp.zeros((), jnp.int32)),
        biases=jnp.sum(variant.widths[1:], dtype=jnp.int32),
        outside=outputs,
        diverged=jnp.zeros((), bool),
        live=reach.live(structure).counts,
    )
