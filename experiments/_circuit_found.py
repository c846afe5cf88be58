"""What ``experiments.circuits`` says of the circuits of one density: entries by seed, pictures, relations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _circuit_measures as measures
from experiments._circuit_kinds import AGAIN, ARMS
from jaxnet import circuits, lab
from jaxnet.keys import CHANGE, purpose
from jaxnet.prediction import spearman
from jaxnet.train import Task, evaluate
from jaxnet.types import Array

PREDICTORS = ("bridge", "norm", "fisher", "activation")
DAMAGES = ("noise", "rounding")


def summarise(
    run: lab.Run[Any],
    task: Task,
    state: Any,
    nets: Sequence[Any],
    ys: Sequence[Array],
    together: Any,
    suite_of: Callable[..., Any],
    few: Any,
) -> lab.Found:
    """Measures networks and circuits; an entry per seed and arm."""
    config, keys, test = run.config, run.keys, run.split("test")
    arms, mode, fraction = dict[str, Any](), config.mode, config.fraction
    each = (True, True, True, True, False, False)

    def judge(net: Any, y: Any, keep: Any, key: Any, data: Any, test: Any) -> Any:
        suite = suite_of(y, data)
        mine = measures.own(task, net.params, net.structure, suite, mode, fraction)
        held = measures.holds(
            task, net.params, net.structure, suite, keep, mine.target, key=purpose(key, CHANGE)
        )
        return mine, held, evaluate(task, net.params, net.structure, test).accuracy

    for arm, name in enumerate(ARMS):
        args = nets[arm], ys[arm], state["keep"][:, arm], keys, few, test
        mine, held, accuracy = together("judging", judge, each, *args)
        sizes, reached = np.asarray(state["size"])[:, arm], np.asarray(state["reached"])[:, arm]
        kept = np.asarray(jnp.sum(state["keep"][:, arm], -1), float)
        arms |= lab.entries(
            run.seeds,
            [name],
            diverged=~np.isfinite(np.asarray(mine.full)).all(1),
            size=over_reached(sizes, reached),
            weights=over_reached(kept, reached),
            never=(~reached).mean(1),
            held=np.asarray(held, float).mean(1),
            accuracy=np.asarray(accuracy, float),
            full=np.asarray(mine.full, float).mean(1),
            empty=np.asarray(mine.empty, float).mean(1),
            error=np.asarray(state["error"], float)[:, arm].mean(1),
            by_class=np.where(reached, sizes, np.nan).tolist(),
        )
    for name, net in zip(AGAIN, nets[len(ARMS) :], strict=True):

        def only(net: Any, test: Any) -> Any:
            accuracy = evaluate(task, net.params, net.structure, test).accuracy
            return accuracy, jnp.sum(circuits.existing(net.params, net.structure))

        found = together("accuracy", only, (True, False), net, test)
        accuracy, count = (np.asarray(value, float) for value in found)
        arms |= lab.entries(run.seeds, [name], diverged=np.isnan(accuracy), accuracy=accuracy, weights=count)
    extra = relate(run, task, state, nets[0], ys[0], together, suite_of, few, arms["trained"])
    return lab.Found(arms, extra={"kernel": config.kernel, "sizes": list(config.sizes), **extra})


def over_reached(values: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """``(seed,)``, the mean over the classes whose fraction is reached; NaN without any."""
    total = np.where(reached, values, 0).sum(1)
    return np.where(reached.any(1), total / np.maximum(reached.sum(1), 1), np.nan)


def relate(
    run: lab.Run[Any],
    task: Task,
    state: Any,
    net: Any,
    y: Array,
    together: Any,
    suite_of: Callable[..., Any],
    few: Any,
    entries: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Of trained networks: how circuits relate; adds to their entries."""
    config, keys, keep = run.config, run.keys, state["keep"][:, 0]
    mode, fraction, sizes = config.mode, config.fraction, config.sizes
    count = len(run.seeds)

    def related(net: Any, y: Any, key: Any, keep: Any, data: Any) -> Any:
        suite, own = suite_of(y, data), (task, net.params, net.structure)
        steady = measures.stability(
            *own, suite, mode, fraction, config.bootstraps, key=purpose(key, CHANGE, 10)
        )
        units = measures.of_units(*own, suite, data, mode, key=purpose(key, CHANGE, 11))
        return measures.relations(*own, suite, keep, mode), steady, units

    each = (True, True, True, True, False)
    found, steady, units = together("relations", related, each, net, y, keys, keep, few)
    first = jax.tree.map(lambda a: a[0], (net.params, net.structure))
    number = int(jnp.sum(circuits.existing(*first)))
    compared = {}
    for score in measures.SCORES:
        if score == "exact ablation" and number > config.exact:
            continue

        def scored(net: Any, y: Any, key: Any, data: Any, score: str = score) -> Any:
            suite, own = suite_of(y, data), (task, net.params, net.structure)
            target = measures.own(*own, suite, mode, fraction).target
            return measures.scores_of(score, *own, suite, mode, target, key=purpose(key, CHANGE, 12))

        scores = together(f"scores by {score}", scored, (True, True, True, False), net, y, keys, few)

        def judged(net: Any, y: Any, scores: Any, data: Any) -> Any:
            own = task, net.params, net.structure
            return measures.judge_scores(*own, suite_of(y, data), scores, mode, fraction)

        compared[score] = together("judging scores", judged, (True, True, True, False), net, y, scores, few)
    units = {name: np.asarray(value, float) for name, value in units.items()}
    hidden = np.repeat(np.arange(len(sizes) - 2), sizes[1:-1])
    moved = transplants(run, task, net, y, keep, together, suite_of, few) if count > 1 else None
    apart = ~np.eye(keep.shape[1], dtype=bool)
    for i, entry in enumerate(entries):
        entry["overlap"] = float(np.mean(np.asarray(found["overlap"])[i][apart]))
        entry["shared"] = float(found["shared"][i])
        entry["stability"], entry["stability_random"] = (float(v) for v in np.asarray(steady)[i])
        entry["scores"] = {s: {m: float(v[i]) for m, v in part.items()} for s, part in compared.items()}
        entry["units"] = {
            f"{name} {damage}": spearman(units[name][i], units[damage][i])["rho"]
            for name in PREDICTORS
            for damage in DAMAGES
        }
        entry["units"]["bridge activation"] = spearman(units["bridge"][i], units["activation"][i])["rho"]
        bridge = units["bridge"][i] / max(units["bridge"][i].mean(), 1e-30)
        entry["bridge"] = {
            f"layer {n + 1}": float(bridge[hidden == n].mean()) for n in range(hidden.max() + 1)
        }
        if moved is not None:
            names = ("none", "circuit", "random")
            entry["transplant"] = {name: float(v) for name, v in zip(names, moved[i], strict=True)}
    locked: list[Any] = []
    if config.from_checkpoint is None:
        cuts = np.flatnonzero(np.diff(hidden)) + 1
        parts = np.split(np.arange(hidden.size), cuts)
        over = jax.jit(jax.vmap(lambda p: circuits.lock_in([p[:, here] for here in parts])))
        locked = np.asarray(over(state["past"]), float).mean(0).tolist()
    return {
        "weights": number,
        "locked": locked,
        "overlaps": np.asarray(found["overlap"], float).mean(0).tolist(),
        "dependencies": np.nan_to_num(np.asarray(found["dependencies"], float)).mean(0).tolist(),
        "images": np.asarray(found["images"], float)[0].tolist(),
        "likeness": likeness(np.asarray(found["images"], float)),
    }


def transplants(
    run: lab.Run[Any], task: Task, net: Any, y: Array, keep: Array, together: Any, suite_of: Any, few: Any
) -> np.ndarray:
    """``(seed, 3)``: mean loss of another seed's network as it is, with a circuit of this one, by chance."""
    theirs = jax.tree.map(lambda a: jnp.roll(a, 1, 0), (net.params, net.structure))

    def moved(net: Any, y: Any, keep: Any, theirs: Any, key: Any, data: Any) -> Any:
        suite = suite_of(y, data)
        loss = lambda params, structure, k: circuits.losses(task, params, structure, suite)[k]  # noqa: E731
        args = loss, net.params, net.structure, keep, *theirs
        return jnp.mean(measures.transplanted(*args, key=purpose(key, CHANGE, 13)), 0)

    each = (True, True, True, True, True, False)
    return np.asarray(together("transplants", moved, each, net, y, keep, theirs, run.keys, few), float)


def likeness(images: np.ndarray) -> dict[str, float | None]:
    """Mean correlation over pairs of seeds of the pictures ``(seed, class, in)`` of one class, and of two."""
    if len(images) < 2:
        return {"same": None, "other": None}
    flat = images - images.mean(-1, keepdims=True)
    flat = flat / np.maximum(np.linalg.norm(flat, axis=-1, keepdims=True), 1e-12)
    pairs = np.einsum("ain,bjn->abij", flat, flat)
    apart, same = ~np.eye(len(images), dtype=bool), np.eye(images.shape[1], dtype=bool)
    return {"same": float(pairs[apart][:, same].mean()), "other": float(pairs[apart][:, ~same].mean())}
