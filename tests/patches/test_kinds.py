"""What every registered kind holds to, and a third kind: one class, registered once, goes everywhere."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import changes, patches
from jaxnet.nn import mlp as mlp_
from jaxnet.patches import KINDS, Kind, LayerPatches, PatchRules, SlotParams
from tests import networks

SPEC = mlp_.NetworkSpec(networks.SIZES, 0.4)
X = networks.samples().x.T


@functools.cache
def third() -> Kind[Any]:
    """The kind of docs/extending.md, as it stands there."""
    page = Path(__file__).parents[2] / "docs" / "extending.md"
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S) if "Kind)" in b)
    defined: dict[str, Any] = {"jax": jax}
    with mock.patch.dict(KINDS):
        exec(compile(block, str(page), "exec"), defined)
    kind: Kind[Any] = defined["Linear"]()
    return kind


# the original is the small network with faults wrapped around it; dense patches have tests of their own
KIND_PARAMS = [
    *(pytest.param(kind, marks=[pytest.mark.slow] * (kind != "mlp")) for kind in KINDS),
    "linear",
]


@pytest.fixture(params=KIND_PARAMS)
def rules(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> PatchRules:
    """Rules of every kind, the one made here among them."""
    monkeypatch.setitem(KINDS, "linear", third())
    return rules_of(request.param)


@pytest.fixture
def linear(monkeypatch: pytest.MonkeyPatch) -> PatchRules:
    monkeypatch.setitem(KINDS, "linear", third())
    return rules_of("linear")


def rules_of(kind: str) -> PatchRules:
    return KINDS[kind].rules(kind, 2, hidden=3, max_targets=2, max_inputs=4)


def forward(spec: Any, params: Any, structure: Any) -> jax.Array:
    return mlp_.forward(spec, params, structure, X)[0]


def test_patches_act_and_are_counted_until_they_are_removed(rules, key):
    def run(k):
        params, structure = networks.make(SPEC, rules, k)
        slots = jnp.arange(patches.active_slots(structure.bank).shape[0])
        bank, values = patches.remove_patches(structure.bank, params.patches, slots % 3 != 0)
        params, structure = params.replace(patches=values), structure.replace(bank=bank)
        off = jnp.zeros(patches.active_slots(bank).shape, bool)
        gone = patches.remove_patches(bank, values, off)
        nets: Any = [
            (params, structure),
            (params.replace(patches=gone[1]), structure.replace(bank=gone[0])),
            (params, structure.replace(bank=patches.keep_patches(bank, off))),
            (params.replace(patches=()), structure.replace(bank=None)),
        ]
        return params, structure, gone, patches.slot_sizes(bank, values), [forward(SPEC, *n) for n in nets]

    compiled = networks.quick(run)
    compiled(jax.random.fold_in(key, 1))
    params, structure, gone, sizes, (logits, removed, off, bare) = compiled(key)
    assert compiled._cache_size() == 1, "one program whatever the key"
    assert np.abs(logits - bare).max() > 1e-3
    np.testing.assert_allclose(removed, bare, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(off, removed)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gone[1]))
    active = np.asarray(patches.active_slots(structure.bank))
    assert active.any() and not active[::3].any()
    assert np.all(sizes[active] > 0) and np.all(sizes[~active] == 0)
    # as many values as are not zero where nothing is removed or padding
    assert int(sizes.sum()) == sum(np.count_nonzero(leaf) for leaf in jax.tree.leaves(params.patches))


def test_more_patches_and_a_growing_scaffold(rules, key):
    """Silent patches, a layer inserted below and above, units added: nothing changes, everything fits."""
    kept = getattr(rules, "keep_level", False)
    specs: list[Any] = []

    def run(k):
        keys = dict(zip(("key_mask", "key_init"), jax.random.split(k), strict=True))
        net: Any = (SPEC, *networks.make(SPEC, rules, k, share=0.8))
        nets: list[Any] = [net]
        for step in ("widen 0", "insert 0", "patch"):
            spec, _, structure = nets[-1]
            what, *where = step.split()
            at = int(where[0]) if where else 0
            there = structure.weights[at + 1].capacity
            found = networks.made_up_extrema(spec.sizes, jax.random.fold_in(k, len(nets)))
            if what == "patch":
                add: Any = changes.add_patches
                net = add(*net, found, rules, rule="preserve", key_patch=k)
            elif what == "widen":
                more: Any = {"layer": at, "units": 3, "nonzeros_in": 7, "nonzeros_out": there + 5, **keys}
                net = changes.widen(*nets[-1], rule="preserve", **more)
            else:
                size = spec.sizes[at + 1] + 2
                more = {"after": at, "size": size, "nonzeros_in": 3 * size, "nonzeros_out": there + 3, **keys}
                if kept:
                    with pytest.raises(ValueError, match="choose rule redraw"):
                        changes.insert_layer(*nets[-1], rule="preserve", **more)
                net = changes.insert_layer(*nets[-1], rule="redraw" if kept else "preserve", **more)
            nets.append(net)
        specs[:] = [n[0] for n in nets]
        counted = [patches.slot_sizes(s.bank, p.patches) for _, p, s in nets]
        return [n[1:] for n in nets], [forward(*n) for n in nets], counted

    nets, logits, counted = networks.quick(run)(key)
    assert np.abs(logits[0]).max() > 1e-2
    for (params, structure), spec, out in zip(nets, specs, logits, strict=True):
        assert len(structure.bank.layers) == len(params.patches) == len(spec.sizes) - 1
        if not kept:
            np.testing.assert_allclose(out, logits[0], rtol=1e-4, atol=1e-5)
    for number, (before, after) in enumerate(zip(counted[:-1], counted[1:], strict=True)):
        more = int(after.sum()) > int(before.sum())
        assert more == (number == 2), "values come with patches alone"


def test_new_patches_stand_beside_old_ones_which_stay_as_they_are(rules, key):
    def run(k):
        params, structure = networks.make(SPEC, rules, k)
        more: Any
        found = networks.made_up_extrema(SPEC.sizes, jax.random.fold_in(k, 7))
        more = changes.with_patches(params, structure, found, rules, key_patch=jax.random.fold_in(k, 8))
        keep = []
        for old, new in zip(structure.bank.layers, more[1].bank.layers, strict=True):
            if new is not None:
                n, m = old.num_high, old.unit.shape[0] - old.num_high
                keep += [True] * n + [False] * n + [True] * m + [False] * m
        bank, values = patches.remove_patches(more[1].bank, more[0].patches, jnp.asarray(keep))
        back = more[0].replace(patches=values), more[1].replace(bank=bank)
        sizes = [patches.slot_sizes(s.bank, p.patches) for p, s in ((params, structure), more, back)]
        return [forward(SPEC, *n) for n in ((params, structure), more, back)], sizes

    (before, more, back), sizes = networks.quick(run)(key)
    assert np.abs(more - before).max() > 1e-4
    np.testing.assert_allclose(back, before, rtol=1e-5, atol=1e-6)
    assert int(sizes[0].sum()) == int(sizes[2].sum()) < int(sizes[1].sum())


def test_a_linear_patch_by_hand(linear):
    placed = LayerPatches(
        jnp.asarray([1, 2], jnp.int32),
        jnp.ones(2, bool),
        targets=jnp.asarray([[0, 3]]),
        sources=jnp.asarray([[0, 2]]),
        num_high=1,
    )
    values = SlotParams(jnp.asarray([[10.0, 20.0]]), jnp.asarray([[1.0, 2.0]]))
    post = jnp.asarray([[7.0], [1.0], [2.0]])
    bank = patches.PatchBank((None, placed), linear)
    out: Any = patches.apply_patches((None, values), bank, 1, [post] * 2, [post] * 2, 4, None)  # type: ignore[arg-type]
    assert out[:, 0].tolist() == [10.0, 0.0, 7.0 + 2 * 2.0, 20.0]
    off = patches.keep_patches(bank, jnp.asarray([False, True]))
    out = patches.apply_patches((None, values), off, 1, [post] * 2, [post] * 2, 4, None)  # type: ignore[arg-type]
    assert out[:, 0].tolist() == [0.0, 0.0, 11.0, 0.0]
    assert patches.slot_sizes(off, (None, values)).tolist() == [0, 2]
    with pytest.raises(ValueError, match="linear patches cannot be merged into the scaffold"):
        nothing: Any = [None, None]
        patches.merge_patches(nothing, nothing, (None, values), bank)


def test_contributions_and_training_of_a_third_kind(linear, key):
    def run(k):
        params, structure = networks.make(SPEC, linear, k)

        def accuracy(bank):
            return jnp.mean(forward(SPEC, params, structure.replace(bank=bank)))

        lost = patches.contributions(accuracy, structure.bank)
        slots = jnp.arange(lost.shape[0])
        alone = [accuracy(patches.keep_patches(structure.bank, slots != p)) for p in range(lost.shape[0])]
        grads = jax.grad(lambda p: jnp.sum(forward(SPEC, p, structure) ** 2))(params)
        return params, structure, lost, accuracy(structure.bank) - jnp.stack(alone), grads

    params, structure, lost, want, grads = networks.quick(run)(key)
    np.testing.assert_allclose(lost, want, atol=1e-5)
    assert np.any(lost) and not np.any(lost[~patches.active_slots(structure.bank)])
    for grad, value in zip(jax.tree.leaves(grads.patches), jax.tree.leaves(params.patches), strict=True):
        assert np.any(grad) and not np.any(grad[value == 0]), "what does not exist has no gradient"
