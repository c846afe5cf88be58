"""One network of a sweep, from its key to its row of results."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxnet import extrema, losses
from jaxnet.kernels import Product, dense_product
from jaxnet.layers import LayerParams
from jaxnet.network import NetworkSpec, Params, Structure, forward
from jaxnet.sweep.family import DrawRules, Family, Member, draw_member
from jaxnet.sweep.live import LivePart, put_back, take_live, take_values
from jaxnet.train import Split, Task, collect_stats, epoch_batches
from jaxnet.trees import where
from jaxnet.types import Array, Bool, Features, Int, Key, PyTree, Scalar


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """How the networks of a sweep are made, trained and measured (static).

    Attributes:
      epochs: passes over the training samples.
      batch_size: samples per step.
      lr: Adam's learning rate.
      draw: masks, initial values and activation.
      common_order: all seeds see the samples in one order, gathered once for all;
        otherwise every seed has its own.
      detector: rule for extrema.
      watch: ``pre`` or ``post`` activations for extrema.
      product: the sparse product.
    """

    epochs: int = 5
    batch_size: int = 64
    lr: float = 1e-2
    draw: DrawRules = dataclasses.field(default_factory=DrawRules)
    common_order: bool = True
    detector: str = "original"
    watch: str = "post"
    product: Product = dense_product

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"epochs and batch_size must be at least 1: {self.epochs}, {self.batch_size}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr must be above 0: {self.lr}")
        if self.watch not in ("pre", "post"):
            raise ValueError(f"watch must be pre or post: {self.watch!r}")


class Row(flax.struct.PyTreeNode):
    """What is kept of a seed.

    Attributes:
      accuracy: on the validation samples, a fraction.
      loss: mean training loss (nats) of the last epoch.
      high: high extrema in all hidden layers.
      low: low extrema in all hidden layers.
      dead: fraction of hidden units never active on the watched samples.
      saturated: mean fraction of samples in which a hidden unit was saturated.
      hidden: hidden units.
      nonzeros: weights that exist.
      biases: biases that exist.
    """

    accuracy: Scalar
    loss: Scalar
    high: Int[Array, ""]
    low: Int[Array, ""]
    dead: Scalar
    saturated: Scalar
    hidden: Int[Array, ""]
    nonzeros: Int[Array, ""]
    biases: Int[Array, ""]

    @property
    def extrema_score(self) -> Scalar:
        """Extrema per hidden unit; 0 without hidden units."""
        return (self.high + self.low).astype(jnp.float32) / jnp.maximum(self.hidden, 1).astype(jnp.float32)

    @property
    def patchability(self) -> Scalar:
        """``extrema_score * (1 - accuracy)``."""
        return self.extrema_score * (1 - self.accuracy)

    @property
    def efficiency(self) -> Scalar:
        """Accuracy per 1,000 weights that exist."""
        return 1000 * self.accuracy / jnp.maximum(self.nonzeros, 1).astype(jnp.float32)


class Trained(flax.struct.PyTreeNode):
    """A trained network of a sweep.

    Attributes:
      params: values.
      structure: which weights exist.
      row: results.
      fits: whether the shapes had room for the live part (:mod:`jaxnet.sweep.live`);
        if not, nothing else here has a meaning. :class:`~jaxnet.sweep.Program`
        trains such a network again with room for everything.
      opt_state: Adam's state, its moments in the order of ``params``; only of a
        :func:`make_rung`.
    """

    params: Params
    structure: Structure
    row: Row
    fits: Bool[Array, ""]
    opt_state: PyTree = None

    @property
    def carried(self) -> Carried:
        """What training goes on from."""
        return self.params, self.opt_state


Number = int | Array
Carried = tuple[Params, PyTree]
"""Values and Adam's state of a whole network. Masks are not in it: they are drawn again from the key."""


class Learner(flax.struct.PyTreeNode):
    """A network between its epochs.

    Attributes:
      drawn: values at the start.
      structure: which weights exist.
      part: what can change; None where that is everything.
      values: current, of the part or of everything.
      opt_state: likewise.
    """

    drawn: Params
    structure: Structure
    part: LivePart | None
    values: Params
    opt_state: PyTree

    @property
    def wired(self) -> Structure:
        """Which weights are trained."""
        return self.structure if self.part is None else self.part.structure

    def resume(self, carried: Carried) -> Learner:
        """The network after the epochs that ``carried`` comes from."""
        part = self.part
        if part is None:
            return self.replace(values=carried[0], opt_state=carried[1])
        values, opt_state = _map_params(lambda whole: take_values(whole, part), carried)
        return self.replace(values=values, opt_state=opt_state)

    def carried(self) -> Carried:
        """What :meth:`resume` takes. Of units that cannot change all moments are zero."""
        part = self.part
        if part is None:
            return self.values, self.opt_state
        zero = jax.tree.map(jnp.zeros_like, self.drawn)
        opt_state = _map_params(lambda moments: put_back(zero, part, moments), self.opt_state)
        return put_back(self.drawn, part, self.values), opt_state


def _map_params(change: Callable[[Params], Params], tree: Any) -> Any:
    """Changes every ``Params`` in a tree; counts and the like stay."""
    return jax.tree.map(
        lambda node: change(node) if isinstance(node, Params) else node,
        tree,
        is_leaf=lambda node: isinstance(node, Params),
    )


class Phases(NamedTuple):
    """The life of one network of a sweep; see :func:`make_phases`."""

    begin: Callable[[Key, Member], Learner]
    train: Callable[[Learner, Member, Key, Split, Number, Number], tuple[Learner, Scalar]]
    finish: Callable[[Learner, Member, Scalar, Split, Split], Trained]


def make_phases(family: Family, config: SweepConfig) -> Phases:
    """Builds the phases that :func:`make_run` and :func:`make_rung` are composed of.

    Returns:
      ``begin(key, member)`` draws; ``train(learner, member, key_data, split,
      first, last)`` trains the epochs from ``first`` up to, without, ``last`` and
      gives the mean loss of the last one; ``finish(learner, member, loss, val,
      watched)`` measures. The order of the samples depends on ``key_data`` and
      the number of the epoch only.
    """
    spec = NetworkSpec(family.sizes, 1.0, config.draw.activation)
    optimizer = optax.adam(config.lr)

    def begin(key: Key, member: Member) -> Learner:
        key_mask, key_init = (jax.random.fold_in(key, purpose) for purpose in (0, 1))
        params, structure = draw_member(family, member, config.draw, key_mask=key_mask, key_init=key_init)
        part = None if family.live is None else take_live(params, structure, family.live)
        values = params if part is None else part.params
        return Learner(params, structure, part, values, optimizer.init(values))

    def logits_of(wired: Structure, member: Member, values: Params, x: Features) -> Features:
        logits, _ = forward(spec, values, wired, x, product=config.product)
        # a class that does not exist is never the answer and has no part in the softmax
        classes = jnp.arange(family.sizes[-1]) < member.widths[-1]
        return jnp.where(classes[:, None], logits, -1e30)

    def train(
        learner: Learner, member: Member, key_data: Key, split: Split, first: Number, last: Number
    ) -> tuple[Learner, Scalar]:
        def epoch(number: Array, carry: tuple[Params, Any, Scalar]) -> tuple[Params, Any, Scalar]:
            index, weight = epoch_batches(split.size, config.batch_size, jax.random.fold_in(key_data, number))

            def step(carry: tuple[Params, Any, Scalar], batch: tuple[Array, Array]) -> tuple[Any, None]:
                values, opt_state, total = carry
                x, y = split.batch(batch[0])

                def loss_fn(p: Params) -> Scalar:
                    return losses.cross_entropy(logits_of(learner.wired, member, p, x), y, batch[1])

                loss, grads = jax.value_and_grad(loss_fn)(values)
                with jax.numpy_dtype_promotion("standard"):
                    updates, opt_state = optimizer.update(grads, opt_state, values)
                    values = optax.apply_updates(values, updates)
                return (values, opt_state, total + loss * jnp.sum(batch[1])), None

            values, opt_state, _ = carry
            start = values, opt_state, jnp.zeros(())
            (values, opt_state, total), _ = jax.lax.scan(step, start, (index, weight))
            return values, opt_state, total / split.size

        values, opt_state, loss = jax.lax.fori_loop(
            first, last, epoch, (learner.values, learner.opt_state, jnp.zeros(()))
        )
        return learner.replace(values=values, opt_state=opt_state), loss

    def finish(learner: Learner, member: Member, loss: Scalar, val: Split, watched: Split) -> Trained:
        judge = functools.partial(logits_of, learner.wired, member)
        accuracy = _accuracy(judge, learner.values, val)
        values, part = learner.values, learner.part
        if part is not None:
            values = put_back(learner.drawn, part, values)
        row = _measure(family, spec, config, member, values, learner.structure, watched)
        fits = jnp.ones((), bool) if part is None else part.fits
        return Trained(values, learner.structure, row(accuracy, loss), fits)

    return Phases(begin, train, finish)


def make_run(
    family: Family, config: SweepConfig
) -> Callable[[Key, Key, Member, Split, Split, Split], Trained]:
    """Builds ``run(key, key_data, member, train, val, watched) -> Trained`` for one network.

    Args:
      family: shapes.
      config: how to train and measure.

    Returns:
      A function of the seed's key, the key of the data order, the member, the
      samples to train on, to validate on and to watch for extrema. Seed ``k``
      alone gives its row of any chunk.
    """
    phases = make_phases(family, config)

    def run(key: Key, key_data: Key, member: Member, train: Split, val: Split, watched: Split) -> Trained:
        learner, order = phases.begin(key, member), _order(config, key, key_data)
        learner, loss = phases.train(learner, member, order, train, 0, config.epochs)
        return phases.finish(learner, member, loss, val, watched)

    return run


def make_rung(
    family: Family, config: SweepConfig
) -> Callable[[Key, Key, Member, Split, Split, Split, Carried, Number, Number], Trained]:
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
    phases = make_phases(family, config)

    def rung(
        key: Key,
        key_data: Key,
        member: Member,
        train: Split,
        val: Split,
        watched: Split,
        carried: Carried,
        first: Number,
        last: Number,
    ) -> Trained:
        drawn, order = phases.begin(key, member), _order(config, key, key_data)
        learner = where(jnp.asarray(first) == 0, drawn, drawn.resume(carried))
        learner, loss = phases.train(learner, member, order, train, first, last)
        trained = phases.finish(learner, member, loss, val, watched)
        return trained.replace(opt_state=learner.carried()[1])

    return rung


def blank_carried(family: Family, config: SweepConfig) -> Carried:
    """Zeros in the shape of what one network carries from rung to rung."""
    shapes = zip(family.capacities, family.sizes[1:], strict=True)
    params = Params(tuple(LayerParams(jnp.zeros(slots), jnp.zeros(units)) for slots, units in shapes))
    return params, optax.adam(config.lr).init(params)


def _order(config: SweepConfig, key: Key, key_data: Key) -> Key:
    """Key of the order in which a seed sees the samples."""
    return key_data if config.common_order else jax.random.fold_in(key, 2)


def _accuracy(logits_of: Callable[[Params, Features], Features], params: Params, split: Split) -> Scalar:
    def step(correct: Scalar, batch: tuple[Array, Array]) -> tuple[Scalar, None]:
        x, y = split.batch(batch[0])
        return correct + losses.num_correct(logits_of(params, x), y, batch[1]), None

    index, weight = epoch_batches(split.size, min(1000, split.size), None)
    return jax.lax.scan(step, jnp.zeros(()), (index, weight))[0] / split.size


def _measure(
    family: Family,
    spec: NetworkSpec,
    config: SweepConfig,
    member: Member,
    params: Params,
    structure: Structure,
    watched: Split,
) -> Callable[[Scalar, Scalar], Row]:
    """Extrema, dead and saturated units of a trained network; returns what completes the row."""
    hidden = family.sizes[1:-1]
    exists: list[Bool[Array, "unit"]] = [jnp.arange(n) < member.widths[k + 1] for k, n in enumerate(hidden)]
    high = low = dead = jnp.zeros((), jnp.int32)
    saturated = jnp.zeros(())
    if hidden:
        task = Task(spec, config.batch_size, product=config.product)
        for stats, here in zip(
            collect_stats(task, params, structure, watched, values=config.watch), exists, strict=True
        ):
            # a unit that does not exist counts as not finite: left out of means and extrema
            found = extrema.detect(stats.replace(mean=jnp.where(here, stats.mean, jnp.nan)), config.detector)
            high += jnp.sum(found.high, dtype=jnp.int32)
            low += jnp.sum(found.low, dtype=jnp.int32)
            dead += jnp.sum(here & (stats.active == 0), dtype=jnp.int32)
            saturated += jnp.sum(jnp.where(here, stats.fraction_saturated, 0.0))
    units = jnp.sum(member.widths[1:-1], dtype=jnp.int32)
    count = jnp.maximum(units, 1).astype(jnp.float32)
    nonzeros = sum((t.num_nonzeros for t in structure.connectivity), jnp.zeros((), jnp.int32))

    def complete(accuracy: Scalar, loss: Scalar) -> Row:
        return Row(
            accuracy=accuracy,
            loss=loss,
            high=high,
            low=low,
            dead=dead.astype(jnp.float32) / count,
            saturated=saturated / count,
            hidden=units,
            nonzeros=nonzeros,
            biases=jnp.sum(member.widths[1:], dtype=jnp.int32),
        )

    return complete
