"""What the arms of ``experiments.exactness_training`` do, and what is measured of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet
from jaxnet import homology, lab
from jaxnet.activations import activation
from jaxnet.data.batches import epoch_batches
from jaxnet.linalg import solve
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.nn.params import release_masks, to_masked_network
from jaxnet.train import EpochResult, Net, Task, TrainState, init_state
from jaxnet.types import Array, Float, PyTree, Scalar

GLUED = 16
"""Samples of a batch whose windows are glued."""

RIDGES = (1e-2, 1e-1, 1.0)
"""Shares of the mean squared feature to choose the ridge of the transfer from, on validation samples."""


def read(params: Any) -> homology.complexes.Maps:
    """The layers' weights: a chain of maps."""
    return tuple(layer.weight for layer in params.scaffold)


def write(params: Any, d: homology.complexes.Maps) -> Any:
    """The parameters with other weights."""
    layers = zip(params.scaffold, d, strict=True)
    return params.replace(scaffold=tuple(layer.replace(weight=w) for layer, w in layers))


def penalty(params: Any, carried: Mapping[str, Scalar]) -> Scalar:
    """L2 and the defect, with the strengths of the arm."""
    d = read(params)
    return carried["l2"] * sum(jnp.sum(w * w) for w in d) / 2 + carried["defect"] * homology.penalty(d)


def gram(seen: Any, params: Any, x: Array, weight: Array, carried: Mapping[str, Scalar]) -> Scalar:
    """The Gram penalty on the two hidden layers."""
    first, second = seen.post
    found = jnp.matmul(second * weight, first.T, precision="highest") / jnp.sum(weight)
    return carried["gram"] * jnp.mean(found**2)


def windows(side: int) -> tuple[int, int, int]:
    """Number, width and stride of windows of rows: a position lies in two at most."""
    width = max(2, side // 4)
    stride = (width + 1) // 2
    return (side - width) // stride + 1, width, stride


def glue(
    seen: Any, params: Any, x: Array, weight: Array, carried: Mapping[str, Scalar], act: str = "relu"
) -> Scalar:
    """Disagreement of windows: the first layer sees one, its transposed weights make the rows of it again."""
    layer, side = params.scaffold[0], math.isqrt(x.shape[1])
    number, width, stride = windows(side)
    rows = np.arange(number)[:, None] * stride + np.arange(width)  # (window, row)
    images, weight = x[:GLUED].reshape(-1, 1, side, side), weight[:GLUED]
    there = jnp.asarray((np.arange(side)[None] == rows[..., None]).any(1), x.dtype)
    only = (images * there[:, :, None]).reshape(-1, side * side)  # (sample window, pixel)
    hidden = activation(act)(only @ layer.weight.T + layer.bias)
    again = (hidden @ layer.weight).reshape(-1, number, side, side)
    sections = again[:, np.arange(number)[:, None], rows]  # (sample, window, row, column)
    loss = homology.gluing(sections, stride).loss
    return carried["gluing"] * jnp.sum(loss * weight) / jnp.maximum(jnp.sum(weight), 1)


class Group(NamedTuple):
    """Arms that one program trains."""

    stage: str
    kinds: tuple[str, ...]
    task: Task
    optimizer: optax.GradientTransformation


class Trained(NamedTuple):
    """Of an arm, leaves ``(seed, ...)``: what it ended with; the epoch when its layers had settled, or -1."""

    task: Task
    params: Any
    structure: Any
    diverged: Array
    settled: Array


def groups(run: lab.Run[Any], spec: NetworkSpec) -> list[Group]:
    """The programs: those of penalties, the one with windows, the one in factors."""
    config: Any = run.config
    adam = optax.adam(config.lr)
    task = partial(run.task, spec)
    factored = optax.chain(adam, homology.factored(read=read, write=write))
    plain = ("none", "l2", "gram", "defect", "nearest", "projected")
    return [
        Group("penalties", plain, task(penalty=penalty, activity=gram), adam),
        Group("gluing", ("gluing",), task(activity=glue), adam),
        Group("factored", ("factored",), task(), factored),
    ]


def train(run: lab.Run[Any], spec: NetworkSpec) -> dict[str, Trained]:
    """Trains every arm; the weights of ``nearest`` are those of a complex at the end."""
    found, made = dict[str, Trained](), groups(run, spec)
    arms = {g.stage: {n: arm for n, arm in run.config.arms.items() if arm[0] in g.kinds} for g in made}
    stages = [make_stage(run, spec, group, arms[group.stage]) for group in made]
    trained, count = lab.train_stages(run, stages), len(run.seeds)
    for group in made:
        state = trained[group.stage].kept
        for place, (name, (kind, _)) in enumerate(arms[group.stage].items()):
            here = slice(place * count, (place + 1) * count)
            kept = state.net.params, state.net.structure, state.diverged, state.net.carried["settled"]
            params, structure, gone, settled = jax.tree.map(partial(part, here=here), kept)
            params = run.over_seeds("the nearest complex", project, params) if kind == "nearest" else params
            found[name] = Trained(group.task, params, structure, gone, settled)
    return found


def project(params: Any) -> Any:
    """The parameters with the nearest complex as weights."""
    return write(params, homology.nearest(read(params))[0])


def make_stage(
    run: lab.Run[Any], spec: NetworkSpec, group: Group, arms: Mapping[str, tuple[str, float]]
) -> lab.Stage:
    """Trains the arms of one program side by side, and looks at their layers after every epoch."""
    count = len(run.seeds)

    def start(key: Any, before: Any) -> tuple[TrainState, ...]:
        key_mask, key_init = jax.random.split(key)
        params, structure = to_masked_network(*jaxnet.init(spec, key_mask=key_mask, key_init=key_init))
        structure = release_masks(structure)
        made = []
        for kind, strength in arms.values():
            first = project(params) if kind in ("projected", "factored") else params
            made.append(Net.of(first, structure, group.optimizer, carried(kind, strength, first)))
        return tuple(map(init_state, made))

    see = jax.jit(jax.vmap(lambda net, done: net.replace(carried=seen(net, done)), in_axes=(0, None)))
    nearest = [i for i, (kind, _) in enumerate(arms.values()) if kind == "nearest"]
    projected = jax.jit(jax.vmap(project))

    def between(done: int, state: TrainState, account: PyTree, _: EpochResult) -> tuple[TrainState, PyTree]:
        params = state.net.params
        for place in nearest:
            here = slice(place * count, (place + 1) * count)
            made = projected(jax.tree.map(partial(part, here=here), params))
            params = jax.tree.map(partial(put, here=here), params, made)
        return state.replace(net=see(state.net.replace(params=params), jnp.asarray(done))), account

    return lab.Stage(
        group.stage,
        run.config.epochs,
        group.task,
        start,
        hand=lambda kept: None,
        arms=tuple(arms),
        between=between,
    )


def part(leaf: Array, here: slice) -> Array:
    """Some networks of a leaf."""
    return leaf[here]


def put(leaf: Array, new: Array, here: slice) -> Array:
    """A leaf with other values for these networks."""
    return leaf.at[here].set(new)


def seen(net: Net, done: Array) -> dict[str, Any]:
    """What a network carries after a further look at its layers: also the epoch when they had settled."""
    watch = homology.observe(net.carried["watch"], read(net.params))
    first = (net.carried["settled"] < 0) & homology.settled(watch)
    return {**net.carried, "watch": watch, "settled": jnp.where(first, done, net.carried["settled"])}


def carried(kind: str, strength: float, params: Any) -> dict[str, Any]:
    """The strengths of an arm, as data: one program trains all. Also the first look at its layers."""
    names = ("l2", "gram", "defect", "gluing")
    found = {name: jnp.asarray(strength if name == kind else 0.0, jnp.float32) for name in names}
    return {**found, "watch": homology.watch(read(params)), "settled": jnp.asarray(-1)}


def features(task: Task, params: Any, structure: Any, data: Any, turn: bool) -> tuple[Array, Array, Array]:
    """Last hidden features ``(sample, unit)``, mean norms of hidden layers, labels; images may be turned."""

    def step(_: None, rows: Array) -> tuple[None, Any]:
        x, y = data.batch(rows)
        seen: Any = task.model(params, structure, x[:, ::-1] if turn else x, key_forward=None)[1]
        return None, (seen.post[-1].T, jnp.stack([jnp.linalg.norm(h, axis=0) for h in seen.post], 1), y)

    index, _ = epoch_batches(data.size, min(1000, data.size), None)
    _, (last, norms, y) = jax.lax.scan(step, None, index)
    last, norms, y = (leaf.reshape(-1, *leaf.shape[2:])[: data.size] for leaf in (last, norms, y))
    return last, jnp.mean(norms, 0), y


def watched(task: Task, params: Any, structure: Any, data: Any) -> dict[str, Array]:
    """On validation samples: accuracy, norms of the features, and what the layers are."""
    norms, d = features(task, params, structure, data, False)[1], read(params)
    return {
        "accuracy": jaxnet.evaluate(task, params, structure, data).accuracy,
        "first": norms[0],
        "second": norms[1],
        "defect": jnp.max(homology.defect(d, relative=True)),
    }


def choose(
    run: lab.Run[Any], trained: Mapping[str, Trained]
) -> tuple[dict[str, str], list[dict[str, Any]], dict[str, Any]]:
    """The arm of each kind that is best on validation samples (mean over seeds); what was tried, and seen."""
    tried, looked = [], {}
    for name, (kind, strength) in run.config.arms.items():
        one = trained[name]
        found = run.over_seeds(
            "validation", partial(watched, one.task), one.params, one.structure, run.split("val")
        )
        looked[name] = found
        sound = ~np.asarray(one.diverged)
        means = {k: float(np.mean(np.asarray(v)[sound])) if sound.any() else np.nan for k, v in found.items()}
        means["accuracy"] = means["accuracy"] if sound.all() else np.nan  # one that may diverge is not chosen
        tried.append({"name": name, "kind": kind, "strength": strength, **means})
    best = {}
    for kind in dict.fromkeys(t["kind"] for t in tried):
        here = [t for t in tried if t["kind"] == kind]
        best[kind] = max(here, key=lambda t: np.nan_to_num(t["accuracy"], nan=-1.0))["name"]
    return best, tried, looked


def transfer(shots: Float[Array, "sample"], task: Task, params: Any, structure: Any, *splits: Any) -> Array:
    """Test accuracy of a ridge regression on frozen features of images upside down, from few samples."""
    train, val, test = (features(task, params, structure, data, True)[::2] for data in splits)
    classes = task.model.spec.sizes[-1]  # type: ignore[attr-defined]

    def with_one(h: Array) -> Array:
        return jnp.concatenate([h, jnp.ones((len(h), 1), h.dtype)], 1)

    a, wanted = with_one(train[0][shots]), jax.nn.one_hot(train[1][shots], classes)
    scale = jnp.mean(a[:, :-1] ** 2) * len(a)

    def right(share: float, data: tuple[Array, Array]) -> Scalar:
        ridge = share * jnp.maximum(scale, 1e-12) * jnp.eye(a.shape[1]).at[-1, -1].set(1e-6)
        w = solve(a.T @ a + ridge, a.T @ wanted)
        return jnp.mean(jnp.argmax(with_one(data[0]) @ w, 1) == data[1])

    ridges = jnp.stack([right(share, val) for share in RIDGES])
    return jnp.stack([right(share, test) for share in RIDGES])[jnp.argmax(ridges)]


def measure(
    run: lab.Run[Any], trained: Mapping[str, Trained], chosen: Mapping[str, str], looked: Mapping[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """An entry per seed of every kind, from its chosen strength and what was seen of it; reads the test."""
    splits = [run.split(part) for part in ("train", "val", "test")]
    labels = np.asarray(splits[0].y)
    places = [np.flatnonzero(labels == c)[: run.config.shots] for c in range(run.dataset.num_classes)]
    shots = jnp.asarray(np.concatenate(places))
    arms: dict[str, list[dict[str, Any]]] = {}
    for kind, name in chosen.items():
        one = trained[name]
        accuracy, halves = run.judge(one.task, one.params, one.structure, splits[2])
        moved = run.over_seeds(
            "the transfer", partial(transfer, shots, one.task), one.params, one.structure, *splits
        )
        on_val = looked[name]
        look = run.over_seeds("the layers", lambda p: homology.watch(read(p)), one.params)
        gone = np.asarray(one.diverged) | np.isnan(accuracy)
        arms |= lab.entries(
            run.seeds,
            (kind,),
            diverged=gone,
            accuracy=np.where(gone, np.nan, accuracy),
            accuracy_halves=halves,
            transfer=np.where(gone, np.nan, lab.run.exact(np.asarray(moved), splits[2].size)),
            norms={"first": on_val["first"], "second": on_val["second"]},
            defect=on_val["defect"],
            betti=np.asarray(look.dims)[:, 1, :, 0].tolist(),
            settled=[int(n) if n >= 0 else None for n in one.settled],
        )
    return arms
