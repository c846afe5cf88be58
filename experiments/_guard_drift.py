"""What comes after the training in ``experiments.guarded_training``: drifted data, one rival at a time."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxnet import continual, guard, protect
from jaxnet.continual.streams import Stream
from jaxnet.data.batches import Split, epoch_batches
from jaxnet.guard import Canaries, Guarded, Rules
from jaxnet.optim import scale_updates
from jaxnet.train import Batches, Net, Task, train_batches
from jaxnet.types import Array, Int, Key

SPIKE = 20
"""Steps of a spike, in the middle of the drift."""

NOISE = 0.5
"""Share of labels that are drawn at random."""


class Drifted(flax.struct.PyTreeNode):
    """Samples of two tasks: number ``i`` as it was, ``i + N`` as it is now.

    Attributes:
      stream: two tasks, or one where images stay.
      labels: ``(sample,)``, what the labels are now.
      factor: on the pixels now.
    """

    stream: Stream
    labels: Int[Array, "sample"]
    factor: Array

    @property
    def size(self) -> int:
        """Number of samples (static)."""
        return 2 * self.stream.per_task

    def batch(self, index: Int[Array, "batch"]) -> tuple[Array, Array]:
        """Samples and labels."""
        number = self.stream.per_task
        row, now = index % number, index >= number
        x, y = self.stream.batch(jnp.where(now, row + number * (self.stream.tasks - 1), row))
        return jnp.where(now[:, None], self.factor * x, x), jnp.where(now, self.labels[row], y)


def drifted(split: Split, kind: str, angle: float, shape: Any, classes: int, *, key: Key) -> Drifted:
    """The data of a drift: ``rotate``, ``label-noise`` or ``spike``."""
    stream = continual.rotated(split, (0.0, angle if kind == "rotate" else 0.0), shape)
    labels, one = split.y, jnp.ones(())
    if kind == "label-noise":
        key_where, key_what = jax.random.split(key)
        wrong = jax.random.uniform(key_where, labels.shape) < NOISE
        labels = jnp.where(wrong, jax.random.randint(key_what, labels.shape, 0, classes), labels)
    if kind == "spike":
        labels, one = (labels + 1) % classes, jnp.asarray(10.0)
    return Drifted(stream, labels, one)


def order(kind: str, number: int, batch: int, epochs: int, every: int, *, key: Key) -> Batches:
    """The batches of the drift (``healthy``: before it) that fill whole checks: ``(check, step, batch)``."""
    parts = [epoch_batches(number, batch, jax.random.fold_in(key, e)) for e in range(epochs)]
    index, weight = (jnp.concatenate(p) for p in zip(*parts, strict=True))
    steps = index.shape[0]
    place = jnp.arange(steps)[:, None]
    bad = (place >= steps // 2) & (place < steps // 2 + SPIKE)
    index = index + number * (bad.astype(jnp.int32) if kind == "spike" else int(kind != "healthy"))
    checks = max(1, steps // every)
    size = min(every, steps)
    index, weight = (a[: checks * size].reshape(checks, size, batch) for a in (index, weight))
    return Batches(index, weight)


@dataclasses.dataclass(frozen=True)
class Rival:
    """A way to train through the drift (static).

    Attributes:
      what: it is, for readers.
      kind: of training.
      value: its number.
    """

    what: str
    kind: str
    value: float = 0.0


def rivals(rates: tuple[float, ...], strengths: tuple[float, ...]) -> dict[str, Rival]:
    """What is trained, by name; of those with several numbers one is chosen on held samples."""
    found = {
        "plain": Rival("nothing", "plain"),
        "watched": Rival("checks and snapshots, and nothing is done", "guard-none"),
        "guard": Rival(
            "checks; at an alarm a blend fitted on held samples, inside the program", "guard-blend"
        ),
        "replay": Rival("half of every batch old samples: the held ones", "replay"),
        "skip": Rival("batches of outlying gradients are skipped", "skip"),
    }
    found |= {f"lower-rate {r:g}": Rival(f"updates x {r:g}", "rate", r) for r in rates}
    return found | {f"ewc {s:g}": Rival(f"EWC, strength {s:g}", "ewc", s) for s in strengths}


def train_drift(
    rival: Rival,
    rules: Rules,
    task: Task,
    rate: float,
    run: Guarded,
    data: Drifted,
    batches: Batches,
    old: Canaries,
    fresh: Canaries,
    labels: Any,
    value: Array,
    *,
    key: Key,
) -> tuple[Any, Array, Array]:
    """Parameters after the drift, the margins at the checks, and alarms; ``value`` is the rival's number."""
    checks, steps, size = batches.indices.shape
    optimizer: Any = optax.adam(rate)
    net = start = run.net
    if rival.kind == "rate":
        optimizer = optax.chain(optimizer, scale_updates())
        net = continual.learner.everywhere(Net.of(net.params, net.structure, optimizer), value)
        net = net.replace(opt_state=(start.opt_state, net.opt_state[1]))
    if rival.kind == "skip":
        optimizer = protect.skip_outlying(optimizer)
        net = Net.of(net.params, net.structure, optimizer)
        net = net.replace(opt_state=net.opt_state._replace(inner=start.opt_state))
    if rival.kind == "ewc":
        held = jnp.arange(old.y.size)
        seen = Split(old.x.reshape(held.size, -1), old.y.ravel(), jnp.zeros(()), jnp.ones(()))
        found = protect.fisher(task, net.params, net.structure, seen, held, labels="drawn", key=key)
        memory = protect.remember(protect.no_memory(net.params, value), net.params, found)
        task = dataclasses.replace(task, penalty=protect.penalty)
        net = net.replace(carried=memory)
    if rival.kind == "replay":
        data = Rehearsed(data, old, size // 2)  # type: ignore[assignment]
        half = jax.random.randint(key, (checks, steps, size - size // 2), 0, old.y.size)
        index = jnp.concatenate([batches.indices[..., : size // 2], half], -1)
        batches = Batches(index, jnp.ones(index.shape))
    if rival.kind.startswith("guard"):
        how = dataclasses.replace(rules, action=rival.kind.removeprefix("guard-"))
        state, (margins, alarms) = train_checked(how, task, run, data, batches, old, fresh, labels)
        return state.net.params, margins, alarms
    flat = Batches(*(part.reshape(checks * steps, -1) for part in batches))
    net, _, _ = train_batches(task, net, data, flat)
    return net.params, jnp.zeros((checks, old.number)), jnp.zeros(checks, bool)


def train_checked(
    rules: Rules,
    task: Task,
    run: Guarded,
    data: Any,
    batches: Batches,
    old: Canaries,
    fresh: Canaries,
    labels: Any,
) -> tuple[Guarded, tuple[Array, Array]]:
    """All checks of some batches: margins ``(check, K)`` and alarms ``(check,)``."""

    def check(state: Guarded, part: Batches) -> tuple[Guarded, tuple[Array, Array]]:
        state, now, alarm = guard.train_guarded(rules, task, state, data, part, old, fresh, labels)
        return state, (now, alarm)

    return jax.lax.scan(check, run, batches)


class Rehearsed(flax.struct.PyTreeNode):
    """Batches whose first samples are of the drift, the others held ones."""

    data: Drifted
    held: Canaries
    first: int = flax.struct.field(pytree_node=False)

    @property
    def size(self) -> int:
        """Number of samples (static)."""
        return self.data.size

    def batch(self, index: Int[Array, "batch"]) -> tuple[Array, Array]:
        """Samples and labels."""
        x, y = self.data.batch(index[: self.first])
        rows = index[self.first :]
        flat = self.held.x.reshape(self.held.y.size, -1)
        return jnp.concatenate([x, flat[rows]]), jnp.concatenate([y, self.held.y.ravel()[rows]])


ENDS = ("nothing", "rollback", "interpolate", "leave-one-out", "path-integral", "blend")
"""What is made of the plain network at the end of the drift."""


def end(
    name: str, rules: Rules, task: Task, start: Net, after: Any, old: Canaries, fresh: Canaries, labels: Any
) -> Any:
    """Parameters made of those before and after the drift."""
    how = dataclasses.replace(rules, action="none" if name == "nothing" else name)
    return guard.revert(how, task, start.replace(params=after), start.params, old, fresh, labels)
