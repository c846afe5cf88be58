"""An independent reference in NumPy float64: forward, backward and Adam, written out by hand.

It shares no code with the library: loops over units, slots and connections
instead of matrices built by scatters, and derivatives worked out by hand
instead of automatic differentiation. Trees of the library come in with all
leaves as NumPy arrays (:func:`to_numpy`) and gradients go out in the same form.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

Array = np.ndarray

_C = np.sqrt(2 / np.pi)


def to_numpy(tree: Any) -> Any:
    """The tree with NumPy leaves; floating-point ones in float64."""

    def leaf(a: Any) -> Array:
        a = np.asarray(a)
        return a.astype(np.float64) if np.issubdtype(a.dtype, np.floating) else a

    return jax.tree.map(leaf, tree)


def activate(z: Array, name: str) -> Array:
    """The activation functions."""
    if name == "relu":
        return np.maximum(z, 0)
    if name == "tanh":
        return np.tanh(z)
    if name == "sigmoid":
        return 1 / (1 + np.exp(-z))
    if name == "gelu":  # the tanh approximation
        return 0.5 * z * (1 + np.tanh(_C * (z + 0.044715 * z**3)))
    assert name == "identity"
    return z


def slope(z: Array, name: str) -> Array:
    """Their derivatives."""
    if name == "relu":
        return (z > 0).astype(np.float64)
    if name == "tanh":
        return 1 - np.tanh(z) ** 2
    if name == "sigmoid":
        s = activate(z, name)
        return s * (1 - s)
    if name == "gelu":
        t = np.tanh(_C * (z + 0.044715 * z**3))
        return 0.5 * (1 + t) + 0.5 * z * (1 - t**2) * _C * (1 + 3 * 0.044715 * z**2)
    return np.ones_like(z)


def matrix(weight: Array, connectivity: Any) -> Array:
    """The dense matrix of a layer of either representation."""
    if hasattr(connectivity, "mask"):
        return np.where(connectivity.mask, weight, 0.0)
    w = np.zeros(connectivity.shape)
    for r, c, v in zip(connectivity.rows, connectivity.cols, weight, strict=True):
        if r < w.shape[0]:
            w[r, c] = v
    return w


def _unmatrix(d: Array, connectivity: Any) -> Array:
    """The gradient of the stored values from the gradient of the matrix."""
    if hasattr(connectivity, "mask"):
        return np.where(connectivity.mask, d, 0.0)
    return np.array(
        [
            d[r, c] if r < d.shape[0] else 0.0
            for r, c in zip(connectivity.rows, connectivity.cols, strict=True)
        ]
    )


def _links(patches: Any) -> list[tuple[int, int, int]]:
    """``(slot of the value, row, column)`` of every connection of the active ``dense`` patches."""
    t = patches.topology
    return [
        (k, int(t.rows[k]), int(t.cols[k]))
        for k in range(len(t.rows))
        if t.rows[k] < t.shape[0] and patches.active[patches.owner[k]]
    ]


def _small(part: Any, k: int, x: Array) -> tuple[Array, Array]:
    """Hidden pre-activations and output of the ``k``-th small network on ``x: (input, batch)``."""
    hidden = part.w1[k] @ x + part.b1[k][:, None]
    return hidden, part.w2[k] @ np.maximum(hidden, 0) + part.b2[k][:, None]


def _small_back(part: Any, grad: Any, k: int, x: Array, d_out: Array) -> Array:
    """Adds the gradients of the ``k``-th small network to ``grad`` and returns that of ``x``."""
    hidden, _ = _small(part, k, x)
    d_hidden = (part.w2[k].T @ d_out) * (hidden > 0)
    grad.w2[k] += d_out @ np.maximum(hidden, 0).T
    grad.b2[k] += d_out.sum(1)
    grad.w1[k] += d_hidden @ x.T
    grad.b1[k] += d_hidden.sum(1)
    return part.w1[k].T @ d_hidden


def _patch_output(values: Any, patches: Any, rules: Any, pre: Array, post: Array, out: int) -> Array:
    total = np.zeros((out, pre.shape[1]))
    if rules.kind == "dense":
        for k, r, c in _links(patches):
            total[r] += values.weight[k] * post[c]
        return total
    for k, (unit, active) in enumerate(zip(patches.unit, patches.active, strict=True)):
        low = k - patches.num_high
        if not active:
            continue
        if low < 0:
            y = _small(values.high, k, pre[unit][None])[1]
            for j, target in enumerate(patches.targets[k]):
                total[target] += rules.scale_high * y[j]
        else:
            y = _small(values.low, low, post[patches.sources[low]])[1]
            total[unit] += rules.scale_low * y[0]
    return total


def _patch_back(
    values: Any, grad: Any, patches: Any, rules: Any, pre: Array, post: Array, d: Array
) -> tuple[Array, Array]:
    """Adds to ``grad`` in place; returns what flows back into ``pre`` and ``post`` of the layer below."""
    d_pre, d_post = np.zeros_like(pre), np.zeros_like(post)
    if rules.kind == "dense":
        for k, r, c in _links(patches):
            grad.weight[k] += np.sum(d[r] * post[c])
            d_post[c] += values.weight[k] * d[r]
        return d_pre, d_post
    for k, (unit, active) in enumerate(zip(patches.unit, patches.active, strict=True)):
        low = k - patches.num_high
        if not active:
            continue
        if low < 0:
            d_out = rules.scale_high * np.stack([d[target] for target in patches.targets[k]])
            back = _small_back(values.high, grad.high, k, pre[unit][None], d_out)
            if not getattr(rules, "detach_source", False):
                d_pre[unit] += back[0]
        else:
            sources = patches.sources[low]
            back = _small_back(values.low, grad.low, low, post[sources], rules.scale_low * d[unit][None])
            for j, s in enumerate(sources):
                d_post[s] += back[j]
    return d_pre, d_post


def skip_sources(layer: int) -> list[int]:
    """Hidden layers, counted from 0, with skips into ``layer``: those 2 and 3 layers of units before it."""
    return [s for s in range(layer) if 2 <= layer - s <= 3]


def forward(name: str, params: Any, structure: Any, x: Array) -> tuple[Array, list[Array], list[Array]]:
    """Logits ``(classes, batch)``, and pre- and post-activations of the input and the hidden layers."""
    pres, posts = [x], [x]
    for t, (layer, c) in enumerate(zip(params.scaffold, structure.weights, strict=True)):
        z = matrix(layer.weight, c) @ posts[-1] + layer.bias[:, None]
        if structure.skips and structure.skips[t] is not None:
            sources = np.concatenate([posts[s + 1] for s in skip_sources(t)])
            z = z + matrix(params.skips[t], structure.skips[t]) @ sources
        bank = structure.bank
        if bank is not None and bank.layers[t] is not None:
            reads = bank.layers[t].reads
            pre, post = (np.concatenate([side[-d] for d in reads]) for side in (pres, posts))
            z = z + _patch_output(params.patches[t], bank.layers[t], bank.rules, pre, post, z.shape[0])
        if t < len(params.scaffold) - 1:
            pres.append(z)
            posts.append(activate(z, name))
    return z, pres, posts


def loss_of(logits: Array, y: Array, weight: Array | None = None) -> float:
    """Mean cross-entropy in nats."""
    w = np.ones(len(y)) if weight is None else weight
    shifted = logits - logits.max(0)
    log_p = shifted - np.log(np.exp(shifted).sum(0))
    return float(-np.sum(w * log_p[y, np.arange(len(y))]) / w.sum())


def gradient(name: str, params: Any, structure: Any, x: Array, y: Array) -> tuple[float, Any]:
    """Loss and its gradient, a tree like ``params``."""
    logits, pres, posts = forward(name, params, structure, x)
    grads = jax.tree.map(np.zeros_like, params)
    p = np.exp(logits - logits.max(0))
    d = p / p.sum(0)
    d[y, np.arange(len(y))] -= 1
    d /= len(y)
    bank = structure.bank
    # what flows back into the pre- and post-activations of every layer, the input first
    to_pre, to_post = ([np.zeros_like(a) for a in side] for side in (pres, posts))
    for t in reversed(range(len(params.scaffold))):
        layer, c = params.scaffold[t], structure.weights[t]
        if t < len(params.scaffold) - 1:
            d = to_pre[t + 1] + to_post[t + 1] * slope(pres[t + 1], name)
        grads.scaffold[t].weight[...] = _unmatrix(d @ posts[t].T, c)
        grads.scaffold[t].bias[...] = d.sum(1)
        to_post[t] += matrix(layer.weight, c).T @ d
        if structure.skips and structure.skips[t] is not None:
            skips, below = structure.skips[t], [s + 1 for s in skip_sources(t)]
            grads.skips[t][...] = _unmatrix(d @ np.concatenate([posts[s] for s in below]).T, skips)
            back = matrix(params.skips[t], skips).T @ d
            for s in below:
                to_post[s] += back[: len(posts[s])]
                back = back[len(posts[s]) :]
        if bank is not None and bank.layers[t] is not None:
            below = [t + 1 - distance for distance in bank.layers[t].reads]
            pre, post = (np.concatenate([side[s] for s in below]) for side in (pres, posts))
            back = _patch_back(params.patches[t], grads.patches[t], bank.layers[t], bank.rules, pre, post, d)
            start = 0
            for s in below:
                stop = start + len(pres[s])
                to_pre[s] += back[0][start:stop]
                to_post[s] += back[1][start:stop]
                start = stop
    return loss_of(logits, y), grads


class Adam:
    """Adam with one rate for the scaffold and one for the patches."""

    def __init__(self, params: Any, rate: float, rate_patch: float) -> None:
        self.m = jax.tree.map(np.zeros_like, params)
        self.v = jax.tree.map(np.zeros_like, params)
        self.rates = params.replace(
            scaffold=jax.tree.map(lambda a: rate, params.scaffold),
            patches=jax.tree.map(lambda a: rate_patch, params.patches),
        )
        self.t = 0

    def step(self, params: Any, grads: Any) -> Any:
        """The values after one step."""
        self.t += 1
        self.m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, self.m, grads)
        self.v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, self.v, grads)

        def move(p: Array, m: Array, v: Array, rate: float) -> Array:
            m_hat, v_hat = m / (1 - 0.9**self.t), v / (1 - 0.999**self.t)
            return p - rate * m_hat / (np.sqrt(v_hat) + 1e-8)

        return jax.tree.map(move, params, self.m, self.v, self.rates)
