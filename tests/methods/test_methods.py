"""The contract of every method, for each kind of structure that it serves: jit, vmap over seeds, inside scan.

A case is two programs: three networks (two of them alike but for their key) trained step by step under vmap,
and one of them alone in one scan. Methods enter it by their registration alone.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import methods, trees
from jaxnet.structure import count, entries, reserved
from jaxnet.topology import Mask, Topology
from jaxnet.train import Batches, Net, dense_gradient, train_batches
from tests import networks
from tests.methods import tiny
from tests.methods.tiny import at

STEPS = 6
OPTIONS = {
    **{"fraction": 0.4, "every": 2, "begin": 2, "end": 5, "density": 0.3},
    **{"gather": 1, "threshold": 1.0, "most": 2},
}
"""Of every method that has such an option: a change of many weights within a few steps."""


def small(name: str) -> methods.BaseMethod:
    """The method with those of the options above that it has."""
    known = {field.name for field in dataclasses.fields(methods.METHODS[name])}
    return methods.make(name, **{option: value for option, value in OPTIONS.items() if option in known})


ALSO_SLOTS = ("sparse-momentum", "chts", "granet", "extrema", "revive")
"""Their rules for masks are those for slots: with masks they are put to the test by ``make test-slow``."""

PAIRS = [(name, kind) for name, method in methods.METHODS.items() for kind in method.serves]
CASES = [
    pytest.param(name, kind, marks=[pytest.mark.slow] if kind is Mask and name in ALSO_SLOTS else [])
    for name, kind in PAIRS
]
LONE = [
    pytest.param(name, kind, marks=[] if name in ("rigl", "magnitude") else [pytest.mark.slow])
    for name, kind in PAIRS
]
"""What a network becomes alone is a program of its own: of two methods here, of all by ``make test-slow``."""


# --- the program of a case ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Spy:
    """A method that also remembers what it was handed: the gradient, and the net before the change."""

    method: methods.BaseMethod

    def init(self, net: Net, dense_gradient: Any, *, key: Any) -> Any:
        net, state = self.method.init(net, dense_gradient, key=key)
        return net, (state, jax.tree.map(jnp.zeros_like, net.params), net)

    def observe(self, net: Net, state: Any, gradient: Any) -> Any:
        return self.method.observe(net, state[0], gradient), gradient, net

    def due(self, step: Any) -> Any:
        return self.method.due(step)

    def update(self, net: Net, state: Any, dense_gradient: Any, step: Any, *, key: Any) -> Any:
        net, inner, info = self.method.update(net, state[0], dense_gradient, step, key=key)
        return net, (inner, *state[1:]), info


class Trace(NamedTuple):
    """What is seen of a network.

    Attributes:
      start: before the first step.
      counts: of the weights there.
      held: positions at which none may be grown.
      gradient: after every step, as handed to the method.
      before: the net after every step, before the change.
      after: the net after the change.
      numbers: of its weights.
    """

    start: Any
    counts: Any
    held: Any
    gradient: Any
    before: Any
    after: Any
    numbers: Any


class Programs(NamedTuple):
    """``many(nets, keys)``: the trace of every network under vmap; ``alone(net, key)``: what one becomes."""

    many: Any
    alone: Any


@functools.cache
def programs(name: str, kind: type) -> Programs:
    """Of a case; each is compiled when it is first called."""
    task, data, _ = tiny.KINDS[kind]
    spy = Spy(small(name))
    order = np.random.default_rng(5).integers(0, data.size, (STEPS, tiny.BATCH))
    batches = Batches(jnp.asarray(order, jnp.int32), jnp.ones((STEPS, tiny.BATCH)))

    def begin(net: Net, key: Any) -> Any:
        def gradient() -> Any:
            return dense_gradient(task, net, *data.batch(batches.indices[0]), batches.weight[0])

        return spy.init(net, gradient, key=key)

    def train(carry: tuple[Net, Any], key: Any, some: Batches, done: Any) -> Any:
        net, state = carry
        return train_batches(
            task, net, data, some, method=spy, method_state=state, key_method=key, steps_before=done
        )[:2]

    def stepwise(net: Net, key: Any) -> Trace:
        start, state = begin(net, key)

        def step(carry: Any, number: Any) -> Any:
            one = Batches(batches.indices[number][None], batches.weight[number][None])
            net, state = train(carry, key, one, number)
            number = count(net.params, net.structure)["weights"]
            return (net, state), (state[1], state[2], net, number)

        counts, held = count(start.params, start.structure)["weights"], reserved(start.structure)
        return Trace(start, counts, held, *jax.lax.scan(step, (start, state), jnp.arange(STEPS))[1])

    def alone(net: Net, key: Any) -> Any:
        return train(begin(net, key), key, batches, 0)[0]

    return Programs(networks.quick(jax.vmap(stepwise)), networks.quick(alone))


KEYS = jax.random.split(jax.random.key(9), 3)


@functools.cache
def traced(name: str, kind: type, first: int = 0) -> list[Trace]:
    """The traces of the three networks, on the host, where the ``first`` of them is the first."""
    order = np.roll(np.arange(3), -first)
    many = programs(name, kind).many(at(tiny.stack(kind), order), KEYS[order])
    return [at(many, i) for i in np.roll(np.arange(3), first)]


# --- what is asserted, in plain NumPy -----------------------------------------------------------------


def exists(entry: Any) -> Any:
    """Of the parameter's shape."""
    return entry.mask if isinstance(entry, Mask) else entry.rows < entry.shape[0]


def there(entry: Any) -> Any:
    """Of the dense array's shape; asserts that no position is taken twice."""
    if isinstance(entry, Mask):
        return entry.mask
    flat = (entry.rows * entry.shape[1] + entry.cols)[exists(entry)]
    assert len(set(flat.tolist())) == len(flat) == entry.row_ptr[-1], "a position is taken twice"
    mask = np.zeros(entry.shape, bool)
    mask.flat[flat] = True
    return mask


def dense(values: np.ndarray, entry: Any) -> np.ndarray:
    """By position; asserts that what does not exist is exactly zero."""
    assert not np.any(values[~exists(entry)]), "something is not zero where no weight exists"
    if isinstance(entry, Mask):
        return values
    matrix, slots = np.zeros(entry.shape), exists(entry)
    matrix[entry.rows[slots], entry.cols[slots]] = values[slots]
    return matrix


def by_position(net: Any, path: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Where the weights at a path are; value and both moments there."""
    entry = entries(net.structure)[path]
    leaves = networks.leaves_named((net.params, net.opt_state))
    found = [
        dense(leaf, entry)
        for name, leaf in leaves
        if name.endswith(path) and (name.startswith("[0]") or ".mu" in name or ".nu" in name)
    ]
    assert len(found) == 3
    return there(entry), found


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_there_are_as_many_weights_as_the_budget_says(name, kind):
    method = small(name)
    for trace, net in zip(traced(name, kind), (at(tiny.stack(kind), i) for i in range(3)), strict=True):
        was = {path: there(entry) for path, entry in entries(net.structure).items()}
        sizes = [(int(mask.sum()), mask.size) for mask in was.values()]
        numbers = [int(trace.counts), *trace.numbers.tolist()]
        assert numbers == [method.budget(step, sizes) for step in range(STEPS + 1)]
        nets = [trace.start, *(at(trace.after, step) for step in range(STEPS))]
        assert numbers == [sum(int(there(e).sum()) for e in entries(n.structure).values()) for n in nets]
        now = {path: there(entry) for path, entry in entries(nets[-1].structure).items()}
        for path, mask in was.items():
            assert np.array_equal(mask, now[path]) == (name == "static"), "nothing was put to the test"


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_what_stays_keeps_its_moments_and_what_is_missing_is_zero(name, kind):
    """Adam by position in NumPy, over all steps, with the gradients that the method was handed."""
    for trace in traced(name, kind):
        steps = [(at(trace.gradient, n), at(trace.before, n), at(trace.after, n)) for n in range(STEPS)]
        for path in entries(trace.start.structure):
            here, values = by_position(trace.start, path)
            w, m, v = (a.astype(np.float64) for a in values)
            for step, (gradients, before, after) in enumerate(steps, start=1):
                was, had = by_position(before, path)
                assert np.array_equal(was, here)
                leaf = dict(networks.leaves_named(gradients))[path]
                gradient = dense(leaf, entries(before.structure)[path])
                m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
                w = w - tiny.RATE * m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
                for got, want in zip(had, (w, m, v), strict=True):
                    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * tiny.RATE)
                # the change moves nothing and makes nothing up
                here, have = by_position(after, path)
                redraws = small(name).redraws  # such a weight is new, wherever it stands
                same = here & was & (have[0] == had[0]) if redraws else here & was
                for number, (got, want) in enumerate(zip(have, had, strict=True)):
                    rest = got if redraws and number == 0 else 0
                    assert np.array_equal(got, np.where(same, want, rest))
                w, m, v = (np.where(same, a, b) for a, b in zip((w, m, v), have, strict=True))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_nothing_is_grown_where_something_is(name, kind):
    for trace in traced(name, kind):
        assert (kind is Topology) == any(mask.any() for mask in trace.held.values())
        for step in range(STEPS):
            for path, entry in entries(at(trace.after, step).structure).items():
                assert not np.any(there(entry) & trace.held.get(path, False)), f"{path}: a patch is there"


@pytest.mark.parametrize(("name", "kind"), LONE)
def test_a_seed_among_others_equals_the_seed_alone(name, kind):
    for first in range(3):
        many = traced(name, kind, first)
        alone = at(programs(name, kind).alone(at(tiny.stack(kind), first), KEYS[first]), ...)
        last = at(many[first].after, -1)
        assert trees.equal(alone.structure, last.structure)
        assert trees.allclose(alone, last, rtol=1e-4, atol=1e-4 * tiny.RATE)
        for path in entries(alone.structure):
            by_position(alone, path)  # all is zero where nothing is
        assert all(map(trees.equal, many, traced(name, kind))), "its place in the stack matters"
    for one in programs(name, kind):
        assert one._cache_size() == 1, "a second call has compiled again"


@pytest.mark.parametrize("kind", methods.METHODS["set"].serves)
def test_two_seeds_draw_different_positions(kind):
    """Of networks that are alike, trained on the same batches, from the first exchange on."""
    first, second, _ = traced("set", kind)
    assert trees.equal(first.start, second.start)
    one, other = (entries(at(trace.after, OPTIONS["every"] - 1).structure) for trace in (first, second))
    for path, entry in one.items():
        assert not np.array_equal(there(entry), there(other[path])), path
