"""What is added to a trained network of ``experiments.cifar10_conv``: patches, weights at channels, units."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

import jaxnet
from experiments._conv_net import counts_of
from jaxnet import changes
from jaxnet.optim import followed
from jaxnet.patches import slot_counts
from jaxnet.patches.dense import connected

QUANTILE = 0.15
"""Of the channels and units, at either end, that count as extreme."""

PATCH_DENSITY = 0.5
"""Of the layer above or below, that a dense patch connects to."""

NEW_UNITS = 16
"""Hidden units that a growing head gets."""


def find(task: Any, state: Any, split: Any) -> dict[str, Any]:
    """The extrema of the head's hidden layers and of the base's channels, of one network."""
    params, structure = state.net.params, state.net.structure
    base = jaxnet.Task(task.model.base, task.batch_size)
    how: dict[str, Any] = {"signal": "quantile", "quantile": QUANTILE}
    # before the activation: after it several dead units tie at zero, and none of them is the lowest
    head = jaxnet.signals.find(task, params, structure, split, values="pre", **how)
    below = params["base"], structure["base"]
    return {"head": head, "base": jaxnet.signals.find(base, below[0], below[1], split, values="post", **how)}


def changed(config: Any, state: Any, found: dict[str, Any], key: Any) -> Any:
    """The state of one network before the second phase: it goes on from where the first has ended."""
    net = state.net
    how = {"key": jaxnet.keys.purpose(key, jaxnet.keys.PATCH)}
    if config.adds == "patches":
        net = with_patches(config, net, found["head"], **how)
    elif config.adds == "channels":
        net = with_channels(config, net, found["base"], **how)
    elif config.adds == "growth":
        net = with_units(config, net, **how)
    if config.base == "frozen":  # nothing is left of the steps before
        opt_state = followed(
            net.optimizer, net.opt_state, net.params, net.params, lambda part: {**part, "base": zeros(part)}
        )
        net = net.replace(opt_state=opt_state)
    return jaxnet.init_state(net).replace(diverged=state.diverged)


def zeros(part: Any) -> Any:
    """The base's entries, all zero."""
    return jax.tree.map(jnp.zeros_like, part["base"])


def with_patches(config: Any, net: Any, extrema: Any, *, key: Any) -> Any:
    """Dense patches at hidden units of the head's first layer, as many as have the weights to be added.

    A low patch reads the base's features: with one hidden layer there are no others, and a high one leads
    into the outputs only. Low ones begin at random, as in ``experiments.patched_density``: silent ones would
    never get a gradient at a unit that is dead, and the places could not be compared.
    """
    there = [entry.shape for entry in net.structure["head"].weights]
    each = weights_of_patches([there[0][1], *(outputs for outputs, _ in there)], 1)
    rules = jaxnet.PatchRules(
        "dense", config.added // each, config.placement, PATCH_DENSITY, first_layer=True
    )

    def patched(params: Any) -> Any:
        head, wired = jaxnet.with_patches(
            params["head"], net.structure["head"], extrema, rules, key_patch=key
        )
        return {**params, "head": head}, {**net.structure, "head": wired}

    return changes.reshape(net, patched)


def room_for(config: Any, shapes: list[tuple[int, ...]], counts: list[int]) -> None:
    """Raises ValueError where what is to be added has no place in networks of these arrays and weights."""
    kernels = [shape for shape in shapes if len(shape) == 4]
    heads = [shape for shape in shapes if len(shape) == 2]
    if config.adds == "patches":
        least, most = weights_of_patches([heads[0][0], *(outputs for _, outputs in heads)], 1), None
    elif config.adds == "channels":
        least, most = 1, sum(map(math.prod, kernels)) - sum(counts[: len(kernels)])
    elif config.adds == "growth":
        least, most = 2 * NEW_UNITS, NEW_UNITS * heads[0][0] + outgoing_of(config, heads[1][1])
    else:
        return
    if config.added < least or (most is not None and config.added > most):
        limits = f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"--added {config.added}: {config.adds} can be {limits} weights here")


def weights_of_patches(sizes: list[int], number: int) -> int:
    """Weights of so many dense patches of every layer and sort, in a head of these sizes, at most."""
    counts = slot_counts(sizes, number, first_layer=True)
    return sum(
        high * connected(PATCH_DENSITY, above) + low * connected(PATCH_DENSITY, below)
        for (high, low), below, above in zip(counts, sizes[:-1], sizes[1:], strict=True)
    )


def with_channels(config: Any, net: Any, extrema: Any, *, key: Any) -> Any:
    """Weights in the kernels, into low channels and out of high ones, shared out by the room there is."""
    chain = [f"['base']['Conv_{k}']['kernel']" for k in range(len(extrema))]
    there: dict[str, Any] = jaxnet.structure.entries(net.structure)
    shapes = [there[path].shape for path in chain]
    heads = [(entry.shape[1], entry.shape[0]) for entry in net.structure["head"].weights]
    held = counts_of([*shapes, *heads], config.at_start, config.base_share)
    free = [math.prod(shape) - count for shape, count in zip(shapes, held, strict=False)]
    shares = [config.added * n // sum(free) for n in free]
    shares[free.index(max(free))] += config.added - sum(shares)
    units = max(shape[3] for shape in shapes)  # all that are extreme: fewer have no room for so many weights
    return changes.grow_around(
        net,
        dict(zip(chain, extrema, strict=True)),
        dict(zip(chain, shares, strict=True)),
        units=units,
        chain=chain,
        placement=config.placement,
        key=key,
    )[0]


def outgoing_of(config: Any, outputs: int) -> int:
    """How many of the weights that are added lead from new hidden units to so many units above."""
    return min(NEW_UNITS * outputs, config.added // 2)


def with_units(config: Any, net: Any, *, key: Any) -> Any:
    """A wider hidden layer of the head; the function is unchanged."""
    first, second = net.structure["head"].weights[:2]
    outgoing = outgoing_of(config, second.shape[0])
    sizes = (first.shape[1], *(entry.shape[0] for entry in net.structure["head"].weights))
    how: dict[str, Any] = {"layer": 0, "units": NEW_UNITS, "rule": "preserve"}
    how |= {"nonzeros_in": config.added - outgoing, "nonzeros_out": second.capacity + outgoing}
    spec = jaxnet.NetworkSpec(sizes, 1.0)
    return changes.grown(net, spec, changes.widen, part="head", **how, key_mask=key, key_init=key)[0]


def count(params: Any, structure: Any) -> dict[str, Any]:
    """Weights that exist, of all, the base and the patches; and trained numbers that are no weights."""
    head = jaxnet.count_nonzeros(params["head"], structure["head"])
    base = jaxnet.structure.count(params["base"], structure["base"])
    patch = head["patch"]
    weights = base["weights"] + head["scaffold"] + patch
    others = base["dense"] + head["bias"]
    return {"weights": weights, "base_weights": base["weights"], "patch_weights": patch, "others": others}
