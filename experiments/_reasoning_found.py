"""What ``experiments.reasoning_circuits`` says of its networks: entries by seed, and matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _circuit_measures as circuit_measures
from experiments import _reasoning_measures as measures
from experiments import _tracr
from experiments._circuit_found import over_reached
from experiments._reasoning_data import of_suites
from experiments._reasoning_kinds import ARMS, BACKUP, BITS, HELD, MOVED, RULES, SOLVED, bits_by_kind
from experiments._reasoning_run import Reasoning
from jaxnet import compress, lab, transformer
from jaxnet.keys import CHANGE, purpose
from jaxnet.structure import entries
from jaxnet.transformer import components
from jaxnet.types import Array

Arms = dict[str, list[dict[str, Any]]]


def found(made: Reasoning, state: Any) -> tuple[Arms, dict[str, Any]]:
    """An entry per seed of every arm; and what the page shows besides."""
    nets, names, config = state["nets"], made.names, made.config
    arms: Arms = {}
    every, there = (np.asarray(state[what]) for what in ("size", "reached"))  # (seed, arm, suite)
    unseen = on_unseen(made, nets["trained"], state["keep"][:, 0])
    for arm, name in enumerate(ARMS):
        net = made.net_of(state, arm)
        y = made.together("answers", made.answers, (True,), made.keys) if arm == 1 else None
        full, empty, attention = owned(made, net, y, state["keep"][:, arm])
        accuracy, control = (judge(made, net, data) for data in (made.samples.test, made.samples.control))
        sizes, reached = every[:, arm], there[:, arm]
        shown: dict[str, Any] = {}
        if not arm:
            solves = accuracy >= SOLVED
            shown = {f"solves {suite}": solves[:, k].tolist() for k, suite in enumerate(names)}
            shown["unseen"] = over_reached(unseen, reached & np.isfinite(unseen))
        for rival, other in enumerate(ARMS[1:], start=1):  # over the suites that both of them reach
            if arm in (0, rival):
                shown[f"size beside {other}"] = over_reached(sizes, there[:, 0] & there[:, rival])
        arms |= lab.entries(
            made.run.seeds,
            [name],
            diverged=~np.isfinite(accuracy).all(1),
            accuracy=accuracy.mean(1),
            solved=(accuracy >= SOLVED).sum(1).astype(float),
            size=over_reached(sizes, reached),
            never=(~reached).mean(1),
            error=np.asarray(state["error"], float)[:, arm].mean(1),
            by_suite={
                "accuracy": of_names(names, accuracy),
                "control": of_names(names, control),
                "size": of_names(names, np.where(reached, sizes, np.nan)),
                "full": of_names(names, full),
                "empty": of_names(names, empty),
                "attention": of_names(names, attention),
                **({} if arm else {"unseen": of_names(names, np.where(reached, unseen, np.nan))}),
            },
            **shown,
        )
    facts = relations(made, nets["trained"], state["keep"][:, 0], arms)
    arms |= transplants(made, nets["trained"], state["keep"][:, 0])
    more, facts["bits"] = rounded(made, nets["trained"])
    arms |= more
    for name in (*HELD, "beside all"):
        accuracy = judge(made, nets["trained" if name == "beside all" else name], made.samples.test)
        rest = np.delete(accuracy, [made.last, made.protect], 1)
        arms |= lab.entries(
            made.run.seeds,
            [f"held: {name}"],
            diverged=~np.isfinite(accuracy).all(1),
            kept=accuracy[:, made.protect],
            learned=accuracy[:, made.last],
            others=rest.mean(1) if rest.shape[1] else np.full(len(accuracy), np.nan),
        )
    parameters = transformer.num_params(made.spec)
    facts["ground_truth"] = ground_truth()
    return arms, {**facts, "names": list(names), "parameters": parameters, "length": made.spec.length,
                  "kernel": config.kernel}  # fmt: skip


def ground_truth(draws: int = 5) -> dict[str, dict[str, float]] | None:
    """By program the mean AUROC of every score over draws of distractors; None without Tracr."""
    if not _tracr.installed():
        return None
    rows = {name: [_tracr.judged(name, seed) for seed in range(draws)] for name in _tracr.PROGRAMS}
    return {
        name: {what: float(np.mean([one[what] for one in found])) for what in found[0]}
        for name, found in rows.items()
    }


def of_names(names: Sequence[str], values: Any) -> dict[str, np.ndarray]:
    """``(seed, suite)`` by suite."""
    return {name: np.asarray(values, float)[:, k] for k, name in enumerate(names)}


def judge(made: Reasoning, net: Any, data: Any) -> np.ndarray:
    """``(seed, suite)`` accuracies."""

    def one(params: Any, structure: Any, data: Any) -> Array:
        return measures.accuracies(made.task, params, structure, data, made.number)

    args = net.params, net.structure, data
    return np.asarray(made.together("judging", one, (True, True, False), *args), float)


def owned(made: Reasoning, net: Any, y: Any, keep: Array) -> list[np.ndarray]:
    """``(seed, suite)``: losses of the whole and of nothing on the samples that circuits are found on.

    And the share of attention in the weights of the circuits.
    """
    train = made.samples.train
    y = jnp.broadcast_to(train.y, (len(made.run.seeds), *train.y.shape)) if y is None else y

    def one(params: Any, structure: Any, y: Any, keep: Any, data: Any) -> Any:
        few = measures.of_all(of_suites(data.replace(y=y), made.number, made.config.look))
        fraction = made.config.fraction
        full, empty, _ = circuit_measures.own(made.task, params, structure, few, "zero", fraction)
        return full, empty, measures.kinds_of(params, structure, keep)

    each = (True, True, True, True, False)
    of = made.together("own losses", one, each, net.params, net.structure, y, keep, train)
    return [np.asarray(side, float) for side in of]


def on_unseen(made: Reasoning, net: Any, keep: Array) -> np.ndarray:
    """``(seed, suite)``: what circuits recover of the gap on the samples that nothing was learned from."""

    def one(params: Any, structure: Any, keep: Any, data: Any) -> Array:
        return measures.recovered(made.task, params, structure, of_suites(data, made.number), keep)

    args = net.params, net.structure, keep, made.samples.test
    return np.asarray(made.together("unseen samples", one, (True, True, True, False), *args), float)


def relations(made: Reasoning, net: Any, keep: Array, arms: Arms) -> dict[str, Any]:
    """How the circuits of trained networks relate; adds to their entries, and an arm of random masks."""
    first = jax.tree.map(lambda a: a[0], net.params)
    parts = components(first, made.spec, parts=made.config.parts)

    def one(net: Any, keep: Any, key: Any, look: Any) -> Any:
        args = made.task, net.params, net.structure, look, keep, parts
        return measures.related(*args, key=purpose(key, CHANGE, 2))

    args = net, keep, made.keys, made.look
    got = made.together("relations", one, (True, True, True, False), *args)
    got = {name: np.asarray(value, float) for name, value in got.items()}
    apart = ~np.eye(made.number, dtype=bool)
    arms["random circuits"] = []
    for i, entry in enumerate(arms["trained"]):
        entry["overlap"], entry["shared"] = float(got["overlap"][i][apart].mean()), float(got["shared"][i])
        bridge = got["bridge"][i] / max(got["bridge"][i].mean(), 1e-30)
        entry["bridge"] = {
            f"{'heads' if head else 'MLP'} {layer + 1}": float(
                bridge[(parts.layer == layer) & (parts.head == head)].mean()
            )
            for layer in range(made.spec.layers)
            for head in (True, False)
        }
        backup = got["backup"][i]
        entry["backups"] = {name: float(np.mean(backup[:, k] > BACKUP)) for k, name in enumerate(made.names)}
        entry["backup"] = float(np.mean(backup > BACKUP))
        chance = float(got["chance"][i][apart].mean())
        arms["random circuits"].append(
            {"seed": entry["seed"], "diverged": entry["diverged"], "overlap": chance}
        )
    return {
        "overlaps": got["overlap"].mean(0).tolist(),
        "chances": got["chance"].mean(0).tolist(),
        # of seeds that have a gap
        "dependencies": np.ma.masked_invalid(got["dependencies"]).mean(0).filled(np.nan).tolist(),
    }


def transplants(made: Reasoning, net: Any, keep: Array) -> Arms:
    """Circuits of every seed in the network of the one before; nothing for a seed alone."""
    if len(made.run.seeds) < 2:
        return {}
    other = jax.tree.map(lambda a: jnp.roll(a, 1, 0), (net.params, net.structure))

    def one(net: Any, keep: Any, other: Any, key: Any, look: Any) -> Array:
        args = made.task, net.params, net.structure, keep, other, look
        return measures.transplanted(*args, key=purpose(key, CHANGE, 3))

    args = net, keep, other, made.keys, made.look
    moved = np.asarray(made.together("transplants", one, (True, True, True, True, False), *args), float)
    return {
        name: part
        for j, what in enumerate(MOVED)
        for name, part in lab.entries(
            made.run.seeds,
            [f"moved: {what}"],
            diverged=~np.isfinite(moved[..., j]).all(1),
            loss=moved[..., j].mean(1),
            by_suite=of_names(made.names, moved[..., j]),
        ).items()
    }


def rounded(made: Reasoning, net: Any) -> tuple[Arms, dict[str, Any]]:
    """Accuracy with few bits, by rule and budget; the mean rise of the loss by array and bits."""

    def rises(params: Any, structure: Any, look: Any) -> Array:
        return measures.sensitivities(made.task, params, structure, look)

    args = net.params, net.structure
    sens = np.asarray(made.together("sensitivities", rises, (True, True, False), *args, made.look), float)
    first = jax.tree.map(lambda a: a[0], (net.params, net.structure))
    leaves = {jax.tree_util.keystr(p): leaf for p, leaf in jax.tree.leaves_with_path(first[0])}
    paths = list(entries(first[1]))
    sizes = np.array([leaves[path].size for path in paths])
    attention = np.array([not ("'up'" in path or "'down'" in path) for path in paths])
    kinds = int(sizes[attention].sum()), int(sizes[~attention].sum())

    def one(params: Any, structure: Any, bits: Any, data: Any) -> Array:
        changed = compress.with_bits(params, paths, bits)
        return measures.accuracies(made.task, changed, structure, data, made.number)

    arms: Arms = {}
    for budget in made.config.budgets:
        for rule in RULES:
            if rule == "sensitivity":
                safe = np.nan_to_num(sens, nan=1e3, posinf=1e3)
                bits = np.stack([compress.allocate_bits(s, sizes, budget, BITS) for s in safe])
            else:
                a, m = bits_by_kind(rule, budget, *kinds)
                bits = np.broadcast_to(np.where(attention, a, m), sens.shape[:2])
            each, whole = (True, True, True, False), jnp.asarray(bits, jnp.int32)
            accuracy = made.together("rounding", one, each, *args, whole, made.samples.test)
            accuracy = np.asarray(accuracy, float)
            given = [bits[:, kind].mean(1).astype(float) for kind in (attention, ~attention)]
            arms |= lab.entries(
                made.run.seeds,
                [f"{budget} bits: {rule}"],
                diverged=~np.isfinite(accuracy).all(1),
                accuracy=accuracy.mean(1),
                bits={"attention": given[0], "MLP": given[1]},
            )
    return arms, {"paths": paths, "choices": list(BITS), "rises": sens.mean(0).tolist()}
