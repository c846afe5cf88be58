"""Decoders whose circuit is known: programs compiled by Tracr, among distractors that cancel.

Tracr (Lindner et al. 2023; the extra ``tracr``) compiles a program into the weights of a transformer: those
that are not zero are its circuit. Between them stand pairs of hidden units and of heads with equal weights
into them and opposite ones out of them: each alone does much, both together nothing
(:mod:`jaxnet.circuits.planted` does the same for perceptrons).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import itertools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import circuits
from jaxnet.circuits import Suite
from jaxnet.losses import TokenLabels
from jaxnet.programs import ONCE
from jaxnet.train import Task
from jaxnet.types import Array

PROGRAMS = ("reverse", "sort")
"""What is compiled: a list of letters backwards; different numbers by size."""

SCORES = ("integrated gradients", "gradient x w", "exact ablation", "|w|", "random")
"""What is judged by how often a weight of the program ranks above a distractor's."""

NEEDED = 1e-4
"""Rise of the loss, in nats, from which the program alone needs a weight."""

LENGTH, MOST, SHARPNESS = 4, 32, 8.0
"""Tokens of a sample behind the first one; samples at most; what makes logits of the one-hot outputs."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A transformer without causality and norms, its heads side by side (a :class:`jaxnet.train.Model`).

    Attributes:
      scale: what scores are divided by.
      outputs: units of the stream that are the logits.
    """

    scale: float
    outputs: tuple[int, ...]
    class_axis: ClassVar[int] = -1

    def __call__(self, params: Any, structure: Any, x: Array, *, key_forward: Any) -> tuple[Array, Any]:
        """``(batch, time, unit)``, the embedded tokens, to logits ``(batch, time, token)``."""
        del structure, key_forward
        high = jax.lax.Precision.HIGHEST
        for layer in params:
            q, k, v = (
                jnp.einsum("btd,hdf->bhtf", x, layer[name], precision=high)
                for name in ("query", "key", "value")
            )
            share = jax.nn.softmax(jnp.einsum("bhtf,bhsf->bhts", q, k, precision=high) / self.scale)
            read = jnp.einsum("bhts,bhsf->bhtf", share, v, precision=high)
            x = x + jnp.einsum("bhtf,hfd->btd", read, layer["out"], precision=high)
            hidden = jax.nn.relu(jnp.matmul(x, layer["up"], precision=high) + layer["bias"])
            x = x + jnp.matmul(hidden, layer["down"], precision=high)
        return SHARPNESS * x[..., jnp.asarray(self.outputs)], ()


def installed() -> bool:
    """Whether Tracr is there."""
    return importlib.util.find_spec("tracr") is not None


@functools.cache
def compiled(program: str) -> tuple[Any, list[dict[str, np.ndarray]], Suite]:
    """A program: its model, its layers, and lists that it may be given, as a suite of one capability."""
    compiling = importlib.import_module("tracr.compiler.compiling")
    library = importlib.import_module("tracr.compiler.lib")
    rasp = importlib.import_module("tracr.rasp.rasp")
    words: Any = ("a", "b", "c") if program == "reverse" else (1, 2, 3, 4)
    asked = (
        library.make_reverse(rasp.tokens)
        if program == "reverse"
        else library.make_sort_unique(rasp.tokens, rasp.tokens)
    )
    made = compiling.compile_rasp_to_model(asked, vocab=set(words), max_seq_len=LENGTH, compiler_bos="BOS")
    lists = (
        list(itertools.product(words, repeat=LENGTH))
        if program == "reverse"
        else list(itertools.permutations(words))
    )
    lists = lists[:: -(-len(lists) // MOST)]
    encode, stream = made.input_encoder.encode, np.asarray
    tokens = np.array([encode(["BOS", *one]) for one in lists])
    given, place = (stream(made.params[n]["embeddings"]) for n in ("token_embed", "pos_embed"))
    x = given[tokens] + place[: tokens.shape[1]]
    results = [label for label in made.residual_labels if label.startswith(("reverse_", "sort_"))]
    outputs = tuple(made.residual_labels.index(label) for label in results)
    names = [label.rpartition(":")[2] for label in results]
    order = [one[::-1] if program == "reverse" else tuple(sorted(one)) for one in lists]
    y = np.array([[0, *(names.index(str(word)) for word in one)] for one in order])
    weight = np.broadcast_to(np.arange(LENGTH + 1) > 0, y.shape).astype(np.float32)
    layers = []
    for number in range(made.model_config.num_layers):
        of = lambda part, name, n=number: np.asarray(made.params[f"transformer/layer_{n}/{part}"][name])  # noqa: E731
        parts = {name: of(f"attn/{name}", "w")[None] for name in ("query", "key", "value")}
        up, down = of("mlp/linear_1", "w"), of("mlp/linear_2", "w")
        out = of("attn/linear", "w")[None]
        layers.append({**parts, "out": out, "up": up, "bias": of("mlp/linear_1", "b"), "down": down})
    share = jnp.full((1, len(lists)), 1 / len(lists))
    labels = TokenLabels(jnp.asarray(y, jnp.int32), jnp.asarray(weight))
    suite = Suite(jnp.asarray(x, jnp.float32), labels, share, share, jnp.asarray([-1]), "answers")
    model = Compiled(float(np.sqrt(made.model_config.key_size)), outputs)
    return Task(model), layers, suite


def among(
    layers: list[dict[str, np.ndarray]], draw: np.random.Generator, heads: int, units: int
) -> tuple[Any, Any]:
    """The layers with so many pairs of heads and of hidden units that cancel; and which are the program's.

    Returns:
      Parameters; which of them have places that are the program's.
    """
    made, truth = [], []
    for layer in layers:
        stream = len(layer["up"])
        more: dict[str, np.ndarray] = {}
        for name in ("query", "key", "value"):
            shape = heads, *layer[name].shape[1:]
            drawn = draw.normal(size=shape) * (draw.random(shape) < 3 / shape[1])
            more[name] = np.repeat(drawn, 2, axis=0)
        shape = heads, *layer["out"].shape[1:]
        drawn = draw.normal(size=shape) * (draw.random(shape) < 3 / shape[1])
        more["out"] = np.stack([drawn, -drawn], 1).reshape(2 * heads, *shape[1:])
        into = draw.normal(size=(stream, units)) * (draw.random((stream, units)) < 3 / stream)
        leave = draw.normal(size=(units, stream)) * (draw.random((units, stream)) < 2 / stream)
        more["up"], more["bias"] = np.repeat(into, 2, axis=1), np.zeros(2 * units)
        more["down"] = np.stack([leave, -leave], 1).reshape(2 * units, stream)
        axes = {"up": 1, "bias": 0}
        whole = {n: np.concatenate([layer[n], more[n]], axes.get(n, 0)) for n in layer}
        own = {
            n: np.concatenate([np.ones_like(layer[n], bool), np.zeros_like(more[n], bool)], axes.get(n, 0))
            for n in layer
        }
        made.append({n: jnp.asarray(v, jnp.float32) for n, v in whole.items()})
        truth.append({n: jnp.asarray(v) for n, v in own.items()})
    return made, truth


@functools.cache
def looks(program: str) -> Any:
    """Two compiled functions of the layers: what is judged, and the loss without each of some weights."""
    task, _, suite = compiled(program)

    def whole(params: Any) -> dict[str, Array]:
        of = circuits.measured(task, params, {}, suite)
        scores = {
            name: -circuits.attribute(task, params, {}, suite, nodes=nodes).scores[0]
            for name, nodes in (("integrated gradients", 32), ("gradient x w", 0))
        }
        logits = task.model(params, {}, suite.x, key_forward=None)[0]
        labels: Any = suite.y
        hits = (jnp.argmax(logits, -1) == labels.labels) * labels.weight
        keep = jnp.ones_like(scores["gradient x w"])
        ends = {"loss": of(keep)[0], "nothing": of(0 * keep)[0]}
        return {**scores, **ends, "right": jnp.sum(hits) / jnp.sum(labels.weight)}

    def each(params: Any, some: Array) -> Array:
        of = circuits.measured(task, params, {}, suite)
        place = jnp.arange(circuits.weight_values(params, {}).size)
        return jax.lax.map(lambda e: of(place != e)[0], some, batch_size=16)

    return jax.jit(whole, compiler_options=ONCE), jax.jit(each, compiler_options=ONCE)


def judged(program: str, seed: int, heads: int = 2, units: int = 12) -> dict[str, float]:
    """AUROC of every score; ``loss`` of the whole, of ``nothing``; the share of ``right`` answers.

    A weight counts as the program's where these samples need it: the program alone does worse without it.
    Others of the program, as for lengths that no sample has, are left out.
    """
    layers = compiled(program)[1]
    draw = np.random.default_rng(seed)
    params, truth = among(layers, draw, heads, units)
    values, mine = (np.asarray(circuits.weight_values(tree, {})) for tree in (params, truth))
    there = np.flatnonzero(values)
    filled = jnp.asarray(np.pad(there, (0, -len(there) % 512)))  # one shape for several draws
    whole, each = looks(program)
    found, alone = dict(whole(params)), jax.tree.map(lambda p, own: p * own, params, truth)
    rises = np.asarray(each(alone, filled))[: len(there)] - float(whole(alone)["loss"])
    judged = ~mine[there] | (rises > NEEDED)
    some = there[judged]
    scores = {
        **{name: found.pop(name)[some] for name in SCORES[:2]},
        "exact ablation": each(params, filled)[: len(there)][judged],
        "|w|": np.abs(values[some]),
    }
    numbers = {
        name: float(circuits.auroc(jnp.asarray(score), jnp.asarray(mine[some])))
        for name, score in scores.items()
    }
    chance = draw.random((20, some.size)).astype(np.float32)  # few weights are needed: one draw says little
    of_chance = [circuits.auroc(jnp.asarray(one), jnp.asarray(mine[some])) for one in chance]
    numbers["random"] = float(np.mean(np.asarray(of_chance)))
    return {**numbers, **{name: float(value) for name, value in found.items()}}
